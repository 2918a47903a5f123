"""The body of one request, into a writer: piece by piece as it comes, and never more of it held than there is room for.

Whatever ends it, what has come is acknowledged; but with a checksum all of it is, or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from litestar.types import Receive

from hub.api import Ending, ErrorCode, HubError
from services.uploads.tus.headers import Checksum
from services.uploads.writer import Writer

_GO_ON: Final = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.TOKEN_EXPIRED})

EndedBy = Callable[[HubError | None], None]


class Opener(Protocol):
    """How a writer is had."""

    def __call__(self, on_end: EndedBy, *, hold: bool) -> Coroutine[Any, Any, Writer]:
        """A writer that counts from now on."""


class Body:
    """One request's. ``idle_s``: a client that sends nothing for so long is given up. ``allowed``: asked with each
    piece, raises when no more may come."""

    def __init__(
        self,
        receive: Receive,
        length: int | None,
        checksum: Checksum | None,
        idle_s: float,
        allowed: Callable[[], None],
    ) -> None:
        self._receive = receive
        self._allowed = allowed
        self._length = length
        self._checksum = checksum
        self._idle_s = idle_s
        self._hash = checksum.hasher() if checksum is not None else None

    async def write(self, opener: Opener, offset: int, ending: Ending) -> int:
        """Writes it at ``offset``; returns how far the upload has come.

        ``ending`` ends it; here it also gets what ends the writer. Raises what ended it, when everything that counts is
        stored: ``offset_mismatch``, ``too_large`` for what is beyond the upload's size, ``checksum_mismatch``,
        ``timeout``, and what a writer raises. No errors: a client that has gone; a node that leaves, and a token that
        has expired. After these the client goes on from what it is told, by its next request.
        """

        ended_by_writer = False

        def ended(error: HubError | None) -> None:
            nonlocal ended_by_writer
            if error is not None and not ending.done():
                ended_by_writer = True
                ending.set_result(error)

        writer = await opener(ended, hold=self._checksum is not None)
        failure: HubError | None = None
        whole = polite = False
        try:
            self._check(writer, offset)
            whole = await self._pump(writer, ending)
            if whole and not self._is_right:
                raise HubError(ErrorCode.CHECKSUM_MISMATCH, "the body does not have the checksum that was given")
        except HubError as error:
            failure = error
            polite = ending.done() and not ended_by_writer and error.code in _GO_ON
        finally:
            keeps = self._checksum is None or (whole and failure is None)
            # Whoever stops the server does not stop this.
            done = await asyncio.shield(asyncio.ensure_future(_close(writer, keeps=keeps)))
        if failure is not None and not polite:
            raise failure
        return done

    @property
    def _is_right(self) -> bool:
        return self._checksum is None or self._hash is None or self._hash.digest() == self._checksum.digest

    def _check(self, writer: Writer, offset: int) -> None:
        if offset != writer.accepted:
            raise wrong_offset(writer.accepted)
        if self._length is not None and offset + self._length > writer.size:
            raise too_long(writer.size)

    async def _pump(self, writer: Writer, ending: Ending) -> bool:
        """Whether the body came whole; if not, its client has gone. Raises what ends it."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as alarm:

                def ring(_: Ending) -> None:
                    # What was told in the turn in which the body has ended comes too late.
                    with contextlib.suppress(RuntimeError):
                        alarm.reschedule(loop.time())

                ending.add_done_callback(ring)
                try:
                    while not ending.done():
                        alarm.reschedule(loop.time() + self._idle_s)
                        message = await self._receive()
                        # To wait for the store is not the client's fault; that has deadlines of its own.
                        alarm.reschedule(None)
                        if message["type"] != "http.request":
                            return False
                        self._allowed()
                        await self._take(writer, message["body"])
                        if not message["more_body"]:
                            return True
                finally:
                    ending.remove_done_callback(ring)
        except TimeoutError:
            pass
        if ending.done():
            raise ending.result()
        raise HubError(
            ErrorCode.TIMEOUT, f"no byte came for {self._idle_s:g} s; what had come is kept, go on from there"
        )

    async def _take(self, writer: Writer, piece: bytes) -> None:
        if self._hash is not None:
            self._hash.update(piece)
        fits = memoryview(piece)[: writer.size - writer.accepted]
        left = fits
        while left:
            room = writer.room() or await writer.wait_room()
            writer.take(left[:room])
            left = left[room:]
        if len(fits) < len(piece):
            raise too_long(writer.size)


async def _close(writer: Writer, *, keeps: bool) -> int:
    if keeps:
        return await writer.finish(verified=True)
    await writer.discard()
    return writer.acknowledged


def wrong_offset(expected: int) -> HubError:
    """The bytes begin elsewhere than they should."""
    text = f"the upload goes on at {expected}; ask for its offset (HEAD) and send from there"
    return HubError(ErrorCode.OFFSET_MISMATCH, text, details={"offset": expected})


def too_long(size: int) -> HubError:
    """The body goes beyond the upload's end."""
    text = f"the body goes beyond the upload's {size} bytes; nothing beyond them was taken"
    return HubError(ErrorCode.TOO_LARGE, text, details={"limit": size})
