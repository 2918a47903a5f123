"""One look into a file: is it what its name says, may it be sent as this type, and what is in it.

Synchronous, for a thread. Whatever the bytes are, the answer is facts or ``Rejected``, within the bounds of the
settings; another exception is a fault of ours or of the store.
"""

from __future__ import annotations

from typing import BinaryIO

from hub.api import ErrorCode, Settings
from services.uploads.checking import formats
from services.uploads.checking.archives import Archive
from services.uploads.checking.facts import Facts, Rejected, too_large, unsupported
from services.uploads.checking.filenames import extension_of
from services.uploads.checking.formats import BY_NAME, FORMATS, UNKNOWN, Family, label
from services.uploads.checking.images import image_facts
from services.uploads.checking.polyglots import refuse_hidden_archive, refuse_image_polyglots, refuse_pdf_polyglots
from services.uploads.checking.sniffing import Sniffed, sniff
from services.uploads.checking.source import Budget, Source
from services.uploads.checking.tables import table_facts
from services.uploads.checking.types import DocumentType, names
from services.uploads.checking.workbooks import workbook_facts

_SAVE_AS_UTF8 = "; if it is text, save it as UTF-8"


def inspect(file: BinaryIO, size: int, type: DocumentType, filename: str, bounds: Settings) -> Facts:
    """Raises ``Rejected``. ``file`` has ``size`` bytes and is read by nobody else meanwhile; it is not closed."""
    if size == 0:
        raise Rejected(ErrorCode.EMPTY_CONTENT, f'"{filename}" is empty')
    if size > type.max_bytes:
        raise too_large(f'"{filename}" has {size} bytes; {type.name} takes {type.max_bytes}')
    type.check_extension(filename)
    source = Source(file, size, Budget(bounds.uploads_check_timeout_s))
    sniffed = sniff(source, bounds.uploads_max_entries)
    media_type = _agreed(sniffed, type, filename)
    return _look(source, media_type, sniffed, bounds)


def _agreed(sniffed: Sniffed, type: DocumentType, filename: str) -> str:
    """The media type on which bytes, name and document type agree."""
    extension = extension_of(filename)
    found = sniffed.media_types
    if sniffed.text and found[0] == formats.TEXT and extension in BY_NAME:
        found = (BY_NAME[extension],)
    named = [media_type for media_type in found if names(media_type, extension)]
    if not named:
        said = [media_type for media_type in type.media_types if names(media_type, extension)]
        raise unsupported(
            f'"{filename}" is not what its name says: {extension} is {label(said[0])}, the bytes are {label(found[0])}'
            + (_SAVE_AS_UTF8 if extension in BY_NAME and found[0] == UNKNOWN else "")
            if said
            else f'"{filename}" is {label(found[0])}'
        )
    for media_type in named:
        if media_type in type.media_types:
            return media_type
    taken = ", ".join(label(media_type) for media_type in type.media_types)
    raise unsupported(f'"{filename}" is {label(named[0])}; {type.name} takes {taken}')


def _look(source: Source, media_type: str, sniffed: Sniffed, bounds: Settings) -> Facts:
    family = FORMATS[media_type].family if media_type in FORMATS else Family.OTHER
    if family is Family.IMAGE:
        # First: it refuses what costs others time.
        refuse_image_polyglots(source, media_type)
        return Facts(media_type, image=image_facts(source, media_type, bounds.uploads_max_pixels))
    if family in (Family.ZIP, Family.WORKBOOK):
        archive = Archive(source, sniffed.entries or [], bounds)
        unpacked = archive.facts()
        table = workbook_facts(archive, bounds) if family is Family.WORKBOOK else None
        return Facts(media_type, table=table, archive=unpacked)
    if family is Family.PDF:
        refuse_pdf_polyglots(source)
    elif family in (Family.TABLE, Family.TEXT, Family.OTHER):
        refuse_hidden_archive(source)
    if family is Family.TABLE:
        return Facts(media_type, table=table_facts(source, media_type, bounds))
    return Facts(media_type)
