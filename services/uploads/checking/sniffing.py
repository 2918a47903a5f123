"""What the bytes are. The name and the client's word are not asked; only among texts the name decides.

puremagic knows signatures; it ranks guesses and cannot tell apart what shares one. So: a container (ZIP, compound file,
ISO media, RIFF) is told by what is in it; a signature at the very beginning is believed when it is of a format
of ours; then text, if it is some; then whatever puremagic believes.
"""

from __future__ import annotations

import re
import struct
from typing import Any

import puremagic
from msgspec import Struct

from services.uploads.checking import formats
from services.uploads.checking.compound import compound_media_type
from services.uploads.checking.facts import Rejected
from services.uploads.checking.formats import FORMATS, UNKNOWN, Family
from services.uploads.checking.source import Source
from services.uploads.checking.text import is_text
from services.uploads.checking.zip_files import EMPTY, SIGNATURE, Entry, read_directory

HEAD = 65_536
_COMPOUND = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# Shorter signatures are too many things' beginning.
_MIN_SIGNATURE, _MIN_GUESS = 3, 4
_MAX_MIMETYPE = 256
# How puremagic writes what has a better known name.
_ALIASES = {
    "image/x-ms-bmp": formats.BMP,
    "application/x-gzip": "application/gzip",
    "application/x-rar-compressed": "application/vnd.rar",
    "application/excel": formats.XLS,
}
_BRANDS = {
    formats.HEIC: (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
    formats.HEIF: (b"mif1", b"msf1", b"mif2"),
    formats.AVIF: (b"avif", b"avis"),
    "video/quicktime": (b"qt  ",),
    "video/mp4": (b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"M4V ", b"MSNV", b"dash"),
}
# Some programs write a mark or an empty line before it, and readers look past that.
_PDF = re.compile(rb"(\xef\xbb\xbf)?[\t\n\x0c\r ]{0,1000}%PDF-\d")
_BMP_HEADERS = (12, 40, 52, 56, 108, 124)
_MARKUP = (
    (re.compile(rb"<\?php", re.I), formats.PHP),
    (re.compile(rb"#!"), formats.SCRIPT),
    (
        re.compile(
            rb"(<\?xml[^>]{0,500}>\s*)?(<!--.{0,1000}?-->\s*)?(<!doctype svg[^>]{0,500}>\s*)?<svg\b", re.I | re.S
        ),
        formats.SVG,
    ),
    (
        re.compile(
            rb"(<\?xml[^>]{0,500}>\s*)?(<!--.{0,1000}?-->\s*)?<(!doctype html|html|head|body|script|iframe)\b",
            re.I | re.S,
        ),
        formats.HTML,
    ),
    (re.compile(rb"<\?xml\b", re.I), formats.XML),
)
# A page as well, unless it is called Markdown, which often begins so.
_MARKUP_OR_MARKDOWN = re.compile(rb"(<!--.{0,1000}?-->\s*)?<(title|h1)\b", re.I | re.S)
_PARTS = (
    ("xl/workbook.xml", formats.XLSX, formats.XLSM),
    ("xl/workbook.bin", formats.XLSB, formats.XLSB),
    ("word/document.xml", formats.DOCX, formats.DOCM),
    ("ppt/presentation.xml", formats.PPTX, formats.PPTM),
)


class Sniffed(Struct):
    """``media_types``: the most certain first, one only if it is certain. ``entries``: of a ZIP."""

    media_types: tuple[str, ...]
    entries: list[Entry] | None = None
    text: bool = False


def sniff(source: Source, max_entries: int) -> Sniffed:
    """Looks at the beginning, the end and the directory of a container. Raises ``Rejected`` for one that is damaged."""
    head = source.at(0, HEAD)
    if head[:4] in (SIGNATURE, EMPTY):
        entries = read_directory(source, max_entries)
        return Sniffed((_in_zip(source, entries),), entries)
    certain = _in_container(source, head)
    if certain:
        return Sniffed((certain,))
    guesses = _guesses(head, source.at(source.size - HEAD, HEAD))
    for guess in guesses:
        known = FORMATS.get(_media_type(guess))
        if known and known.family is not Family.TEXT and guess.offset == 0 and len(guess.byte_match) >= _MIN_SIGNATURE:
            return Sniffed((known.media_type,))
    if is_text(head) and is_text(source.at(source.size - HEAD, HEAD), begins=False):
        return Sniffed(_markup(head), text=True)
    believed = [
        _media_type(guess) for guess in guesses if len(guess.byte_match) >= _MIN_GUESS and 0 <= guess.offset <= 8
    ]
    return Sniffed(tuple(dict.fromkeys([*filter(None, believed), UNKNOWN])))


def _in_container(source: Source, head: bytes) -> str | None:
    if head.startswith(_COMPOUND):
        return compound_media_type(source)
    if _PDF.match(head):
        return formats.PDF
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return formats.WEBP
    if head[4:8] == b"ftyp":
        return _brand(head)
    if head.startswith(b"BM") and len(head) >= 18 and struct.unpack_from("<I", head, 14)[0] in _BMP_HEADERS:
        return formats.BMP
    return None


def _brand(head: bytes) -> str | None:
    """The major brand of an ISO media file decides; of "mif1" (any HEIF) the first of the others that says more."""
    length = min(struct.unpack_from(">I", head)[0], 256)
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, length - 3, 4))]
    found = [media for brand in brands for media, known in _BRANDS.items() if brand in known]
    if not found or head[8:12] not in (brand for known in _BRANDS.values() for brand in known):
        return None
    return (
        next((media for media in found if media != formats.HEIF), formats.HEIF)
        if found[0] == formats.HEIF
        else found[0]
    )


def _in_zip(source: Source, entries: list[Entry]) -> str:
    names = {entry.name for entry in entries}
    if "[Content_Types].xml" in names:
        macros = any(name.lower().endswith(("vbaproject.bin", "vbadata.xml")) for name in names)
        for part, plain, with_macros in _PARTS:
            if part in names:
                return with_macros if macros else plain
    first = entries[0] if entries else None
    if first and first.name == "mimetype" and first.method == 0 and first.unpacked <= _MAX_MIMETYPE:
        said = source.at(first.offset + 30 + len("mimetype"), first.unpacked).decode("latin-1")
        if said in FORMATS and FORMATS[said].family is Family.ZIP:
            return said
    return formats.ZIP


def _guesses(head: bytes, tail: bytes) -> list[Any]:
    try:
        return list(puremagic.magic_string(head + tail if tail != head else head))
    except puremagic.PureError:
        return []


def _media_type(guess: Any) -> str:
    said = str(guess.mime_type)
    return _ALIASES.get(said, said)


def _markup(head: bytes) -> tuple[str, ...]:
    """Texts that programs run or show otherwise than as text; the most certain first."""
    begin = head.lstrip(b"\xef\xbb\xbf").lstrip()
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        begin = head[2:].replace(b"\0", b"").lstrip()
    if _MARKUP_OR_MARKDOWN.match(begin):
        return (formats.HTML, formats.MARKDOWN)
    return (next((media_type for pattern, media_type in _MARKUP if pattern.match(begin)), formats.TEXT),)


__all__ = ("Rejected", "Sniffed", "sniff")
