"""A store as the tests use it: one organisation, whole bytes."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hub.orgs import OrgId
from services.uploads.store import Digest, Part, Store

_BLOCK = 65_536


def some_bytes(count: int, seed: int = 0) -> bytes:
    """Different at every place, and the same each time."""
    return random.Random(seed).randbytes(count)


class Seen:
    """A digest that remembers."""

    def __init__(self) -> None:
        self.data = b""

    def update(self, data: bytes | memoryview, /) -> None:
        self.data += data


@dataclass
class Shelf:
    """Parts and contents of one organisation."""

    store: Store
    org: OrgId

    async def put(self, upload: str, token: str, data: bytes, block: int = _BLOCK) -> list[Part]:
        """What a writer does: blocks one after the other, and of each object the last thing said about it."""
        stretch = self.store.stretch(self.org, upload, token)
        parts: dict[str, Part] = {}
        for start in range(0, len(data), block):
            part = await stretch.write([data[start : start + block]], None)
            parts[part.object] = part
        await stretch.close()
        return list(parts.values())

    async def join(self, upload: str, parts: list[Part], digest: Digest | None = None) -> None:
        await self.store.join(self.org, upload, parts, digest)

    async def content(self, upload: str, start: int, end: int) -> bytes:
        return b"".join([piece async for piece in self.store.read(self.org, upload, start, end)])

    async def whole(self, upload: str) -> bytes:
        """The content, as far as it goes."""
        seen = Seen()
        await self.store.digest(self.org, upload, seen)
        return seen.data

    async def uploads(self) -> list[tuple[str, str]]:
        return sorted([found async for found in self.store.uploads()])
