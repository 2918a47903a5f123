"""Microsoft's compound files (.xls, .doc, .ppt and encrypted new ones): what they are, by the names of their streams.

Nothing in them is opened.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from services.uploads.checking import formats
from services.uploads.checking.facts import damaged, unsupported
from services.uploads.checking.source import Source

_HEADER = 512
_ENTRY = 128
_MAX_SECTORS = 256  # of the directory: a thousand streams or more
_STREAMS = (
    ("workbook", formats.XLS),
    ("book", formats.XLS),
    ("worddocument", formats.DOC),
    ("powerpoint document", formats.PPT),
)
_MACROS = ("vba", "_vba_project", "_vba_project_cur", "macros")


def compound_media_type(source: Source) -> str:
    """Raises ``Rejected`` when it is damaged, has macros, or is encrypted."""
    names = {name.lower() for name in _names(source)}
    if "encryptedpackage" in names:
        raise unsupported("the document is encrypted, and nobody could check it; send it without a password")
    if names.intersection(_MACROS):
        raise unsupported("the document has macros; save it without them")
    return next((media_type for stream, media_type in _STREAMS if stream in names), formats.COMPOUND)


def _names(source: Source) -> Iterator[str]:
    header = source.at(0, _HEADER)
    if len(header) < _HEADER:
        raise damaged("its header is incomplete")
    shift = struct.unpack_from("<H", header, 30)[0]
    if shift not in (9, 12):
        raise damaged("its header is wrong")
    size = 1 << shift
    tables = struct.unpack_from("<109I", header, 76)
    sector = struct.unpack_from("<I", header, 48)[0]
    for _ in range(_MAX_SECTORS):
        raw = source.at((sector + 1) * size, size)
        if len(raw) < size:
            raise damaged("its directory is incomplete")
        for at in range(0, size, _ENTRY):
            length = struct.unpack_from("<H", raw, at + 64)[0]
            if raw[at + 66] and 2 <= length <= 64:
                yield raw[at : at + length - 2].decode("utf-16-le", "replace")
        sector = _next(source, tables, sector, size)
        if sector >= 0xFFFFFFFA:
            return
    raise damaged("its directory has no end")


def _next(source: Source, tables: tuple[int, ...], sector: int, size: int) -> int:
    table, place = divmod(sector, size // 4)
    if table >= len(tables) or tables[table] >= 0xFFFFFFFA:
        raise damaged("its directory lies where no table leads")
    raw = source.at((tables[table] + 1) * size + 4 * place, 4)
    if len(raw) < 4:
        raise damaged("it is incomplete")
    return int(struct.unpack("<I", raw)[0])
