"""A leg of an upload over the socket, with what a careless or wicked client may do there.

Whoever was overtaken goes on sending something else than the file: where a byte of that is found, two writers were at
work.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from hub.protocol.codec import Encoding
from tests.system.upload_journey import NOT_THE_FILE, Journey
from tests.system.upload_lines import Grip, Lost, Refused, SocketLine, socket_line


class SocketLeg:
    """One connection, and perhaps a ghost that keeps it."""

    def __init__(self, journey: Journey) -> None:
        self._on = journey

    async def travel(self, encoding: Encoding) -> None:
        """Raises ``Lost`` and ``Refused``."""
        async with contextlib.AsyncExitStack() as stack:
            line = await stack.enter_async_context(
                socket_line(self._on.door.port, self._on.token, encoding, self._on.complain)
            )
            grip = await self._grasp(line)
            try:
                position = await self._bring(line, grip, self._on.goal())
                await self._after(stack, line, grip, position)
            finally:
                self._saw(grip)  # whatever has ended it: what was acknowledged stays

    async def _after(self, stack: contextlib.AsyncExitStack, line: SocketLine, grip: Grip, position: int) -> None:
        """Everything is there, or something else is due."""
        if position == len(self._on.it.content):
            await self._all_is_there(line, grip)
        elif self._on.it.fate == "cancelled" and self._on.random.random() < 0.5:
            await self._cancel(line)
        elif self._on.it.fate == "abandoned" and self._on.random.random() < 0.5:
            self._on.finish("abandoned")
        else:
            await self._end_of_leg(stack, line, grip, position)

    async def _grasp(self, line: SocketLine) -> Grip:
        floor = self._on.it.acknowledged
        if self._on.it.upload:
            grip, answer = await line.begin("upload.resume", upload=self._on.it.upload)
        else:
            grip, answer = await self._create(line)
        self._on.overtake()
        if answer["upload"] != (self._on.it.upload or answer["upload"]):
            self._on.complain(f"asked for {self._on.it.upload}, got {answer['upload']}")
        self._on.it.upload = answer["upload"]
        self._on.heard(answer["offset"], floor)
        if self._on.is_haunted and self._on.random.random() < 0.5:
            await asyncio.sleep(0.2)  # so that whoever was overtaken has his chance
        return grip

    async def _create(self, line: SocketLine) -> tuple[Grip, dict[str, Any]]:
        it = self._on.it
        self._on.did("create")
        asked: dict[str, Any] = {"filename": it.filename, "size": len(it.content), "key": f"key-{it.number}"}
        asked["metadata"] = {"guest_id": it.number}
        if it.told_sha256:
            asked["sha256"] = it.told_sha256
        if self._on.random.random() < 0.2:
            # The answer is lost; whoever asks again, with the same key, gets the same upload.
            self._on.did("create: answer lost")
            self._on.door.stall("to_client")
            with contextlib.suppress(Lost, Refused):
                try:
                    async with asyncio.timeout(0.3):
                        await line.begin("upload.create", **asked)
                except TimeoutError:
                    pass
            self._on.door.cut()
            self._on.door.resume()
            raise Lost("the answer to create")
        return await line.begin("upload.create", **asked)

    async def _bring(self, line: SocketLine, grip: Grip, goal: int) -> int:
        """Sends up to ``goal``, some of it wrongly; returns where it stands."""
        position = grip.offset
        mischief_at = self._on.random.randrange(position, goal + 1) if self._on.random.random() < 0.4 else goal + 1
        size = self._on.random.choice(
            (grip.chunk_bytes, grip.chunk_bytes, 1 + self._on.random.randrange(grip.chunk_bytes))
        )
        while position < goal:
            if grip.trouble is not None:
                position = self._rewound(grip)
            room = min(grip.limit, goal) - position
            if room <= 0:
                await line.change(grip)
                continue
            if position >= mischief_at:
                mischief_at = goal + 1
                position = await self._mischief(line, grip, position)
                continue
            data = self._on.it.content[position : position + min(size, room)]
            await line.chunk(grip, position, data)
            position += len(data)
            self._saw(grip)
        return position

    def _saw(self, grip: Grip) -> None:
        if grip.offset > len(self._on.it.content):
            self._on.complain(f"credit {grip.offset} of {len(self._on.it.content)}")
        self._on.it.acknowledged = max(self._on.it.acknowledged, grip.offset)

    def _rewound(self, grip: Grip) -> int:
        """Where to go on after an error about this handle. Raises ``Lost`` when it is not by this handle."""
        trouble = grip.trouble
        assert trouble is not None
        grip.trouble = None
        details = trouble.details or {}
        if trouble.code in ("offset_mismatch", "rate_limited"):
            offset = details.get("offset")
            if not isinstance(offset, int) or not grip.offset <= offset <= len(self._on.it.content):
                self._on.complain(f"told to go to {offset}: {trouble}")
                raise Lost("nonsense")
            return offset
        if trouble.code in ("unavailable", "timeout"):
            raise Lost(f"the handle: {trouble.code}")
        if trouble.code == "conflict":
            # By whom, if not by us? A request of an earlier leg that came in late, or a handle that was idle.
            raise Lost(f"the handle: conflict, {trouble.message}")
        self._on.complain(f"an error for a good chunk: {trouble}")
        raise Lost("a fault")

    async def _mischief(self, line: SocketLine, grip: Grip, position: int) -> int:
        """One thing that is not done; whatever it was, the hub says where to go on, and that is where one was."""
        kind = self._on.random.choice(("twice", "hole", "beyond credit", "beyond size"))
        if kind == "twice" and position > 0:
            first = max(0, position - grip.chunk_bytes)
            wrong = first, self._on.it.content[first:position], "offset_mismatch"
        elif kind == "beyond credit" and grip.limit + grip.chunk_bytes < len(self._on.it.content):
            return await self._exceed_credit(line, grip, position)
        elif kind == "beyond size" and len(self._on.it.content) - position < grip.chunk_bytes and position < grip.limit:
            wrong = position, NOT_THE_FILE * (len(self._on.it.content) - position + 1), "too_large"
        elif position + 2 < min(grip.limit, len(self._on.it.content)):
            wrong = position + 1, NOT_THE_FILE, "offset_mismatch"
        else:
            return position
        self._on.did(kind)
        offset, data, code = wrong
        await line.chunk(grip, offset, data)
        return await self._told(line, grip, position, code)

    async def _exceed_credit(self, line: SocketLine, grip: Grip, position: int) -> int:
        """Sends on to what credit allows, and then more, before anything can have been acknowledged."""
        self._on.did("beyond credit")
        while position < grip.limit:
            data = self._on.it.content[position : min(position + grip.chunk_bytes, grip.limit)]
            await line.chunk(grip, position, data)
            position += len(data)
        # Credit may have come meanwhile, so perhaps it is no offence; then the bytes count.
        data = self._on.it.content[position : position + grip.chunk_bytes]
        await line.chunk(grip, position, data)
        while grip.trouble is None and grip.offset < position:
            await line.change(grip)
        return position if grip.trouble is None else self._rewound(grip)

    async def _told(self, line: SocketLine, grip: Grip, position: int, code: str) -> int:
        while grip.trouble is None:
            await line.change(grip)
        trouble = grip.trouble
        if trouble.code in ("unavailable", "timeout", "conflict"):
            return self._rewound(grip)
        grip.trouble = None
        if trouble.code != code or (trouble.details or {}).get("offset") != position:
            self._on.complain(f"expected {code} at {position}, got {trouble}")
            raise Lost("a fault")
        return position

    async def _all_is_there(self, line: SocketLine, grip: Grip) -> None:
        while grip.offset < len(self._on.it.content):
            if grip.trouble is not None:
                self._rewound(grip)
                return
            await line.change(grip)
            self._saw(grip)
        self._on.finish("acknowledged")

    async def _cancel(self, line: SocketLine) -> None:
        self._on.asked_to_cancel = True
        answer = await line.call("upload.cancel", upload=self._on.it.upload)
        if answer["state"] != "cancelled":
            self._on.complain(f"cancelled, and is {answer['state']}")
        self._on.finish("cancelled")

    async def _end_of_leg(self, stack: contextlib.AsyncExitStack, line: SocketLine, grip: Grip, position: int) -> None:
        """What becomes of a connection that is not needed any more."""
        match self._on.random.choice(("close", "cut", "pause", "status", "ghost", "ghost")):
            case "cut":
                self._on.did("reset")
                self._on.door.cut()
            case "pause":
                self._on.did("paused")
                floor = max(self._on.it.acknowledged, grip.offset)
                answer = await line.call("upload.pause", upload=self._on.it.upload)
                if not answer["paused"]:
                    self._on.complain(f"paused, and is not: {answer}")
                self._on.heard(answer["offset"], floor)
                await asyncio.sleep(self._on.random.uniform(0, 0.3))
            case "status":
                floor = max(self._on.it.acknowledged, grip.offset)
                self._on.heard((await line.call("upload.status", upload=self._on.it.upload))["offset"], floor)
            case "ghost":
                self._on.did("ghost", "at", position)
                # It keeps the connection, and the next leg has one of its own.
                self._on.haunt(self._haunt(stack.pop_all(), line, grip, position, self._on.overtaken))

    async def _haunt(
        self,
        stack: contextlib.AsyncExitStack,
        line: SocketLine,
        grip: Grip,
        position: int,
        overtaken: asyncio.Event,
    ) -> None:
        """Goes on with the file until somebody else was told that he may; and then with something else."""
        async with stack:
            with contextlib.suppress(Lost):
                for _ in range(200):
                    if overtaken.is_set():
                        break
                    room = min(grip.limit, len(self._on.it.content) - 1) - position
                    if room > 0 and grip.trouble is None:
                        data = self._on.it.content[position : position + min(room, grip.chunk_bytes)]
                        await line.chunk(grip, position, data)
                        position += len(data)
                    await asyncio.sleep(0.01)  # as fast as it goes there would be nothing left to haunt
                if not overtaken.is_set():
                    return
                self._on.did("ghost sends something else", "at", position, grip.offset, "after", grip.trouble)
                for _ in range(5):
                    # It does not know whether its last bytes were taken, so it tries both.
                    for offset in (position, grip.offset):
                        await line.chunk(grip, offset, NOT_THE_FILE * min(64, len(self._on.it.content)))
                    await asyncio.sleep(0.05)  # over the time that a takeover may take
