"""Frames by long-polling: one request after the other, each with the cursor of the last answer (PROTOCOL section 7)."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import Raw, Struct

from hub.client.backoff import Backoff
from hub.client.door import Door
from hub.client.errors import ProtocolViolation
from hub.client.http_transport import HttpTransport
from hub.client.options import ClientOptions, TransportName
from hub.client.refusals import passes
from hub.client.transport import ABNORMAL, CannotConnect, Deliver, Ended, MakeHello
from hub.protocol.codes import CloseCode

PATH = "/v1/poll"
_GATEWAY_STATUS = frozenset((502, 504))


class _Ask(Struct):
    cursor: str
    wait: float


class _Answer(Struct):
    cursor: str
    frames: list[Raw]


class PollTransport(HttpTransport):
    """Implements ``Transport``. A lost answer is asked for again: the hub keeps it until the next cursor."""

    name: TransportName = "poll"
    acknowledges = True

    def __init__(self, door: Door, token: str | None, ticket: str | None, options: ClientOptions) -> None:
        super().__init__(door, token, ticket, options)
        self._first: _Answer
        self._wait_s = options.poll_wait_s

    async def open(self, hello: MakeHello, timeout_s: float) -> None:
        """Returns when the first answer has come. Raises ``CannotConnect``."""
        body = self.wire.encode(await hello())
        try:
            async with asyncio.timeout(timeout_s):
                text = await self._door.post(self._door.address(PATH, self._ticket), body, self.token)
        except TimeoutError:
            raise CannotConnect(Ended(ABNORMAL, f"no answer within {timeout_s:g} s", in_the_way=True)) from None
        try:
            self._first = _read(text)
        except ProtocolViolation as problem:
            raise CannotConnect(Ended(ABNORMAL, str(problem), in_the_way=True)) from None

    async def _receive(self, deliver: Deliver) -> Ended:
        answer, address = self._first, self._door.address(PATH)
        while True:
            deliver(None)
            for frame in answer.frames:
                deliver(bytes(frame))
            # A poll that comes late would take the session back.
            await self._poster.released()
            try:
                answer = await self._ask(address, answer.cursor)
            except CannotConnect as problem:
                return _ended_by(problem.ended)

    async def _ask(self, address: str, cursor: str) -> _Answer:
        """Raises ``CannotConnect`` when asking again is no use any more, ``ProtocolViolation``."""
        backoff = Backoff(self._options)
        loop = asyncio.get_running_loop()
        for last in (*[False] * (self._options.poll_attempts - 1), True):
            body, asked_at = msgspec.json.encode(_Ask(cursor, self._wait_s)), loop.time()
            limit_s = self._wait_s + self._options.open_timeout_s
            try:
                async with asyncio.timeout(limit_s):
                    return _read(await self._door.post(address, body, self.token))
            except TimeoutError:
                ended = Ended(ABNORMAL, f"no answer to a poll for {limit_s:g} s")
            except CannotConnect as problem:
                ended = problem.ended
            if last or not _may_repeat(ended):
                raise CannotConnect(ended)
            if ended.http_status in _GATEWAY_STATUS and self._wait_less(loop.time() - asked_at):
                continue
            await asyncio.sleep(max(backoff.next_s(), ended.retry_after_s))
        raise AssertionError("unreachable")

    def _wait_less(self, waited_s: float) -> bool:
        """Something on the way bears no more than this. False: that it gave up has nothing to do with waiting."""
        least_s = self._options.poll_least_wait_s
        if waited_s < least_s or self._wait_s <= least_s:
            return False
        self._wait_s = max(least_s, min(self._wait_s, waited_s) / 2)
        return True


def _read(text: bytes) -> _Answer:
    try:
        return msgspec.json.decode(text, type=_Answer)
    except msgspec.DecodeError as problem:
        raise ProtocolViolation(f"not an answer to {PATH}: {problem}") from None


def _may_repeat(ended: Ended) -> bool:
    return ended.http_status is None or passes(ended.http_status)


def _ended_by(ended: Ended) -> Ended:
    """The end of the connection. What the hub does not know or understand any more is begun anew by a ``hello``."""
    status = ended.http_status
    if status == 401 and not ended.in_the_way:
        return ended
    if ended.in_the_way and status in (400, 404):
        return Ended(CloseCode.DRAINING, f"the hub does not go on: {ended.reason}")
    barred = ended.in_the_way and status is not None and not passes(status)
    return Ended(ABNORMAL, f"could not poll: {ended.reason}", retry_after_s=ended.retry_after_s, in_the_way=barred)
