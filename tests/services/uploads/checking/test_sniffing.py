"""What bytes are, with real samples; and files that are not what their names say."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest

from hub.api import ErrorCode
from services.uploads.checking import DocumentTypes, Rejected, inspect
from services.uploads.checking import formats as f
from tests.services.uploads.checking import samples
from tests.services.uploads.checking.samples import PDF, archive, compound, heic, image, look, settings, workbook

FILES = {
    "a.pdf": (PDF, f.PDF),
    "a.jpg": (image("JPEG"), f.JPEG),
    "A.JPEG": (image("JPEG", progressive=True), f.JPEG),
    "a.png": (image("PNG"), f.PNG),
    "a.gif": (image("GIF"), f.GIF),
    "a.webp": (image("WEBP"), f.WEBP),
    "lossless.webp": (image("WEBP", lossless=True), f.WEBP),
    "a.tiff": (image("TIFF"), f.TIFF),
    "a.bmp": (image("BMP"), f.BMP),
    "a.avif": (image("AVIF"), f.AVIF),
    "a.heic": (heic(), f.HEIC),
    "mif1.heic": (heic(brand=b"mif1"), f.HEIF),
    "a.xlsx": (workbook(), f.XLSX),
    "a.docx": (archive({"[Content_Types].xml": samples.CONTENT_TYPES, "word/document.xml": "<x/>"}), f.DOCX),
    "a.odt": (archive({"mimetype": f.ODT, "content.xml": "<x/>"}, method=0), f.ODT),
    "a.zip": (archive({"a/b.txt": "hello", "c.pdf": PDF}), f.ZIP),
    "empty.zip": (archive({}), f.ZIP),
    "a.xls": (compound("Workbook"), f.XLS),
    "a.doc": (compound("WordDocument", "1Table"), f.DOC),
    "a.csv": (b"name,room\nAnn,12\n", f.CSV),
    "id.csv": (b"ID;name\n1;Ann\n", f.CSV),
    "bm.csv": (b"BM,MZ\n1,2\n", f.CSV),
    "wide.csv": ("Größe;Ort\n1;Köln\n".encode("utf-16"), f.CSV),
    "latin.csv": ("Größe;Ort\n1;Köln\n".encode("cp1252"), f.CSV),
    "a.tsv": (b"name\troom\nAnn\t12\n", f.TSV),
    "a.txt": ("Grüße, 旅券\n".encode(), f.TEXT),
    "h1.md": (b'<h1 align="center">Title</h1>\n\ntext\n', f.MARKDOWN),
    "comment.md": (b"<!-- badges -->\n<H1>Title</H1>\n", f.MARKDOWN),
    "a.md": (b"# Title\n\n<b>html</b> within\n", f.MARKDOWN),
}


@pytest.mark.parametrize("filename", FILES)
def test_files_are_what_they_are(filename: str) -> None:
    data, media_type = FILES[filename]
    assert look(data, filename).media_type == media_type


@pytest.mark.parametrize(
    "filename", [name for name in FILES if "." + name.split(".")[-1] in samples.kind("image").extensions]
)
def test_images_have_sizes(filename: str) -> None:
    facts = look(FILES[filename][0], filename, "image")
    assert facts.image
    assert (facts.image.width, facts.image.height) == ((4032, 3024) if "heic" in filename else (64, 48))


@pytest.mark.parametrize(
    ("data", "filename", "bytes_are"),
    [
        (image("PNG"), "passport.pdf", "a PNG image"),
        (PDF, "passport.jpg", "a PDF"),
        (archive({"a.txt": "x"}), "sheet.xlsx", "a ZIP archive"),
        (workbook(), "packed.zip", "an Excel workbook"),
        (b"MZ\x90\0" + bytes(200), "passport.pdf", "a Windows program"),
        (b"\x7fELF\x02\x01\x01" + bytes(200), "table.csv", "nothing that is known"),
        (b"<!DOCTYPE html><script>alert(1)</script>", "table.csv", "HTML"),
        (b"<h1>hello</h1>", "notes.txt", "HTML"),
        (b"<!-- x --><title>hello</title>", "table.csv", "HTML"),
        (b"<!-- x --><html><h1>hello</h1>", "README.md", "HTML"),
        (b"<h1>hello</h1>", "photo.jpg", "HTML"),
        (b"  \n<?php system($_GET[0]);", "notes.txt", "a PHP script"),
        (b'<?xml version="1.0"?>\n<!-- x --><svg xmlns="http://www.w3.org/2000/svg"/>', "photo.png", "an SVG image"),
        (b"\xff\xfe" + "<html>".encode("utf-16-le"), "notes.txt", "HTML"),
        (b"#!/bin/sh\n", "notes.txt", "a script"),
        (b"plain words", "photo.jpg", "a plain text"),
        (bytes(range(256)) * 9, "table.csv", "nothing that is known"),
        (bytes(1000), "table.csv", "nothing that is known"),
        (samples.box(b"ftyp", b"isom" + bytes(4) + b"mp42") + bytes(64), "photo.heic", "an MP4 video"),
        (b"Rar!\x1a\x07\x01\0" + bytes(64), "packed.zip", "a RAR archive"),
        (b"\x1f\x8b\x08" + bytes(64), "packed.zip", "a gzip archive"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(data: bytes, filename: str, bytes_are: str) -> None:
    with pytest.raises(Rejected, match=rf"is not what its name says.* the bytes are {bytes_are}") as refused:
        look(data, filename)
    assert refused.value.code is ErrorCode.UNSUPPORTED_MEDIA


def test_what_may_be_text_of_another_kind_is_to_be_saved_anew() -> None:
    for name in ("a.csv", "a.tsv", "a.txt"):
        with pytest.raises(Rejected, match="save it as UTF-8"):
            look("name;city\n".encode("utf-32-le"), name)


@pytest.mark.parametrize("name", ["xl/vbaProject.bin", "word/vbaProject.bin", "custom/VBAPROJECT.BIN"])
def test_macros_are_seen_whatever_the_name_says(name: str) -> None:
    folder, suffix = ("word/document.xml", "docx") if name.startswith("word") else ("xl/workbook.xml", "xlsx")
    data = archive({"[Content_Types].xml": samples.CONTENT_TYPES, folder: "<x/>", name: b"\0"})
    with pytest.raises(Rejected, match="with macros"):
        look(data, f"a.{suffix}")


@pytest.mark.parametrize(("stream", "why"), [("_VBA_PROJECT_CUR", "macros"), ("EncryptedPackage", "password")])
def test_old_office_files_with_secrets(stream: str, why: str) -> None:
    with pytest.raises(Rejected, match=why):
        look(compound("Workbook", stream), "a.xls", "excel")


@pytest.mark.parametrize("tables", [109, 110, 236, 237, 400])
def test_old_office_files_of_many_megabytes(tables: int) -> None:
    data = samples.large_compound("Workbook", tables)
    assert look(data, "a.xls", "excel").media_type == f.XLS
    with pytest.raises(Rejected, match="macros"):
        look(samples.large_compound("_VBA_PROJECT_CUR", tables), "a.xls", "excel")


def test_old_office_files_whose_lists_lead_nowhere() -> None:
    data = bytearray(samples.large_compound("Workbook", 110, lists=0))
    with pytest.raises(Rejected, match="no table leads"):
        look(bytes(data), "a.xls", "excel")
    struct.pack_into("<II", data, 68, 110, 0xFFFFFFFF)
    struct.pack_into("<I", data, (110 + 1) * 512 + 508, 110)  # a list that leads to itself
    struct.pack_into("<I", data, 48, 0x00FFFFF0)
    with pytest.raises(Rejected, match="damaged"):
        look(bytes(data), "a.xls", "excel")


def test_a_type_takes_what_it_takes() -> None:
    with pytest.raises(Rejected, match=r"\.gif; passport takes \.pdf"):
        look(image("GIF"), "a.gif", "passport")


@pytest.mark.parametrize(("data", "code"), [(b"", ErrorCode.EMPTY_CONTENT), (bytes(26 << 20), ErrorCode.TOO_LARGE)])
def test_sizes(data: bytes, code: ErrorCode) -> None:
    with pytest.raises(Rejected) as refused:
        look(data, "a.pdf", "passport")
    assert refused.value.code is code


def test_types_of_an_operator_are_recognised_by_signatures(tmp_path: Path) -> None:
    path = tmp_path / "types.toml"
    path.write_text(
        '[clip]\nmedia_types = ["audio/ogg", "video/mp4"]\nextensions = [".ogg", ".mp4"]\nmax_bytes = 1000\n'
    )
    bounds = settings(uploads_types_file=str(path))
    clip = DocumentTypes.load(bounds).get("clip")
    ogg = b"OggS\0\x02" + bytes(30)
    assert inspect(io.BytesIO(ogg), len(ogg), clip, "a.ogg", bounds).media_type == "audio/ogg"
    with pytest.raises(Rejected, match="not what its name says"):
        inspect(io.BytesIO(ogg), len(ogg), clip, "a.mp4", bounds)


def test_a_store_that_has_less_is_a_fault_of_ours() -> None:
    with pytest.raises(OSError, match="less of the file"):
        inspect(io.BytesIO(PDF[:100]), len(PDF), samples.kind("passport"), "a.pdf", settings())
