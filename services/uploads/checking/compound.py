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
_MAX_LISTS = 1024  # of tables: each leads to 8 MB or more
_NO_SECTOR = 0xFFFFFFFA
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
    tables = _Tables(source, header, size)
    sector = struct.unpack_from("<I", header, 48)[0]
    for _ in range(_MAX_SECTORS):
        raw = source.at((sector + 1) * size, size)
        if len(raw) < size:
            raise damaged("its directory is incomplete")
        for at in range(0, size, _ENTRY):
            length = struct.unpack_from("<H", raw, at + 64)[0]
            if raw[at + 66] and 2 <= length <= 64:
                yield raw[at : at + length - 2].decode("utf-16-le", "replace")
        sector = tables.follower(sector)
        if sector >= _NO_SECTOR:
            return
    raise damaged("its directory has no end")


class _Tables:
    """Which sector follows which. Where the tables of that lie says the header, and of large files a chain of lists."""

    def __init__(self, source: Source, header: bytes, size: int) -> None:
        self._source = source
        self._size = size
        self._places = list(struct.unpack_from("<109I", header, 76))
        self._list, lists = struct.unpack_from("<II", header, 68)
        self._lists_left = min(lists, _MAX_LISTS)

    def follower(self, sector: int) -> int:
        """Of a sector of the file. Raises ``Rejected``."""
        table, place = divmod(sector, self._size // 4)
        while table >= len(self._places) and self._lists_left and self._list < _NO_SECTOR:
            self._read_list()
        if table >= len(self._places) or self._places[table] >= _NO_SECTOR:
            raise damaged("its directory lies where no table leads")
        return self._numbers(self._places[table], place, 1)[0]

    def _read_list(self) -> None:
        *places, self._list = self._numbers(self._list, 0, self._size // 4)
        self._places += places
        self._lists_left -= 1

    def _numbers(self, sector: int, place: int, count: int) -> tuple[int, ...]:
        raw = self._source.at((sector + 1) * self._size + 4 * place, 4 * count)
        if len(raw) < 4 * count:
            raise damaged("it is incomplete")
        return struct.unpack(f"<{count}I", raw)
