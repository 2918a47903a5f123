"""Files as people send them, made in code: small, and valid."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

from PIL import Image

from hub.api import Settings
from services.uploads.checking import DocumentType, DocumentTypes, Facts, inspect

PDF = (
    b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 3 3]>>endobj\n"
    b"xref\n0 4\n0000000000 65535 f \ntrailer<</Size 4/Root 1 0 R>>\nstartxref\n190\n%%EOF\n"
)
CONTENT_TYPES = '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def settings(**overrides: Any) -> Settings:
    return Settings(redis_url="redis://unused", database_url="postgresql://unused", **overrides)


def kind(name: str, **overrides: Any) -> DocumentType:
    return DocumentTypes.load(settings(**overrides)).get(name)


def look(data: bytes, filename: str, document_type: str = "document", **overrides: Any) -> Facts:
    """What ``inspect`` says about these bytes."""
    bounds = settings(**overrides)
    return inspect(io.BytesIO(data), len(data), DocumentTypes.load(bounds).get(document_type), filename, bounds)


def image(format: str, size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_mandelbrot(size, (-2, -1, 1, 1), 20).convert("P" if format == "GIF" else "RGB").save(
        file, format, **options
    )
    return file.getvalue()


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def heic(size: tuple[int, int] = (4032, 3024), brand: bytes = b"heic") -> bytes:
    """The boxes of a phone's picture that say its size; a thumbnail and a tile are smaller."""
    extents = b"".join(
        box(b"ispe", struct.pack(">3I", 0, width, height)) for width, height in ((512, 512), size, (320, 240))
    )
    meta = box(b"meta", bytes(4) + box(b"hdlr", bytes(25)) + box(b"iprp", box(b"ipco", extents)))
    return box(b"ftyp", brand + bytes(4) + b"mif1" + brand) + meta + box(b"mdat", bytes(range(256)) * 4)


def archive(files: dict[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return file.getvalue()


def sheet(rows: list[list[str]]) -> str:
    """Rows of raw cells, ``<c …>…</c>``."""
    lines = "".join(f"<row>{''.join(row)}</row>" for row in rows)
    return f'<?xml version="1.0"?><worksheet xmlns="{MAIN}"><sheetData>{lines}</sheetData></worksheet>'


def shared(index: int) -> str:
    return f'<c t="s"><v>{index}</v></c>'


def number(value: object) -> str:
    return f"<c><v>{value}</v></c>"


def workbook_files(sheets: dict[str, str], strings: str = "") -> dict[str, bytes | str]:
    """The parts of a workbook, so that a test can add to them or take some away."""
    listed = "".join(
        f'<sheet name="{name}" sheetId="{index}" r:id="rId{index}"/>' for index, name in enumerate(sheets, 1)
    )
    relations = "".join(
        f'<Relationship Id="rId{index}" Type="{RELATIONS}/worksheet" Target="worksheets/sheet{index}.xml"/>'
        for index in range(1, len(sheets) + 1)
    )
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    files: dict[str, bytes | str] = {
        "[Content_Types].xml": CONTENT_TYPES,
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{RELATIONS}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}">{relations}</Relationships>',
    }
    for index, text in enumerate(sheets.values(), 1):
        files[f"xl/worksheets/sheet{index}.xml"] = text
    if strings:
        files["xl/sharedStrings.xml"] = f'<sst xmlns="{MAIN}">{strings}</sst>'
    return files


def workbook() -> bytes:
    """Two sheets; the first with a header of shared strings, two rows, and an empty one."""
    guests = sheet([[shared(0), shared(1)], [number(1), shared(1)], [number(2), shared(0)], ["<c/>"]])
    rooms = sheet([['<c t="inlineStr"><is><t>room</t></is></c>'], [number(7)]])
    strings = "<si><t>guest</t></si><si><r><t>first </t></r><r><t>name</t></r></si>"
    return archive(workbook_files({"Guests": guests, "Rooms": rooms}, strings))


def large_compound(stream: str, tables: int, lists: int | None = None) -> bytes:
    """One whose directory lies at the end, in two sectors, behind so many tables; most of the file is nothing.

    ``lists``: how many the header says that there are, of what leads to the tables that the header has no place for.
    """
    needed = -(-(tables - 109) // 127)
    first = tables * 128 - 2  # the directory: the last two sectors that the tables know
    file = bytearray((tables * 128 + 1) * 512)

    def put(sector: int, *numbers: int) -> None:
        struct.pack_into(f"<{len(numbers)}I", file, (sector + 1) * 512, *numbers)

    file[:512] = compound(stream)[:512]
    struct.pack_into("<II", file, 44, tables, first)
    struct.pack_into("<II", file, 68, tables, needed if lists is None else lists)
    struct.pack_into("<109I", file, 76, *range(109))
    for index in range(needed):
        known = [place if place < tables else 0xFFFFFFFF for place in range(109 + 127 * index, 236 + 127 * index)]
        put(tables + index, *known, 0xFFFFFFFE if index + 1 == needed else tables + index + 1)
    put(tables - 1, *[0xFFFFFFFE] * 126, first + 1, 0xFFFFFFFE)
    file[(first + 2) * 512 :] = compound(stream)[1024:]
    return bytes(file)


def compound(*streams: str) -> bytes:
    """A Microsoft compound file with these streams, all empty."""
    header = bytearray(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504))
    struct.pack_into("<HHHHH", header, 24, 0x3E, 3, 0xFFFE, 9, 6)
    struct.pack_into("<II", header, 44, 1, 1)  # one table, the directory is sector 1
    struct.pack_into("<109I", header, 76, 0, *[0xFFFFFFFF] * 108)
    table = struct.pack("<128I", 0xFFFFFFFD, 0xFFFFFFFE, *[0xFFFFFFFF] * 126)
    entries = bytearray()
    for name in ("Root Entry", *streams):
        raw = name.encode("utf-16-le") + b"\0\0"
        entries += raw.ljust(64, b"\0") + struct.pack("<HB", len(raw), 5 if name == "Root Entry" else 2) + bytes(61)
    return bytes(header) + table + bytes(entries.ljust(512, b"\0"))
