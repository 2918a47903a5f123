"""The kinds of files that are known by more than their first bytes: media type, what to call it, extensions. No I/O."""

from __future__ import annotations

from enum import Enum, auto

from msgspec import Struct


class Family(Enum):
    """How a file of the format is looked into."""

    PDF = auto()
    IMAGE = auto()
    ZIP = auto()
    WORKBOOK = auto()
    COMPOUND = auto()
    TABLE = auto()
    TEXT = auto()
    PACKED = auto()
    OTHER = auto()


class Format(Struct, frozen=True):
    """``label`` is what people call it."""

    media_type: str
    label: str
    extensions: tuple[str, ...]
    family: Family


PDF = "application/pdf"
JPEG = "image/jpeg"
PNG = "image/png"
GIF = "image/gif"
WEBP = "image/webp"
TIFF = "image/tiff"
BMP = "image/bmp"
HEIC = "image/heic"
HEIF = "image/heif"
AVIF = "image/avif"
ZIP = "application/zip"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSM = "application/vnd.ms-excel.sheet.macroenabled.12"
XLSB = "application/vnd.ms-excel.sheet.binary.macroenabled.12"
DOCM = "application/vnd.ms-word.document.macroenabled.12"
PPTM = "application/vnd.ms-powerpoint.presentation.macroenabled.12"
ODS = "application/vnd.oasis.opendocument.spreadsheet"
ODT = "application/vnd.oasis.opendocument.text"
ODP = "application/vnd.oasis.opendocument.presentation"
XLS = "application/vnd.ms-excel"
DOC = "application/msword"
PPT = "application/vnd.ms-powerpoint"
COMPOUND = "application/x-ole-storage"
CSV = "text/csv"
TSV = "text/tab-separated-values"
TEXT = "text/plain"
MARKDOWN = "text/markdown"
HTML = "text/html"
XML = "application/xml"
SVG = "image/svg+xml"
PHP = "application/x-httpd-php"
SCRIPT = "application/x-sh"
RTF = "application/rtf"
UNKNOWN = "application/octet-stream"

FORMATS: dict[str, Format] = {
    each.media_type: each
    for each in (
        Format(PDF, "a PDF", (".pdf",), Family.PDF),
        Format(JPEG, "a JPEG image", (".jpg", ".jpeg", ".jpe", ".jfif"), Family.IMAGE),
        Format(PNG, "a PNG image", (".png",), Family.IMAGE),
        Format(GIF, "a GIF image", (".gif",), Family.IMAGE),
        Format(WEBP, "a WebP image", (".webp",), Family.IMAGE),
        Format(TIFF, "a TIFF image", (".tif", ".tiff"), Family.IMAGE),
        Format(BMP, "a BMP image", (".bmp", ".dib"), Family.IMAGE),
        Format(HEIC, "a HEIC image", (".heic", ".heif"), Family.IMAGE),
        Format(HEIF, "a HEIF image", (".heif", ".heic"), Family.IMAGE),
        Format(AVIF, "an AVIF image", (".avif",), Family.IMAGE),
        Format(ZIP, "a ZIP archive", (".zip",), Family.ZIP),
        Format(XLSX, "an Excel workbook", (".xlsx",), Family.WORKBOOK),
        Format(DOCX, "a Word document", (".docx",), Family.ZIP),
        Format(PPTX, "a PowerPoint presentation", (".pptx",), Family.ZIP),
        Format(XLSM, "an Excel workbook with macros", (".xlsm",), Family.WORKBOOK),
        Format(XLSB, "a binary Excel workbook", (".xlsb",), Family.ZIP),
        Format(DOCM, "a Word document with macros", (".docm",), Family.ZIP),
        Format(PPTM, "a PowerPoint presentation with macros", (".pptm",), Family.ZIP),
        Format(ODS, "an OpenDocument spreadsheet", (".ods",), Family.ZIP),
        Format(ODT, "an OpenDocument text", (".odt",), Family.ZIP),
        Format(ODP, "an OpenDocument presentation", (".odp",), Family.ZIP),
        Format(XLS, "an old Excel workbook", (".xls",), Family.COMPOUND),
        Format(DOC, "an old Word document", (".doc",), Family.COMPOUND),
        Format(PPT, "an old PowerPoint presentation", (".ppt",), Family.COMPOUND),
        Format(COMPOUND, "a Microsoft compound file", (), Family.COMPOUND),
        Format(CSV, "a CSV table", (".csv",), Family.TABLE),
        Format(TSV, "a table with tabs", (".tsv", ".tab"), Family.TABLE),
        Format(TEXT, "a plain text", (".txt", ".text", ".log"), Family.TEXT),
        Format(MARKDOWN, "a Markdown text", (".md", ".markdown"), Family.TEXT),
        Format(HTML, "HTML", (".html", ".htm"), Family.TEXT),
        Format(XML, "XML", (".xml",), Family.TEXT),
        Format(SVG, "an SVG image", (".svg",), Family.TEXT),
        Format(PHP, "a PHP script", (".php",), Family.TEXT),
        Format(SCRIPT, "a script", (".sh",), Family.TEXT),
        Format(RTF, "an RTF document", (".rtf",), Family.OTHER),
        Format("application/gzip", "a gzip archive", (".gz", ".tgz"), Family.PACKED),
        Format("application/x-7z-compressed", "a 7-Zip archive", (".7z",), Family.PACKED),
        Format("application/vnd.rar", "a RAR archive", (".rar",), Family.PACKED),
        Format("application/vnd.microsoft.portable-executable", "a Windows program", (".exe", ".dll"), Family.OTHER),
        Format("video/mp4", "an MP4 video", (".mp4", ".m4v"), Family.OTHER),
        Format("video/quicktime", "a QuickTime video", (".mov", ".qt"), Family.OTHER),
    )
}

# Text is what its name says: nothing in the bytes tells a CSV from a list of names.
BY_NAME: dict[str, str] = {
    extension: each.media_type
    for each in FORMATS.values()
    if each.media_type in (CSV, TSV, TEXT, MARKDOWN)
    for extension in each.extensions
}


def label(media_type: str) -> str:
    """For messages: what it is called, and its media type."""
    known = FORMATS.get(media_type)
    if media_type == UNKNOWN:
        return "nothing that is known here"
    return f"{known.label} ({media_type})" if known else media_type
