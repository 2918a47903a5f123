"""Where an image ends: the place behind its end marker, found by its structure and not by a search for bytes.

No pixel is decoded. All raise ``Rejected`` for an image that is incomplete.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from services.uploads.checking import formats
from services.uploads.checking.facts import Rejected, damaged, unsupported
from services.uploads.checking.source import Source

# In the data of a scan 0xff is followed by 0 (it is data), by D0 to D7 (restart) or by itself; else a marker begins.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_NOT_FILLING = re.compile(rb"[^\xff]", re.DOTALL)
# So many parts cost a moment, and no program makes more: segments of a JPEG; chunks and blocks, beside those that are
# at least so long on the average.
_MAX_SEGMENTS = 10_000
_MAX_PIECES, _CHUNK, _PIECE = 65_536, 1024, 16
_TURN = 4096


def end_of_image(source: Source, media_type: str) -> int | None:
    """``None``: nothing in the format says where it ends."""
    find = _FINDERS.get(media_type)
    return find(source) if find else None


def _jpeg(source: Source) -> int:
    """Some cameras write no end marker: then the data of its last scan go on to the end of the file."""
    position, segments = 2, 0
    while True:
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise _too_many()
        source.budget.tick()
        position = _behind_filling(source, position)
        raw = source.at(position, 4)
        if len(raw) < 2 or raw[0] != 0xFF:
            raise damaged("the image is incomplete")
        marker = raw[1]
        if marker == _END:
            return position + 2
        if marker in _WITHOUT_LENGTH:
            position += 2
            continue
        if len(raw) < 4 or marker in (0, _START):
            raise damaged("the image is incomplete")
        position += 2 + max(2, struct.unpack_from(">H", raw, 2)[0])
        if marker == _SCAN:
            begin, position = position, _end_of_scan(source, position)
            if begin < position == source.size:
                return position


def _behind_filling(source: Source, position: int) -> int:
    """Any number of 0xff may stand before a marker; the last one is the marker's."""
    if source.at(position, 2) != b"\xff\xff":
        return position
    while position < source.size:
        source.budget.tick()
        block, start = source.around(position)
        found = _NOT_FILLING.search(block, start)
        if found:
            return position + found.start() - start - 1
        position += len(block) - start
    raise damaged("the image is incomplete")


def _end_of_scan(source: Source, position: int) -> int:
    """Where a marker follows, or the file ends."""
    while position < source.size:
        source.budget.tick()
        block, start = source.around(position)
        if len(block) - start == 1:
            # A lone 0xff at the end of the block may begin a marker.
            source.at(position, 2)
            block, start = source.around(position)
        found = _MARKER.search(block, start)
        if found:
            return position + found.start() - start
        position += max(1, len(block) - start - 1)
    return source.size


def _png(source: Source) -> int:
    position, chunks = 8, 0
    while True:
        chunks += 1
        if chunks > _MAX_PIECES + position // _CHUNK:
            raise _too_many()
        source.budget.tick()
        raw = source.at(position, 8)
        if len(raw) < 8:
            raise damaged("the image is incomplete")
        length, kind = int.from_bytes(raw[:4], "big"), raw[4:]
        position += 12 + length
        if position > source.size:
            raise damaged("the image is incomplete")
        if kind == b"IEND":
            return position


def _gif(source: Source) -> int:
    head = source.at(0, 13)
    if len(head) < 13:
        raise damaged("the image is incomplete")
    position, pieces = 13 + _colours(head[10]), 0
    while True:
        if pieces > _MAX_PIECES + position // _PIECE:
            raise _too_many()
        raw = source.at(position, 10)
        if raw[:1] == b";":
            return position + 1
        if raw[:1] == b"!":
            position, pieces = _end_of_blocks(source, position + 2, pieces)
        elif raw[:1] == b"," and len(raw) == 10:
            position, pieces = _end_of_blocks(source, position + 11 + _colours(raw[9]), pieces)
        else:
            raise damaged("the image is incomplete")


def _colours(flags: int) -> int:
    """Bytes of a table of colours, by the byte that says whether there is one."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _end_of_blocks(source: Source, position: int, pieces: int) -> tuple[int, int]:
    """Behind the empty one. ``pieces``: those before; programs make long ones."""
    while position < source.size:
        source.budget.tick()
        block, at = source.around(position)
        begin, last = at, min(len(block), at + _TURN)
        while at < last and block[at]:
            at += 1 + block[at]
            pieces += 1
        position += at - begin
        if at < last:
            return position + 1, pieces + 1
        if pieces > _MAX_PIECES + position // _PIECE:
            raise _too_many()
    raise damaged("the image is incomplete")


def _too_many() -> Rejected:
    return unsupported("the image is in far more pieces than programs make; save it again")


def _webp(source: Source) -> int:
    head = source.at(0, 12)
    if len(head) < 12:
        raise damaged("the image is incomplete")
    length = 8 + int(struct.unpack_from("<I", head, 4)[0])
    return min(source.size, length + length % 2)


_FINDERS: dict[str, Callable[[Source], int]] = {
    formats.JPEG: _jpeg,
    formats.PNG: _png,
    formats.GIF: _gif,
    formats.WEBP: _webp,
}
