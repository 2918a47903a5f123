"""Takes the bytes of one upload in order, has them stored, and has what is stored recorded: then it is acknowledged.

Two loops, one after the other's heels: one gives blocks to the store, one tells PostgreSQL how far it has come. Between
them and the client is the window: what was taken and is not acknowledged is never more.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

import structlog

from hub.api import ErrorCode, HubError, Settings, not_found
from services.uploads.records import Records, Stored
from services.uploads.shapes import State, Upload, wrong_state
from services.uploads.store import Part, Piece, Store

OnAck = Callable[[int], None]
OnEnd = Callable[[HubError | None], None]

# What is stored is recorded when it has grown to a quarter of the window, or this old: one commit for many blocks.
_RECORDS_PER_WINDOW: Final = 4
_RECORD_S: Final = 0.05
_AGAIN_S: Final = 0.25
_SMALL_BYTES: Final = 4096  # pieces are put together up to this: each takes a quarter of a kilobyte besides its bytes

_log = structlog.get_logger(__name__)


class Share(Protocol):
    """What all writers of a process share."""

    held: int
    """Bytes that all of them may hold by what was granted."""

    def window(self, held: int) -> int:
        """Bytes that one of them may hold now that holds ``held`` of all."""


class Writer:
    """One of an upload's writers: the one that counts, until another one seizes the upload.

    One task runs it (``run``); ``take`` and everything else is called on the event loop. ``hold``: nothing is recorded
    before ``finish(verified=True)``.
    """

    def __init__(
        self,
        upload: Upload,
        token: str,
        tools: tuple[Records, Store, Settings, Share],
        calls: tuple[OnAck, OnEnd],
        *,
        parts: int = 0,
        hold: bool = False,
    ) -> None:
        self._records, self._store, self._settings, self._share = tools
        self._on_ack, self._on_end = calls
        self.upload = upload
        self.token = token
        self.size = upload.size
        self.accepted = self.acknowledged = upload.offset
        self._stored = self._edge = upload.offset
        self._held = 0
        self._stretch = self._store.stretch(upload.org, upload.id, token)
        self._digest = hashlib.sha256() if upload.offset == 0 else None
        self._hold = hold
        self._pieces: deque[Piece] = deque()
        self._news: list[Stored] = []
        self._parts = parts
        self._since = 0.0
        """When the oldest byte that is not stored came."""
        self._finishing = self._verified = self._is_late = False
        self._wrote = False
        self._recorded = False
        """Something of what it wrote is recorded, or may be: an answer of PostgreSQL was lost."""
        self._error: HubError | None = None
        self._farewell: HubError | None = None
        self._wake = asyncio.Event()
        self._more = asyncio.Event()
        self._moved = asyncio.Event()
        self.ended: Final = asyncio.Event()
        """Nothing is written any more, by this writer."""

    @property
    def error(self) -> HubError | None:
        """What ended it."""
        return self._error

    def grant(self) -> tuple[int, int]:
        """(offset, window): what is acknowledged, and how many bytes more may come. Never less than granted before."""
        self._edge = max(self._edge, min(self.acknowledged + self._window, self.size))
        self._hold_more()
        return self.acknowledged, self._edge - self.acknowledged

    @property
    def edge(self) -> int:
        """Up to where bytes may come."""
        return self._edge

    def room(self) -> int:
        """Bytes it takes now."""
        if not self.takes:
            return 0
        # Nothing of what is held back is acknowledged before the end; then what is stored makes room.
        safe = self._stored if self._hold else self.acknowledged
        return max(0, min(safe + self._window, self.size) - self.accepted)

    @property
    def _window(self) -> int:
        return self._share.window(self._held)

    def _hold_more(self, *, over: bool = False) -> None:
        """All writers together know how much this one may hold."""
        safe = self._stored if self._hold else self.acknowledged
        held = 0 if over else max(0, max(self._edge, self.accepted) - safe)
        self._share.held += held - self._held
        self._held = held

    @property
    def takes(self) -> bool:
        """Whether what comes now is still stored. Bytes taken later would wait for somebody who has left."""
        return not self._finishing and self._error is None

    def take(self, data: Piece) -> None:
        """Takes bytes that follow the ones before. Whoever calls it has looked at ``room``, or at ``takes``."""
        if not self._pieces:
            self._since = asyncio.get_running_loop().time()
        if self._pieces and len(self._pieces[-1]) + len(data) <= _SMALL_BYTES:
            self._pieces[-1] = b"".join((self._pieces[-1], data))
        else:
            self._pieces.append(data)
        self.accepted += len(data)
        if self.accepted > self._edge:
            self._hold_more()
        self._wake.set()

    async def wait_room(self) -> int:
        """Bytes that it takes, as soon as there are any. Raises what has ended the writer."""
        while not (room := self.room()):
            if self._error is not None:
                raise self._error
            if self._finishing or self.accepted == self.size:
                raise self._farewell or _over()
            self._moved.clear()
            await self._moved.wait()
        return room

    async def finish(self, farewell: HubError | None = None, *, verified: bool = False) -> int:
        """Has all that was taken acknowledged, and lets go of the upload; returns how far it has come.

        ``farewell``: what whoever brings the bytes is told, if it is not he who wants this. ``verified``: says whoever
        brings bytes that are held back, when they are what they should be; if somebody else wants an end before that,
        they are forgotten. Raises what ended the writer, if it has ended before.
        """
        if self._hold and not (verified or self._verified):
            self.stop(farewell or _over())
        self._verified = self._verified or verified
        self._farewell = self._farewell or farewell
        self._finishing = True
        for event in (self._wake, self._more, self._moved):
            event.set()
        await self.ended.wait()
        if self._error is not None:
            raise self._error
        return self.acknowledged

    async def discard(self) -> None:
        """Forgets what was taken and not recorded, and lets go of the upload. Never raises."""
        self.stop(_over())
        await self.ended.wait()

    def stop(self, error: HubError) -> None:
        """Ends it with ``error``; what is not acknowledged is lost."""
        if self._error is None and not self.ended.is_set():
            self._error = error
            for event in (self._wake, self._more, self._moved):
                event.set()

    # --- the two loops

    async def run(self) -> None:
        """Until it is finished, or something has ended it. Whoever owns it awaits this; it is not to be cancelled."""
        try:
            await asyncio.gather(self._kept(self._store_all()), self._kept(self._record_all()))
            await self._let_go()
        finally:
            self._pieces.clear()
            self._hold_more(over=True)
            self.ended.set()
            self._moved.set()
            # Whoever wanted it to end does not matter to a client whose file is there.
            self._on_end(None if self.acknowledged == self.size else self._error or self._farewell)

    async def _let_go(self) -> None:
        try:
            await self._stretch.close()
            if self._wrote and not self._recorded:
                await self._stretch.discard()
        except HubError as error:
            _log.warning("upload_stretch_not_closed", reason=error.message)
        except Exception:
            _log.exception("upload_stretch_not_closed")
        try:
            if self.acknowledged < self.size:
                await self._records.release(self.upload.org, self.upload.id, self.token)
        except HubError as error:
            # Whoever goes on waits a little longer, for nobody.
            _log.info("upload_not_released", reason=error.message)

    async def _kept(self, loop: Coroutine[Any, Any, None]) -> None:
        """What ends one loop ends the other."""
        try:
            await loop
        except HubError as error:
            self.stop(error)
        except Exception:
            _log.exception("upload_writer_failed")
            self.stop(HubError(ErrorCode.INTERNAL, "the upload could not be stored; it is in the hub's log"))

    @property
    def _all_taken(self) -> bool:
        return self._finishing or self.accepted == self.size

    async def _store_all(self) -> None:
        while self._error is None and not (self._all_taken and not self._pieces):
            self._wake.clear()
            if not self._is_due():
                await self._pause()
                continue
            block, size = self._block()
            self._wrote = True
            part = await self._stretch.write(block, self._digest)
            self._note(part, size)
        self._more.set()

    def _is_due(self) -> bool:
        """Whether what waits is to be stored now: enough for a block, long enough there, or the last."""
        if not self._pieces:
            return False
        if self.accepted - self._stored >= self._block_bytes or self._all_taken or not self.room():
            return True
        return asyncio.get_running_loop().time() >= self._since + self._patience_s

    @property
    def _block_bytes(self) -> int:
        return min(self._store.block_bytes, max(1, self._window // 2))

    @property
    def _patience_s(self) -> float:
        """Where each block is an object, those of a slow upload get larger the more there are."""
        patience_s = self._settings.uploads_flush_s
        return patience_s if self._store.parts_grow else patience_s * (1 + self._parts / 100)

    async def _pause(self) -> None:
        until = self._since + self._patience_s if self._pieces else None
        try:
            async with asyncio.timeout_at(until):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _block(self) -> tuple[list[Piece], int]:
        """What goes to the store next."""
        block: list[Piece] = []
        size = 0
        while self._pieces and (not block or size + len(self._pieces[0]) <= self._block_bytes):
            block.append(self._pieces.popleft())
            size += len(block[-1])
        self._since = asyncio.get_running_loop().time()
        return block, size

    def _note(self, part: Part, size: int) -> None:
        """``size`` bytes more are in ``part``, which is new or has grown."""
        self._stored += size
        news = Stored(self._stored - part.size, part)
        if self._news and self._news[-1].part.object == part.object:
            self._news[-1] = news
        else:
            self._news.append(news)
            self._parts += 1
        self._more.set()
        if self._hold:
            self._hold_more()
            self._moved.set()

    async def _record_all(self) -> None:
        while self._error is None:
            over = self._all_taken and self._stored == self.accepted and (self._verified or not self._hold)
            waits = self._stored - self.acknowledged
            if waits and (over or self._is_worth_recording(waits)):
                await self._record()
            elif over:
                return
            else:
                await self._wait_for_more(bool(waits) and not self._hold)

    def _is_worth_recording(self, waits: int) -> bool:
        if self._hold:
            return False
        return waits * _RECORDS_PER_WINDOW >= self._window or self._is_late

    async def _wait_for_more(self, not_long: bool) -> None:
        self._more.clear()
        try:
            async with asyncio.timeout(_RECORD_S if not_long else None):
                await self._more.wait()
            self._is_late = False
        except TimeoutError:
            self._is_late = True

    async def _record(self) -> None:
        news, self._news = self._news, []
        span = (self.acknowledged, self._stored)
        sha256 = self._digest.hexdigest() if self._digest is not None and span[1] == self.size else None
        await self._insist(span, news, sha256)
        self.acknowledged = span[1]
        self._hold_more()
        self._moved.set()
        self._on_ack(self.acknowledged)

    async def _insist(self, span: tuple[int, int], news: list[Stored], sha256: str | None) -> None:
        """Records, also when the database is away for a moment: what was stored need not be sent again."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.uploads_insist_s
        while True:
            before, self._recorded = self._recorded, True
            try:
                if not await self._records.record(self.upload, self.token, span, news, sha256):
                    self._recorded = before
                    await self._check_recorded(span[1])
                return
            except HubError as error:
                if error.code is not ErrorCode.UNAVAILABLE or self._error is not None or loop.time() >= until:
                    raise
            await asyncio.sleep(_AGAIN_S)

    async def _check_recorded(self, offset: int) -> None:
        """Raises why it was refused; but it may have been recorded before, by an attempt whose answer was lost."""
        upload = await self._records.get(self.upload.org, self.upload.id)
        if upload is None or upload.offset != offset:
            raise self._why_not(upload)

    def _why_not(self, upload: Upload | None) -> HubError:
        """This writer does not count any more."""
        if upload is None:
            return not_found("upload")
        if upload.state is not State.RECEIVING:
            return wrong_state(upload.state)
        if upload.paused:
            return paused()
        return HubError(ErrorCode.CONFLICT, "another connection has gone on with this upload")


def paused() -> HubError:
    """Its owner has paused it."""
    return HubError(ErrorCode.CONFLICT, "the upload was paused", details={"state": "paused"})


def _over() -> HubError:
    return HubError(ErrorCode.CONFLICT, "no more of this upload is taken here; resume it")
