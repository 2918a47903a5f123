"""What a look into a file gives: facts, or the reason why it is refused. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from hub.api import ErrorCode


class Rejected(Exception):
    """The file is refused. ``message`` is for whoever sent it: what is wrong, and what to do about it."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


# Facts are told in events, which are bounded, beside metadata and shares.
_HEADER_BYTES: Final = 12_288
_SHEETS_BYTES: Final = 12_288


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

    ``lines``: a quote is not closed, so lines were counted.
    Of a workbook ``header`` and ``rows`` are the first sheet's, and there is no encoding.
    """

    header: list[str]
    rows: int
    more: bool = False
    encoding: str | None = None
    delimiter: str | None = None
    lines: bool = False
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


def told_header(cells: Sequence[str]) -> list[str]:
    """As many of the first ``cells`` as are told."""
    return list(cells[: _fitting(cells, _HEADER_BYTES)])


def told_sheets(sheets: Sequence[SheetFacts]) -> list[SheetFacts]:
    """As many of the first ``sheets`` as are told."""
    return list(sheets[: _fitting(sheets, _SHEETS_BYTES)])


def _fitting(values: Sequence[object], most_bytes: int) -> int:
    """How many of the first are no more than ``most_bytes`` of JSON together."""
    left = most_bytes
    for count, value in enumerate(values):
        left -= len(msgspec.json.encode(value)) + 2
        if left < 0:
            return count
    return len(values)


def damaged(what: str) -> Rejected:
    """It begins as what it says, and cannot be read as such."""
    return Rejected(ErrorCode.UNSUPPORTED_MEDIA, f"the file is damaged: {what}; save it again and upload that")


def too_large(what: str) -> Rejected:
    """More than a bound allows; ``what`` names it."""
    return Rejected(ErrorCode.TOO_LARGE, what)


def unsupported(what: str) -> Rejected:
    """A kind of file that is not taken here."""
    return Rejected(ErrorCode.UNSUPPORTED_MEDIA, what)
