"""Where images end, and that looking for it costs little, whatever the image is."""

from __future__ import annotations

import io

import pytest

from services.uploads.checking import Rejected
from services.uploads.checking import formats as f
from services.uploads.checking.endings import end_of_image
from services.uploads.checking.source import BLOCK, Budget, Source
from tests.services.uploads.checking.samples import image, look

JPEG, GIF, PNG = image("JPEG"), image("GIF"), image("PNG")
SCAN = JPEG.rindex(b"\xff\xda")
GIF_HEAD = b"GIF89a\x01\0\x01\0\0\0\0"
GIF_IMAGE = b",\0\0\0\0\x01\0\x01\0\0\x02"


class Counted(Source):
    """Counts what is asked of it; that is what a search costs."""

    asked = 0
    fetched = 0

    def at(self, offset: int, count: int) -> bytes:
        self.asked += 1
        return super().at(offset, count)

    def around(self, offset: int) -> tuple[bytes, int]:
        self.asked += 1
        return super().around(offset)

    def _fetch(self, offset: int, count: int) -> bytes:
        self.fetched += count
        return super()._fetch(offset, count)


def counted(data: bytes) -> Counted:
    return Counted(io.BytesIO(data), len(data), Budget(60.0))


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (JPEG[:SCAN] + b"\xff\xda\0\2" * 200_000 + JPEG[SCAN:], f.JPEG),
        (JPEG[:SCAN] + b"\xff\xe2\0\2" * 200_000 + JPEG[SCAN:], f.JPEG),
        (PNG[:33] + b"\0\0\0\0prVt\0\0\0\0" * 100_000 + PNG[33:], f.PNG),
        (GIF_HEAD + b"!\xfe\1x\0" * 200_000 + GIF_IMAGE + b"\2D\1\0;", f.GIF),
        (GIF_HEAD + GIF_IMAGE + b"\1x" * 400_000 + b"\0;", f.GIF),
    ],
    ids=["scans", "segments", "chunks", "extensions", "blocks"],
)
def test_images_in_very_many_pieces(data: bytes, media_type: str) -> None:
    source = counted(data)
    with pytest.raises(Rejected, match="far more pieces"):
        end_of_image(source, media_type)
    assert source.asked < 150_000
    assert source.fetched < 2 * len(data) + BLOCK
    with pytest.raises(Rejected, match="far more pieces"):
        look(data, f"a.{media_type.removeprefix('image/')}", "image")


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (JPEG[:SCAN] + b"\xff" * 500_000 + JPEG[SCAN:], f.JPEG),
        (JPEG[:SCAN] + (b"\xff\xe2\xff\xff" + bytes(65533)) * 9 + JPEG[SCAN:], f.JPEG),
        (JPEG[:SCAN] + b"\xff\xda\0\2" * 9_000 + JPEG[SCAN:], f.JPEG),
        (JPEG[:-2] + b"\xff\0\xff\xd0x" * 200_000 + b"\xff\xd9", f.JPEG),
        (GIF_HEAD + GIF_IMAGE + (b"\xff" + bytes(255)) * 3000 + b"\0;", f.GIF),
    ],
    ids=["filling", "long segments", "scans", "restarts", "blocks"],
)
def test_large_images_are_read_once(data: bytes, media_type: str) -> None:
    source = counted(data)
    assert end_of_image(source, media_type) == len(data)
    assert source.fetched < 2 * len(data) + BLOCK


def test_without_its_end_marker_a_jpeg_ends_with_the_file() -> None:
    assert end_of_image(counted(JPEG[:-2]), f.JPEG) == len(JPEG) - 2
    assert end_of_image(counted(JPEG[:-1]), f.JPEG) == len(JPEG) - 1
    behind_scan = JPEG[:-2] + b"\xff\xc4\0\x40" + b"half of a table"
    for data in (JPEG[:SCAN], JPEG[: SCAN + 5], behind_scan, behind_scan + b"\xff\xc4"):
        with pytest.raises(Rejected, match="incomplete"):
            end_of_image(counted(data), f.JPEG)


@pytest.mark.parametrize("cut", range(6))
def test_markers_on_the_edge_of_a_block(cut: int) -> None:
    data = JPEG[:-2] + b"x" * (BLOCK - len(JPEG) + 4 - cut) + b"\xff\xff\xd9" + b"trailer"
    assert end_of_image(counted(data), f.JPEG) == len(data) - 7
