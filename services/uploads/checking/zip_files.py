"""The directory of a ZIP archive, and its files one after the other: strict, because others read archives otherwise.

Python's zipfile believes the declared sizes and takes files that lie over one another. Here an archive is what every
program finds in it: one directory at its end, files that do not overlap, sizes and checksums that are true.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from services.uploads.checking.facts import damaged, too_large, unsupported
from services.uploads.checking.source import Source

SIGNATURE = b"PK\x03\x04"
EMPTY = b"PK\x05\x06"
STORED, DEFLATED = 0, 8

_CENTRAL = struct.Struct("<4s6H3I5H2I")  # 46 bytes
_LOCAL = struct.Struct("<4s5H3I2H")  # 30 bytes
_END = struct.Struct("<4s4H2IH")  # 22 bytes
_END64 = struct.Struct("<4sQ2H2I4Q")  # 56 bytes
_LOCATOR64 = struct.Struct("<4sIQI")  # 20 bytes
_MAX_COMMENT = 65_535
_MAX_TAIL = 5 * 65_536  # the end with its comment, and the last file of the directory with its name and more
_CENTRAL_BEGIN = b"PK\x01\x02"
_FULL32, _FULL16 = 0xFFFFFFFF, 0xFFFF
_ENCRYPTED, _UTF8 = 0x1 | 0x40, 0x800
_LINK, _FILE_KIND = 0o120000, 0o170000
_CHUNK = 65_536


class Entry(NamedTuple):
    """One file of the archive, by the directory."""

    name: str
    method: int
    checksum: int
    packed: int
    unpacked: int
    offset: int


class _Directory(NamedTuple):
    entries: int
    offset: int
    size: int


def ends_as_zip(source: Source) -> bool:
    """Whether programs that open archives from behind might find one, whatever the file begins with.

    Some count back from the end, some believe the offset, some search: any directory before any end is one.
    """
    start = max(0, source.size - _MAX_TAIL)
    tail = source.at(start, source.size - start)
    first = max(0, len(tail) - _END.size - _MAX_COMMENT)
    found = tail.rfind(EMPTY, first)
    while found >= 0:
        if len(tail) - found >= _END.size:
            *_, size, offset, _ = _END.unpack_from(tail, found)
            if _CENTRAL_BEGIN in tail[:found] or tail[max(0, found - _LOCATOR64.size) : found].startswith(
                b"PK\x06\x07"
            ):
                return True
            if _CENTRAL_BEGIN in (source.at(offset, 4), source.at(start + found - size, 4)):
                return True
        found = tail.rfind(EMPTY, first, found)
    return False


def read_directory(source: Source, max_entries: int) -> list[Entry]:
    """The files in the order in which they lie. Raises ``Rejected``: damaged, encrypted, too many, paths, overlaps."""
    directory = _find(source)
    if directory.entries > max_entries:
        raise too_large(f"the archive has {directory.entries} files, and at most {max_entries} are taken")
    entries: list[Entry] = []
    position, end = directory.offset, directory.offset + directory.size
    while position < end:
        if len(entries) >= max_entries:
            raise too_large(f"the archive has more than {max_entries} files")
        source.budget.tick()
        entry, length = _entry(source, position)
        entries.append(entry)
        position += length
    if position != end or len(entries) != directory.entries:
        raise damaged("the directory of the archive is not what its end says")
    if len({entry.name for entry in entries}) != len(entries):
        raise unsupported("the archive has two files of the same name; pack it again")
    entries.sort(key=lambda entry: entry.offset)
    return entries


def unpack(source: Source, entry: Entry, follower: int) -> Iterator[bytes]:
    """The bytes of a file, as many as the directory says. ``follower``: where the next file or the directory begins.

    Raises ``Rejected`` when that is not so.
    """
    start = _data(source, entry)
    if start + entry.packed > follower:
        raise unsupported("files of the archive lie over one another; pack it again")
    unpacked, checksum = 0, 0
    for piece in _inflate(source, entry, start):
        source.budget.tick()
        unpacked += len(piece)
        if unpacked > entry.unpacked:
            raise unsupported("the archive holds more than its directory says; pack it again")
        checksum = zlib.crc32(piece, checksum)
        yield piece
    if unpacked != entry.unpacked or checksum != entry.checksum:
        raise damaged("a file of the archive has another size or checksum than its directory says")


def _find(source: Source) -> _Directory:
    start = max(0, source.size - _END.size - _MAX_COMMENT)
    tail = source.at(start, source.size - start)
    found = tail.rfind(EMPTY)
    while found >= 0:
        if len(tail) - found >= _END.size and _END.unpack_from(tail, found)[7] == len(tail) - found - _END.size:
            break
        found = tail.rfind(EMPTY, 0, found)
    if found < 0:
        raise damaged("the archive has no end")
    _, disk, first, here, entries, size, offset, _ = _END.unpack_from(tail, found)
    end = start + found
    if source.at(end - _LOCATOR64.size, 4) == b"PK\x06\x07" and end >= _LOCATOR64.size + _END64.size:
        return _find64(source, end - _LOCATOR64.size)
    if disk or first or here != entries:
        raise unsupported("the archive is one part of several; send it in one piece")
    if offset + size != end:
        raise unsupported("there is something in front of the archive or behind its directory; pack it again")
    return _Directory(entries, offset, size)


def _find64(source: Source, locator: int) -> _Directory:
    _, disk, at, disks = _LOCATOR64.unpack(source.at(locator, _LOCATOR64.size))
    raw = source.at(at, _END64.size)
    if at > locator or len(raw) < _END64.size or raw[:4] != b"PK\x06\x06":
        raise damaged("the archive has no end")
    _, length, _, _, number, first, here, entries, size, offset = _END64.unpack(raw)
    if disk or number or first or disks > 1 or here != entries:
        raise unsupported("the archive is one part of several; send it in one piece")
    if offset + size != at or at + length + 12 != locator:
        raise unsupported("there is something in front of the archive or behind its directory; pack it again")
    return _Directory(entries, offset, size)


def _entry(source: Source, position: int) -> tuple[Entry, int]:
    raw = source.at(position, _CENTRAL.size)
    if len(raw) < _CENTRAL.size or raw[:4] != b"PK\x01\x02":
        raise damaged("the directory of the archive cannot be read")
    fields = _CENTRAL.unpack(raw)
    flags, method, checksum, packed, unpacked = fields[3], fields[4], *fields[7:10]
    name_length, extra_length, comment_length = fields[10:13]
    rest = source.at(position + _CENTRAL.size, name_length + extra_length)
    name = _name(rest[:name_length], flags)
    if flags & _ENCRYPTED:
        raise unsupported("the archive is encrypted, and nobody could check it; send it without a password")
    if (fields[15] >> 16) & _FILE_KIND == _LINK:
        raise unsupported("the archive has a link to another file; pack it without links")
    if method not in (STORED, DEFLATED):
        raise unsupported("the archive is packed by a method that is not opened here; use the usual one (deflate)")
    packed, unpacked, offset = _wide(rest[name_length:], unpacked, packed, fields[16])
    length = _CENTRAL.size + name_length + extra_length + comment_length
    return Entry(name, method, checksum, packed, unpacked, offset), length


def _wide(extra: bytes, unpacked: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Sizes of ZIP64, which stand in an extra field, those that are needed in this order."""
    values = [unpacked, packed, offset]
    missing = [index for index, value in enumerate(values) if value == _FULL32]
    while missing and len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1 and length >= 8 * len(missing) and len(extra) >= 4 + length:
            for place, index in enumerate(missing):
                values[index] = struct.unpack_from("<Q", extra, 4 + 8 * place)[0]
            missing = []
        extra = extra[4 + length :]
    if missing:
        raise damaged("the directory of the archive lacks a size")
    return values[1], values[0], values[2]


