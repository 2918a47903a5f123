"""What a look into a file gives: facts, or the reason why it is refused. No I/O."""

from __future__ import annotations

from msgspec import Struct

from hub.api import ErrorCode


class Rejected(Exception):
    """The file is refused. ``message`` is for whoever sent it: what is wrong, and what to do about it."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ImageFacts(Struct, frozen=True):
    """By the image's header, in pixels."""

    width: int
    height: int


class SheetFacts(Struct, frozen=True):
    """One sheet of a workbook; ``rows`` counts those in which something stands, without the first of them."""

    name: str
    rows: int


class TableFacts(Struct, frozen=True, omit_defaults=True):
    """The first row and the number of those after it; ``more``: counting ended before the table did.

    Of a workbook ``header`` and ``rows`` are the first sheet's, and there is no encoding.
    """

    header: list[str]
    rows: int
    more: bool = False
    encoding: str | None = None
    delimiter: str | None = None
    sheets: list[SheetFacts] | None = None


class ArchiveFacts(Struct, frozen=True):
    """Files in the archive, and how many bytes they really are when unpacked."""

    entries: int
    unpacked_bytes: int


class Facts(Struct, frozen=True, omit_defaults=True):
    """What the bytes are, whatever was said about them."""

    media_type: str
    image: ImageFacts | None = None
    table: TableFacts | None = None
    archive: ArchiveFacts | None = None


def damaged(what: str) -> Rejected:
    """It begins as what it says, and cannot be read as such."""
    return Rejected(ErrorCode.UNSUPPORTED_MEDIA, f"the file is damaged: {what}; save it again and upload that")


def too_large(what: str) -> Rejected:
    """More than a bound allows; ``what`` names it."""
    return Rejected(ErrorCode.TOO_LARGE, what)


def unsupported(what: str) -> Rejected:
    """A kind of file that is not taken here."""
    return Rejected(ErrorCode.UNSUPPORTED_MEDIA, what)
