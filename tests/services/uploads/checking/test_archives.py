"""Archives are unpacked within bounds, whatever they declare; bombs, lies and paths are refused."""

from __future__ import annotations

import random
import struct
import zipfile
import zlib

import pytest

from hub.api import ErrorCode
from services.uploads.checking import ArchiveFacts, Rejected
from tests.services.uploads.checking.samples import archive, look, number, sheet, workbook_files

MIB = 1_048_576


def local(name: bytes, data: bytes, unpacked: bytes, size: int, method: int = 8) -> bytes:
    crc = zlib.crc32(unpacked)
    return struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, method, 0, 0, crc, len(data), size, len(name), 0) + name + data


def central(name: bytes, data: bytes, unpacked: bytes, size: int, offset: int) -> bytes:
    head = (b"PK\1\2", 20, 20, 0, 8, 0, 0, zlib.crc32(unpacked), len(data), size, len(name), 0, 0, 0, 0, 0, offset)
    return struct.pack("<4s6H3I5H2I", *head) + name


def end(entries: int, directory: bytes, offset: int) -> bytes:
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, entries, entries, len(directory), offset, 0)


def packed(data: bytes) -> bytes:
    encoder = zlib.compressobj(9, zlib.DEFLATED, -15)
    return encoder.compress(data) + encoder.flush()


def one_file(unpacked: bytes, declared: int, checksum_of: bytes | None = None) -> bytes:
    """An archive of one file that declares its size as it likes."""
    data, known = packed(unpacked), unpacked if checksum_of is None else checksum_of
    body, directory = local(b"a", data, known, declared), central(b"a", data, known, declared, 0)
    return body + directory + end(1, directory, len(body))


def test_a_usual_one() -> None:
    facts = look(archive({"a/b.txt": "x" * 1000, "c.txt": "y", "folder/": ""}), "a.zip")
    assert facts.archive == ArchiveFacts(entries=3, unpacked_bytes=1001)


def test_streamed_and_large_ones(tmp_path: object) -> None:
    import io

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as out, out.open("a.txt", "w", force_zip64=True) as file:
        file.write(b"hello" * 1000)
    facts = look(pipe.getvalue(), "a.zip")
    assert facts.archive == ArchiveFacts(entries=1, unpacked_bytes=5000)


@pytest.mark.parametrize("bound", [{}, {"uploads_max_unpack_ratio": 10_000, "uploads_max_unpacked_bytes": 9 * MIB}])
def test_zeros(bound: dict[str, int]) -> None:
    """10 MB in 10 KB: over the ratio; over the bound on bytes."""
    with pytest.raises(Rejected, match="when it is unpacked") as refused:
        look(one_file(bytes(10 * MIB), 10 * MIB), "a.zip", **bound)
    assert refused.value.code is ErrorCode.TOO_LARGE


def test_files_that_are_hardly_packed_are_bounded_by_the_archive() -> None:
    """Photos in a ZIP, pictures in a presentation: more than the bound, and nothing grows."""
    photo = random.Random(1).randbytes(200_000)
    files: dict[str, bytes | str] = {f"{index}.jpg": photo for index in range(5)} | {"notes.txt": "x" * 30_000}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        facts = look(archive(files, method), "a.zip", uploads_max_unpacked_bytes=100_000)
        assert facts.archive == ArchiveFacts(entries=6, unpacked_bytes=1_030_000)
    with pytest.raises(Rejected, match="when it is unpacked"):
        look(archive(files | {"zeros": bytes(90_000)}), "a.zip", uploads_max_unpacked_bytes=100_000)


def test_what_is_read_of_a_workbook_is_bounded_however_it_is_packed() -> None:
    rows = [[number(index * 7919 % 99991)] for index in range(3000)]
    data = archive(workbook_files({"S": sheet(rows)}), zipfile.ZIP_STORED)
    assert look(data, "a.xlsx", "excel").table
    with pytest.raises(Rejected, match="to read in the file") as refused:
        look(data, "a.xlsx", "excel", uploads_max_unpacked_bytes=40_000)
    assert refused.value.code is ErrorCode.TOO_LARGE


