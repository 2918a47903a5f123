"""Files that are two things at once: one for whoever checks them, another for the program that opens them.

What a format is begins at its first byte (``sniffing``); here is what else would be found in it: an archive from
behind, a page or script in its beginning, another file behind its end. Phones append to their pictures on purpose
(previews, gain maps, short films), so what may follow an image is known by its kind, not forbidden.
"""

from __future__ import annotations

import re

from services.uploads.checking import formats
from services.uploads.checking.endings import end_of_image
from services.uploads.checking.facts import Rejected, damaged, unsupported
from services.uploads.checking.source import BLOCK, Source
from services.uploads.checking.zip_files import ends_as_zip

# How far browsers, PDF readers and PHP's users look for something that they know.
_BEGIN = 4096
# Padding is smaller. Of JPEGs as much is taken as the image itself has: makers of phones append what nobody documents.
_MAX_TRAILER = 65_536
_PDF_END = 65_536
_PADDING = b"\0\t\n\x0c\r "
_MARKUP = re.compile(rb"<(\?php|script|html|!doctype|body|iframe|svg)\b|%PDF-\d", re.IGNORECASE)
# Long enough to be no accident in megabytes of a film.
_ARCHIVE = re.compile(
    rb"Rar!\x1a\x07|7z\xbc\xaf\x27\x1c|%PDF-[12]\.\d|<\?php\s|<script[\s>]"
    # Files of a ZIP, in place and in its directory: no method has a number above 255.
    rb"|PK\x03\x04.{5}\0|PK\x01\x02.{7}\0",
    re.IGNORECASE | re.DOTALL,
)
_OVERLAP = 16
_NO_ZIP = "it is an archive as well, when it is opened from behind; save it again with a program that makes such files"


def refuse_image_polyglots(source: Source, media_type: str) -> None:
    """Raises ``Rejected``: markup in its beginning, or behind its end what is not part of a picture."""
    if _MARKUP.search(source.at(0, _BEGIN)):
        raise unsupported(
            "the image has a page, a script or a PDF in its beginning; save it again without its metadata"
        )
    _refuse_zip(source)
    end = end_of_image(source, media_type)
    if end is not None and end < source.size:
        _check_trailer(source, end, media_type)
    elif media_type == formats.JPEG and source.at(source.size - 2, 2) != b"\xff\xd9":
        # Without an end marker nobody knows what is the picture's and what follows it.
        _search(source, 0)


def refuse_pdf_polyglots(source: Source) -> None:
    """Raises ``Rejected``: an archive as well, incomplete, or something long behind its end."""
    _refuse_zip(source)
    size = _size_without_padding(source)
    start = max(0, size - _PDF_END)
    if source.at(start, size - start).rfind(b"%%EOF") < 0:
        raise damaged("its end is missing")


def _size_without_padding(source: Source) -> int:
    """Zeros and white space at the end do not count: scanners and tapes fill whole blocks."""
    size = source.size
    while size > 0:
        source.budget.tick()
        begin = max(0, size - BLOCK)
        content = source.at(begin, size - begin).rstrip(_PADDING)
        if content:
            return begin + len(content)
        size = begin
    return 0


def refuse_hidden_archive(source: Source) -> None:
    """For all that is no archive itself. Raises ``Rejected``."""
    _refuse_zip(source)


def _refuse_zip(source: Source) -> None:
    if ends_as_zip(source):
        raise unsupported(_NO_ZIP)


def _check_trailer(source: Source, end: int, media_type: str) -> None:
    counted = _search(source, end)
    if counted > _MAX_TRAILER and not (media_type == formats.JPEG and (counted <= end or _of_a_phone(source, end))):
        raise _hidden()


def _search(source: Source, start: int) -> int:
    """Raises ``Rejected`` for another file in what is behind ``start``. Returns how much that is, padding aside."""
    counted, before = 0, b""
    for block in source.blocks(start):
        source.budget.tick()
        content = block.strip(b"\0")
        if content and _ARCHIVE.search(before + block):
            raise _hidden()
        before = block[-_OVERLAP:]
        counted += len(content)
    return counted


def _of_a_phone(source: Source, end: int) -> bool:
    """Another JPEG (preview, gain map, depth), a film (motion photo), or Samsung's list of such things at the end."""
    begin = source.at(end, _MAX_TRAILER)
    return (
        begin.lstrip(b"\0").startswith(b"\xff\xd8\xff")
        or begin[4:8] == b"ftyp"
        or source.at(source.size - 4, 4) == b"SEFT"
    )


def _hidden() -> Rejected:
    return unsupported("something else follows the end of the image; save it again with a program for images")
