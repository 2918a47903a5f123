"""Is a file what it says, and what is in it. Pure, but for the file it is given.

``DocumentTypes`` says what may be sent as what, ``check_filename`` how it may be called, ``inspect`` looks
at the bytes, a ``Scanner`` for viruses.
"""

from services.uploads.checking.facts import ArchiveFacts, Facts, ImageFacts, Rejected, SheetFacts, TableFacts
from services.uploads.checking.filenames import check_filename
from services.uploads.checking.inspecting import inspect
from services.uploads.checking.scanner import Scanner, open_scanner
from services.uploads.checking.types import DocumentType, DocumentTypes

__all__ = (
    "ArchiveFacts",
    "DocumentType",
    "DocumentTypes",
    "Facts",
    "ImageFacts",
    "Rejected",
    "Scanner",
    "SheetFacts",
    "TableFacts",
    "check_filename",
    "inspect",
    "open_scanner",
)
