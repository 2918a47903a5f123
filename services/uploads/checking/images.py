"""Sizes of images, by their headers: no pixel is decoded.

Pillow reads the headers of the old formats. Its plugins for WebP and AVIF read the whole file and begin to decode, and
there is none for HEIC: of these a few bytes say the size. The plugin's class is used and not ``Image.open``: only the
format that the bytes have is tried, and the bound on pixels is ours and not a variable of the process.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, cast

from PIL import BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin
from PIL.ImageFile import ImageFile

from services.uploads.checking import formats
from services.uploads.checking.facts import ImageFacts, Rejected, damaged, too_large
from services.uploads.checking.source import Headers, Source

_MAX_HEADERS = 33_554_432
_MAX_BOXES = 10_000
_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES = 273, 279, 324, 325
_OPENERS: dict[str, type[ImageFile]] = {
    formats.JPEG: JpegImagePlugin.JpegImageFile,
    formats.PNG: PngImagePlugin.PngImageFile,
    formats.GIF: GifImagePlugin.GifImageFile,
    formats.TIFF: TiffImagePlugin.TiffImageFile,
    formats.BMP: BmpImagePlugin.BmpImageFile,
}
Boxes = Iterator[tuple[bytes, int, int]]


def image_facts(source: Source, media_type: str, max_pixels: int) -> ImageFacts:
    """Width and height. Raises ``Rejected``: damaged, or too many pixels."""
    if media_type == formats.WEBP:
        width, height = _webp_size(source)
    elif media_type in (formats.HEIC, formats.HEIF, formats.AVIF):
        width, height = _heif_size(source)
    else:
        width, height = _pillow_size(source, _OPENERS[media_type])
    if width < 1 or height < 1:
        raise damaged("the image has no size")
    if width * height > max_pixels:
        raise too_large(f"the image has {width} x {height} pixels; at most {max_pixels} are taken")
    return ImageFacts(width, height)


def _pillow_size(source: Source, opener: type[ImageFile]) -> tuple[int, int]:
    headers = Headers(source, _MAX_HEADERS)
    try:
        with opener(cast(IO[bytes], headers)) as image:
            if isinstance(image, TiffImagePlugin.TiffImageFile):
                _check_strips(image, source.size)
            return image.size
    except (Rejected, MemoryError):
        raise
    except Exception as error:
        if headers.fault is not None:
            raise headers.fault from None
        raise damaged("its headers are not those of an image") from error


def _check_strips(image: TiffImagePlugin.TiffImageFile, size: int) -> None:
    """A TIFF has no end marker, but says where its pixels are."""
    tags = image.tag_v2
    for offsets, lengths in ((_STRIPS, _STRIP_BYTES), (_TILES, _TILE_BYTES)):
        pairs = zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=False)
        if any(offset + length > size for offset, length in pairs):
            raise damaged("the image is incomplete")


def _webp_size(source: Source) -> tuple[int, int]:
    head = source.at(0, 64)
    if len(head) < 30:
        raise damaged("the image is incomplete")
    if struct.unpack_from("<I", head, 4)[0] + 8 > source.size + 1:
        raise damaged("the image is incomplete")
    kind, data = head[12:16], head[20:]
    if kind == b"VP8X":
        return int.from_bytes(data[4:7], "little") + 1, int.from_bytes(data[7:10], "little") + 1
    if kind == b"VP8L" and data[0] == 0x2F:
        bits = int.from_bytes(data[1:5], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    if kind == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise damaged("its headers are not those of a WebP image")


def _heif_size(source: Source) -> tuple[int, int]:
    """The largest picture in the file: tiles and thumbnails are smaller than what they make up."""
    sizes: list[tuple[int, int]] = []
    for kind, start, end in _boxes(source, 0, source.size):
        if kind != b"meta":
            continue
        for inner, inner_start, inner_end in _boxes(source, start + 4, end):
            if inner == b"iprp":
                sizes += _extents(source, inner_start, inner_end)
    if not sizes:
        raise damaged("the image does not say its size")
    return max(sizes, key=lambda size: size[0] * size[1])


def _extents(source: Source, start: int, end: int) -> Iterator[tuple[int, int]]:
    for kind, inner_start, inner_end in _boxes(source, start, end):
        if kind != b"ipco":
            continue
        for inner, at, _ in _boxes(source, inner_start, inner_end):
            raw = source.at(at, 12)
            if inner == b"ispe" and len(raw) == 12:
                width, height = struct.unpack_from(">II", raw, 4)
                yield width, height


def _boxes(source: Source, start: int, end: int) -> Boxes:
    """Kind, begin and end of the content of each box of ISO media. ``Rejected``: one is longer than its parent."""
    for _ in range(_MAX_BOXES):
        if start >= end:
            return
        raw = source.at(start, 16)
        if len(raw) < 8:
            raise damaged("the image is incomplete")
        length, header = struct.unpack_from(">I", raw)[0], 8
        if length == 1 and len(raw) == 16:
            length, header = struct.unpack_from(">Q", raw, 8)[0], 16
        elif length == 0:
            length = end - start
        if length < header or start + length > end:
            raise damaged("the image is incomplete")
        yield raw[4:8], start + header, start + length
        start += length
    raise too_large("the image has too many parts")
