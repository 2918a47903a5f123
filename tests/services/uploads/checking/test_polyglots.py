"""Files that are two things at once, and pictures of phones, which are too and pass."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
from PIL import Image

from services.uploads.checking import Rejected
from services.uploads.checking import formats as f
from tests.services.uploads.checking.samples import PDF, archive, box, compound, image, look

JPEG, PNG, GIF, WEBP = image("JPEG"), image("PNG"), image("GIF"), image("WEBP")
FILM = box(b"ftyp", b"isom" + bytes(4) + b"mp42") + box(b"mdat", bytes(range(255, 0, -1)) * 1000)
ZIP = archive({"a.txt": "hello"})


def behind(data: bytes, wrong: int = 0, gap: bytes = b"") -> bytes:
    """``data`` with an archive behind it whose offsets are right, and the size of whose directory is not."""
    file = io.BytesIO(data)
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a") as packed:
        packed.writestr("a.html", "<h1>hello</h1>")
    whole = file.getvalue()
    end = whole.rindex(b"PK\5\6")
    size = struct.unpack_from("<I", whole, end + 12)[0] + wrong
    return whole[:end] + gap + whole[end : end + 12] + struct.pack("<I", size) + whole[end + 16 :]


def exif_jpeg() -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    xmp = b'<?xpacket begin=""?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF/></x:xmpmeta>'
    Image.new("RGB", (64, 48)).save(
        file, "JPEG", exif=exif, xmp=xmp, comment=b"made <b>here</b>", restart_marker_rows=1
    )
    return file.getvalue()


def mpo() -> bytes:
    """A JPEG with another JPEG behind it, as phones save gain maps and previews."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "MPO", save_all=True, append_images=[Image.effect_noise((640, 480), 90)])
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "filename"),
    [
        (exif_jpeg(), "metadata.jpg"),
        (mpo(), "gain_map.jpg"),
        (JPEG + FILM, "motion_photo.jpg"),
        (JPEG + bytes(1000) + JPEG, "preview_after_padding.jpg"),
        (JPEG + b"\0\0\x31\x0a\x10\0\0\0MotionPhoto_Data" + FILM + b"SEFH" + bytes(24) + b"SEFT", "samsung.jpg"),
        (JPEG + bytes(3_000_000), "padding.jpg"),
        (JPEG[:-2], "without_end_marker.jpg"),
        (JPEG + b"maker" * 100, "maker.jpg"),
        (PNG + b"\n", "newline.png"),
        (image("PNG", pnginfo=None) + bytes(200_000), "padding.png"),
        (image("GIF", save_all=True, append_images=[Image.new("P", (64, 48), 3)] * 3), "animation.gif"),
        (PDF + b"\r\n", "newline.pdf"),
        (b"\r\n" + PDF, "newline_before.pdf"),
        (b"\xef\xbb\xbf" + PDF, "mark.pdf"),
        (b"\xef\xbb\xbf\n \t" + PDF, "mark_and_space.pdf"),
        (PDF + bytes(600_000) + b"\r\n", "padding.pdf"),
        (PDF + PDF[9:], "changed_twice.pdf"),
        (
            PDF.replace(b"xref", b"<</Type/Metadata>>stream\n<?xpacket?><x:xmpmeta/>\nendstream\nxref", 1),
            "metadata.pdf",
        ),
        (PDF.replace(b"xref", ZIP + b"\nxref", 1) + b" " * 70_000 + b"%%EOF", "attachment.pdf"),
        (archive({"a.pdf": PDF, "inner.zip": ZIP, "b.html": "<html>"}, zipfile.ZIP_STORED), "stored.zip"),
        (compound("WordDocument") + ZIP, "embedded.doc"),
        (b"how a ZIP ends: PK\x05\x06".replace(b"\x05\x06", b".."), "notes.txt"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_of_real_programs_pass(data: bytes, filename: str) -> None:
    look(data, filename)


@pytest.mark.parametrize(
    ("data", "filename", "why"),
    [
        (JPEG + ZIP, "a.jpg", "archive as well"),
        (PNG + ZIP, "a.png", "archive as well"),
        (GIF + ZIP, "a.gif", "archive as well"),
        (PDF + ZIP, "a.pdf", "archive as well"),
        (b"name,room\n" + ZIP, "a.csv", "not what its name says|archive as well"),
        (JPEG + ZIP[:-2] + struct.pack("<H", 9) + b"\0" * 9, "comment.jpg", "archive as well"),
        (JPEG[:-2] + b"x" * 9000 + PDF, "without_end_marker.jpg", "follows the end"),
        (JPEG[:-2] + b"x" * 300_000 + b"<script >", "without_end_marker.jpg", "follows the end"),
        (behind(JPEG, wrong=-1), "a.jpg", "archive as well"),
        (behind(PDF, wrong=1), "a.pdf", "archive as well"),
        (behind(PDF, gap=bytes(400_000)), "gap.pdf", "archive as well"),
        (PDF.replace(b"xref", ZIP[:-22] + b"\nxref", 1) + ZIP[-22:], "in_the_middle.pdf", "archive as well"),
        (JPEG + ZIP[:-22], "without_end.jpg", "follows the end"),
        (JPEG + FILM + ZIP[ZIP.index(b"PK\1\2") : -22], "directory.jpg", "follows the end"),
        (JPEG + b"Rar!\x1a\x07\x01\0" + bytes(99), "a.jpg", "follows the end"),
        (JPEG + FILM + b"7z\xbc\xaf\x27\x1c" + bytes(99), "behind_a_film.jpg", "follows the end"),
        (JPEG + bytes(300_000) + b"<?php system(1);", "a.jpg", "follows the end"),
        (JPEG + b"x" * 300_000, "a.jpg", "follows the end"),
        (PNG + FILM, "film.png", "follows the end"),
        (PNG + bytes(5000) + PDF, "a.png", "follows the end"),
        (GIF + b"x" * 300_000, "a.gif", "follows the end"),
        (WEBP + b"x" * 300_000, "a.webp", "follows the end"),
        (JPEG[:2] + b"\xff\xfe\x00\x20<script>alert(1)</script>     " + JPEG[2:], "a.jpg", "in its beginning"),
        (JPEG[:2] + b"\xff\xfe\x00\x0a%PDF-1.4" + JPEG[2:], "a.jpg", "in its beginning"),
        (image("GIF", comment=b"<?PHP system(1);"), "a.gif", "in its beginning"),
        (b"x" + PDF, "a.pdf", "not what its name says"),
        (b"\n" * 2000 + PDF, "a.pdf", "not what its name says"),
        (b"%!PS\n" + PDF, "a.pdf", "not what its name says"),
        (PDF + b"x" * 70_000 + bytes(70_000), "a.pdf", "end is missing"),
        (b"<html>" + PDF, "a.pdf", "not what its name says"),
        (ZIP + PDF, "a.pdf", "front of the archive|not what its name|no end"),
        (PDF + b"x" * 100_000, "a.pdf", "end is missing"),
        (b"#!/bin/sh\nexit\n" + ZIP, "a.zip", "not what its name says"),
        (b"PK\x03\x04" + ZIP, "a.zip", "in front of"),
        (ZIP + b"tail", "a.zip", "no end"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_that_are_two_things(data: bytes, filename: str, why: str) -> None:
    with pytest.raises(Rejected, match=why):
        look(data, filename)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP"])
def test_incomplete_images(format: str) -> None:
    data = image(format)
    # Without decoding it nobody knows of a JPEG whether its last scan lacks its end marker only.
    parts = (data.rindex(b"\xff\xda") + 2, 300) if format == "JPEG" else (len(data) // 2, len(data) - 3)
    for part in (5, 20, *parts):
        with pytest.raises(Rejected):
            look(data[:part], f"a.{format.lower()}", "image")


def test_everything_else_incomplete() -> None:
    for data, name in ((PDF, "a.pdf"), (ZIP, "a.zip"), (compound("Workbook"), "a.xls"), (image("TIFF"), "a.tiff")):
        for part in (8, 100, 600):
            if part < len(data) - 10:
                with pytest.raises(Rejected):
                    look(data[:part], name)


def test_pixels_are_bounded_by_the_header() -> None:
    def png(width: int, height: int) -> bytes:
        return PNG[:16] + struct.pack(">II", width, height) + PNG[24:]

    # The checksum of the header does not fit any more: Pillow says so, except when it is made anew.
    import zlib

    def with_checksum(data: bytes) -> bytes:
        return data[:29] + struct.pack(">I", zlib.crc32(data[12:29])) + data[33:]

    for size in ((2**31 - 1, 2**31 - 1), (100_000, 2_001)):
        with pytest.raises(Rejected, match="pixels"):
            look(with_checksum(png(*size)), "a.png", "image")
    facts = look(with_checksum(png(20_000, 10_000)), "a.png", "image")
    assert facts.image
    assert (facts.image.width, facts.image.height) == (20_000, 10_000), "more than Pillow's own bound, and no warning"
    with pytest.raises(Rejected, match="pixels"):
        look(PNG, "a.png", "image", uploads_max_pixels=64 * 48 - 1)


def test_headers_are_bounded() -> None:
    chunk = struct.pack(">I4s", 40_000_000, b"prVt") + bytes(40_000_004)
    with pytest.raises(Rejected, match="headers of the file are too large"):
        look(PNG[:33] + chunk + PNG[33:], "a.png", "image")


def test_media_types_are_still_those_of_the_picture() -> None:
    assert look(mpo(), "a.jpg", "passport").media_type == f.JPEG