def test_sizes_that_lie() -> None:
    zeros = bytes(20 * MIB)
    with pytest.raises(Rejected, match="more than its directory says"):
        look(one_file(zeros, 10, checksum_of=zeros[:10]), "a.zip")
    with pytest.raises(Rejected, match="another size"):
        look(one_file(b"short", 10), "a.zip")
    with pytest.raises(Rejected, match="checksum"):
        look(one_file(b"12345", 5, checksum_of=b"54321"), "a.zip")


def test_overlaps() -> None:
    """A directory with many files that are the same bytes: each small, together a bomb."""
    data, plain = packed(bytes(1000)), bytes(1000)
    body = local(b"a", data, plain, 1000)
    directory = b"".join(central(name, data, plain, 1000, 0) for name in (b"a", b"b", b"c"))
    with pytest.raises(Rejected, match="lie over one another"):
        look(body + directory + end(3, directory, len(body)), "a.zip")
    # One inside of the other's data, as in the quadratic bombs.
    inner = local(b"b", data, plain, 1000)
    outer_data = b"\0" + struct.pack("<HH", len(inner), 0xFFFF ^ len(inner)) + inner + packed(b"")
    outer = local(b"a", outer_data, inner, len(inner))
    inner_at = len(outer) - len(outer_data) + 5
    directory = central(b"a", outer_data, inner, len(inner), 0) + central(b"b", data, plain, 1000, inner_at)
    with pytest.raises(Rejected, match="lie over one another"):
        look(outer + directory + end(2, directory, len(outer)), "a.zip")


def test_archives_within_are_not_opened() -> None:
    bomb = one_file(bytes(10 * MIB), 10 * MIB)
    facts = look(archive({f"{index}.zip": bomb for index in range(16)}), "a.zip")
    assert facts.archive
    assert facts.archive.unpacked_bytes == 16 * len(bomb)


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b", "C:/b", "..\\b", "a\\..\\..\\b"])
def test_names_that_lead_out(name: str) -> None:
    with pytest.raises(Rejected, match="leads out"):
        look(archive({name: "x"}), "a.zip")


def test_too_many_files() -> None:
    data = archive({str(index): "" for index in range(30)})
    assert look(data, "a.zip", uploads_max_entries=30).archive
    with pytest.raises(Rejected, match="30 files") as refused:
        look(data, "a.zip", uploads_max_entries=29)
    assert refused.value.code is ErrorCode.TOO_LARGE
    # The number at the end lies: what stands in the directory counts.
    lying = data[:-14] + struct.pack("<HH", 3, 3) + data[-10:]
    with pytest.raises(Rejected):
        look(lying, "a.zip", uploads_max_entries=29)
    with pytest.raises(Rejected, match="not what its end says"):
        look(lying, "a.zip")


def test_what_is_not_opened() -> None:
    data = archive({"a": "secret"})
    at = data.index(b"PK\1\2")
    with pytest.raises(Rejected, match="encrypted"):
        look(data[: at + 8] + b"\x01" + data[at + 9 :], "a.zip")
    with pytest.raises(Rejected, match="method"):
        look(archive({"a": "x" * 100}, zipfile.ZIP_LZMA), "a.zip")
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    import io

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        out.writestr(link, "/etc/passwd")
    with pytest.raises(Rejected, match="link"):
        look(file.getvalue(), "a.zip")
    twice = data.replace(b"PK\1\2", b"PK\1\2")
    assert twice == data
    directory = data[at : data.index(b"PK\5\6")]
    with pytest.raises(Rejected, match="same name"):
        look(data[:at] + directory * 2 + end(2, directory * 2, at), "a.zip")