def _name(raw: bytes, flags: int) -> str:
    try:
        name = raw.decode("utf-8" if flags & _UTF8 else "cp437")
    except UnicodeDecodeError:
        raise damaged("a name in the archive is not valid UTF-8") from None
    parts = name.replace("\\", "/").split("/")
    if not name or "\0" in name or parts[0] == "" or ".." in parts or ":" in parts[0]:
        raise unsupported("the archive has a file whose name leads out of it; pack it with relative names")
    return name


def _data(source: Source, entry: Entry) -> int:
    """Where its bytes begin. The file's own header must say the same as the directory."""
    raw = source.at(entry.offset, _LOCAL.size)
    if len(raw) < _LOCAL.size or raw[:4] != SIGNATURE:
        raise damaged("the archive lacks a file that its directory has")
    _, _, flags, method, _, _, _, _, _, name_length, extra_length = _LOCAL.unpack(raw)
    name = source.at(entry.offset + _LOCAL.size, name_length)
    if method != entry.method or _name(name, flags) != entry.name:
        raise unsupported("the archive says two things about the same file; pack it again")
    return entry.offset + _LOCAL.size + int(name_length + extra_length)


def _inflate(source: Source, entry: Entry, start: int) -> Iterator[bytes]:
    end = start + entry.packed
    if entry.method == STORED:
        yield from source.blocks(start, end)
        return
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    for block in source.blocks(start, end):
        data = block
        while data and not decoder.eof:
            try:
                piece = decoder.decompress(data, _CHUNK)
            except zlib.error:
                raise damaged("a file of the archive cannot be unpacked") from None
            data = decoder.unconsumed_tail
            if piece:
                yield piece
    while not decoder.eof:
        piece = decoder.decompress(b"", _CHUNK)
        if not piece:
            break
        yield piece
    if not decoder.eof or decoder.unused_data:
        raise damaged("a file of the archive has another size than its directory says")
