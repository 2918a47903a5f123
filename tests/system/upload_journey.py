"""What is known of one upload on its way: the file, what its owner wants, and what anybody was told of it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.support.cut_proxy import CutProxy

Fate = Literal["finished", "cancelled", "abandoned", "lied"]
"""What its owner wants: ``lied``: the checksum that was announced is another."""
NOT_THE_FILE = b"!"
"""What is sent by somebody who was overtaken; no file has any of it."""


def document(chance: random.Random, size: int) -> bytes:
    """So many bytes of plain text, none of which is ``NOT_THE_FILE``."""
    return base64.encodebytes(chance.randbytes(size))[:size]


@dataclass(slots=True)
class Upload:
    """A file, and what is known of it."""

    number: int
    content: bytes
    fate: Fate
    announced: bool
    """Whether its checksum was told when it began."""
    upload: str = ""
    acknowledged: int = 0
    """The highest offset that anybody was told."""
    over: bool = False
    """Its owner has nothing more to do."""
    legs: int = 0
    deeds: Counter[str] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)
    """Everything that was done, with the time of day and the leg: for when something is wrong."""

    @property
    def filename(self) -> str:
        """No other has it."""
        return f"file-{self.number}.txt"

    @property
    def sha256(self) -> str:
        """Of its content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def told_sha256(self) -> str | None:
        """What its owner said."""
        if self.fate == "lied":
            return hashlib.sha256(self.content + b"x").hexdigest()
        return self.sha256 if self.announced else None


class Journey:
    """One upload's way. ``complain`` takes what must not be."""

    def __init__(
        self, it: Upload, token: str, door: CutProxy, chance: random.Random, complain: Callable[[str], None]
    ) -> None:
        self.it = it
        self.token = token
        self.door = door
        self.random = chance
        self.asked_to_cancel = False
        self.overtaken = asyncio.Event()
        """Set when somebody newer was told that he may go on."""
        self._tell = complain
        self._ghosts: set[asyncio.Task[None]] = set()

    def complain(self, text: str) -> None:
        """Something that must not be; nothing more is done."""
        self._tell(f"{self.it.filename} ({self.it.upload}, {len(self.it.content)} bytes, leg {self.it.legs}): {text}")
        self.it.over = True

    def did(self, what: str, *more: object) -> None:
        """For the figures; ``more`` for the story alone."""
        self.it.deeds[what] += 1
        self.it.story.append(" ".join((f"{time.time() % 1000:.3f}", f"leg {self.it.legs}", what, *map(str, more))))

    def finish(self, why: str) -> None:
        """Its owner has nothing more to do."""
        self.did(f"over: {why}")
        self.it.over = True

    def heard(self, offset: int, floor: int) -> None:
        """The answer to a question that was asked when ``floor`` had been acknowledged."""
        if not floor <= offset <= len(self.it.content):
            self.complain(f"the offset was {floor}, and is {offset}")
        self.it.acknowledged = max(self.it.acknowledged, offset)

    def may_be_complete(self) -> bool:
        """Whether its last byte is ever sent."""
        return self.it.fate in ("finished", "lied")

    def goal(self) -> int:
        """How far a leg is to come: often to the end, and never if the upload is not to be finished."""
        size = len(self.it.content)
        if not self.may_be_complete():
            return self.random.randrange(self.it.acknowledged, size)
        return size if self.random.random() < 0.5 else self.random.randint(self.it.acknowledged, size)

    @property
    def is_haunted(self) -> bool:
        """Whether somebody who was left behind goes on."""
        return bool(self._ghosts)

    def overtake(self) -> None:
        """Whoever was there before is no more the one that counts."""
        self.did("overtakes")
        self.overtaken.set()
        self.overtaken = asyncio.Event()

    def haunt(self, ghost: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Somebody who is left behind, and goes on by himself."""
        task = asyncio.create_task(ghost)
        self._ghosts.add(task)
        task.add_done_callback(self._ghosts.discard)
        return task

    @contextlib.asynccontextmanager
    async def haunted(self) -> AsyncIterator[None]:
        """At the end nobody is left."""
        try:
            yield
        finally:
            ghosts = list(self._ghosts)
            for ghost in ghosts:
                ghost.cancel()
            await asyncio.gather(*ghosts, return_exceptions=True)
