"""A leg of an upload by tus: requests that are cut, wrong, or so slow that somebody else goes on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx

from tests.system.upload_journey import NOT_THE_FILE, Journey
from tests.system.upload_lines import Lost, TusLine, checksum, tus_line


class TusLeg:
    """Some requests over one connection, and perhaps a ghost with one of its own."""

    def __init__(self, journey: Journey) -> None:
        self._on = journey

    async def travel(self) -> None:
        """Raises ``Lost`` and ``Refused``."""
        async with tus_line(self._on.door.port, self._on.token) as line:
            if not self._on.it.upload:
                await self._create_by_tus(line)
            floor = self._on.it.acknowledged
            position = await line.offset(self._on.it.upload)
            if position is None:
                if self._on.asked_to_cancel or self._on.it.fate == "lied":
                    self._on.finish("gone")
                else:
                    self._on.complain("HEAD says that there is none")
                return
            self._on.heard(position, floor)
            goal = self._on.goal()
            while position < goal and not self._on.it.over:
                if self._on.random.random() < 0.12:
                    position = await self._leave_a_slow_patch(line, position, goal)
                else:
                    position = await self._patch(line, position, goal)
            if position == len(self._on.it.content):
                self._on.finish("acknowledged")
            elif self._on.it.fate == "cancelled" and self._on.random.random() < 0.5:
                self._on.asked_to_cancel = True
                line.require(await line.ask("DELETE", f"/v1/uploads/{self._on.it.upload}"), 204)
                self._on.finish("cancelled")
            elif self._on.it.fate == "abandoned" and self._on.random.random() < 0.5:
                self._on.finish("abandoned")

    async def _create_by_tus(self, line: TusLine) -> None:
        it = self._on.it
        metadata = {"filename": it.filename, "guest_id": str(it.number)}
        if it.told_sha256:
            metadata["sha256"] = it.told_sha256
        first = None
        if self._on.random.random() < 0.5 and len(it.content) > 1:
            first = it.content[: self._on.random.randrange(1, min(65_536, len(it.content)))]
        self._on.did("tus: POST")
        it.upload = await line.create(len(it.content), metadata, first)

    async def _patch(self, line: TusLine, position: int, goal: int) -> int:
        """One request; returns where it stands."""
        # Not too small: each request is some milliseconds of everybody's time.
        end = max(self._on.random.randint(position + 1, goal) for _ in range(3))
        data = self._on.it.content[position:end]
        floor = self._on.it.acknowledged
        kind = self._on.random.choice(("whole", "whole", "pieces", "pieces", "sum", "wrong sum", "wrong offset"))
        if kind == "wrong offset" and position + len(data) == len(self._on.it.content):
            kind = "whole"  # a byte further it would also be too long
        self._on.did(f"tus: {kind}", position, end)
        if kind == "wrong offset":
            # The bytes that belong there: a request of an earlier leg may have come in between, and then it is right.
            answer = await line.patch(self._on.it.upload, position + 1, self._on.it.content[position + 1 : end + 1])
        elif kind == "wrong sum":
            answer = await line.patch(self._on.it.upload, position, data, checksum=checksum(data + b"x"))
        elif kind == "sum":
            answer = await line.patch(self._on.it.upload, position, data, checksum=checksum(data, "sha1"))
        elif kind == "pieces":
            answer = await line.patch(self._on.it.upload, position, self._pieces(data))
        else:
            answer = await line.patch(self._on.it.upload, position, data)
        expected = {"wrong offset": 409, "wrong sum": 460}.get(kind, 204)
        if answer.status_code in {400, 409} - {expected} and answer.json()["code"] in ("conflict", "offset_mismatch"):
            raise Lost("tus: conflict")  # a writer of an earlier leg came in between: HEAD says how it stands
        if answer.status_code != 204:
            line.require(answer, expected)
            return position
        if kind == "wrong offset":
            return self._came_to(answer, position + 1, end + 1, floor)
        # With a wrong sum: interrupted before that was known, and nothing is kept.
        return self._came_to(answer, position, position if kind == "wrong sum" else end, floor)

    def _came_to(self, answer: httpx.Response, first: int, last: int, floor: int) -> int:
        """Where it stands after a request that was not refused."""
        self._on.overtake()
        offset = int(answer.headers["Upload-Offset"])
        if not first <= offset <= last:
            self._on.complain(f"PATCH of {first} to {last} came to {offset}")
        elif offset < last:
            self._on.did("tus: interrupted")  # by a node that leaves
        self._on.heard(offset, floor)
        return offset

    async def _leave_a_slow_patch(self, line: TusLine, position: int, goal: int) -> int:
        """A request that stays; somebody else goes on from where its first half has come to."""
        data = self._on.it.content[position : self._on.random.randint(position + 1, goal)]
        ghost = self._on.haunt(self._haunt(position, data, self._on.overtaken))
        offset = position
        try:
            async with asyncio.timeout(2):
                offset = await self._taken(line, position + len(data) // 2 + 1, ghost)
        except TimeoutError:
            raise Lost("the ghost did not come") from None
        finally:
            if offset == position:
                # It may come after whoever overtakes it, and then it would be right in what it sends.
                ghost.cancel()
                await asyncio.gather(ghost, return_exceptions=True)
        self._on.heard(offset, position)
        self._on.did("tus: ghost", position, position + len(data), "at", offset)
        return offset

    async def _taken(self, line: TusLine, at_least: int, ghost: asyncio.Task[None]) -> int:
        """Waits until so much is acknowledged, and returns how much is. (HEAD would end the ghost.)"""
        while True:
            answer = await line.ask("GET", f"/v1/uploads/{self._on.it.upload}")
            line.require(answer, 200)
            if (offset := int(answer.json()["offset"])) >= at_least:
                return offset
            if ghost.done():
                raise Lost("the ghost ended")
            await asyncio.sleep(0.05)

    async def _haunt(self, position: int, data: bytes, overtaken: asyncio.Event) -> None:
        """Brings some of the file, and when somebody else goes on, something else."""

        async def pieces() -> AsyncIterator[bytes]:
            yield data[: len(data) // 2 + 1]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3):
                    await overtaken.wait()
                    yield NOT_THE_FILE * (len(data) - len(data) // 2 - 1)

        with contextlib.suppress(Lost):
            async with tus_line(self._on.door.port, self._on.token) as line:
                answer = await line.patch(self._on.it.upload, position, pieces())
                self._on.did("tus: ghost was answered", answer.status_code, answer.headers.get("Upload-Offset"))

    async def _pieces(self, data: bytes) -> AsyncIterator[bytes]:
        size = self._on.random.randint(1, 65_536)
        for start in range(0, len(data), size):
            yield data[start : start + size]
            await asyncio.sleep(0)
