"""Where an image ends: the place behind its end marker, found by its structure and not by a search for bytes.

No pixel is decoded. All raise ``Rejected`` for an image that is incomplete.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from services.uploads.checking import formats
from services.uploads.checking.facts import damaged
from services.uploads.checking.source import Source

# In the data of a scan 0xff is followed by 0 (it is data), by D0 to D7 (restart) or by itself; else a marker begins.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_STEP = 262_144


def end_of_image(source: Source, media_type: str) -> int | None:
    """``None``: nothing in the format says where it ends."""
    find = _FINDERS.get(media_type)
    return find(source) if find else None


def _jpeg(source: Source) -> int:
    position = 2
    while True:
        source.budget.tick()
        raw = source.at(position, 4)
        if len(raw) < 2 or raw[0] != 0xFF:
            raise damaged("the image is incomplete")
        marker = raw[1]
        if marker == _END:
            return position + 2
        if marker == 0xFF or marker in _WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
            continue
        if len(raw) < 4 or marker in (0, _START):
            raise damaged("the image is incomplete")
        position += 2 + max(2, struct.unpack_from(">H", raw, 2)[0])
        if marker == _SCAN:
            position = _end_of_scan(source, position)


def _end_of_scan(source: Source, position: int) -> int:
    while position < source.size:
        source.budget.tick()
        block = source.at(position, _STEP)
        found = _MARKER.search(block)
        if found:
            return position + int(found.start())
        # A lone 0xff at the end of the block may begin a marker.
        position += max(1, len(block) - 1)
    raise damaged("the image is incomplete")


def _png(source: Source) -> int:
    position = 8
    while True:
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
    position = 13 + _colours(head[10])
    while True:
        raw = source.at(position, 10)
        if raw[:1] == b";":
            return position + 1
        if raw[:1] == b"!":
            position = _end_of_blocks(source, position + 2)
        elif raw[:1] == b"," and len(raw) == 10:
            position = _end_of_blocks(source, position + 11 + _colours(raw[9]))
        else:
            raise damaged("the image is incomplete")


def _colours(flags: int) -> int:
    """Bytes of a table of colours, by the byte that says whether there is one."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _end_of_blocks(source: Source, position: int) -> int:
    while True:
        source.budget.tick()
        length = source.at(position, 1)
        if not length:
            raise damaged("the image is incomplete")
        position += 1 + length[0]
        if not length[0]:
            return position


def _webp(source: Source) -> int:
    length = 8 + int(struct.unpack_from("<I", source.at(0, 12), 4)[0])
    return min(source.size, length + length % 2)


_FINDERS: dict[str, Callable[[Source], int]] = {
    formats.JPEG: _jpeg,
    formats.PNG: _png,
    formats.GIF: _gif,
    formats.WEBP: _webp,
}
