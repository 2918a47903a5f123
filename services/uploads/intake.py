"""The way over the socket: chunks of one handle go to a writer, credit and errors come back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final

from hub.api import ErrorCode, Handle, HubError, Settings
from services.uploads.writer import Writer

_DROPPED_WINDOWS: Final = 4  # so much that nobody expects, and the handle is closed

Spawn = Callable[[Coroutine[Any, Any, None]], None]


class UploadIntake:
    """Implements ``Intake``. ``begin`` follows when there is a writer; nobody has been told of the handle before."""

    def __init__(self, settings: Settings, spawn: Spawn, on_over: Callable[[UploadIntake], None]) -> None:
        self._settings = settings
        self._spawn = spawn
        self._on_over = on_over
        self._handle: Handle
        self._writer: Writer
        self._begun = False
        self._astray = False
        """It was told where to go on, and has not yet."""
        self._dropped = 0
        self._heard_at = asyncio.get_running_loop().time()
        self._over = self._leaving = False

    def grant(self) -> tuple[int, int]:
        """(offset, window): how far the client may send from now on."""
        return self._writer.grant()

    def begin(self, writer: Writer, handle: Handle) -> None:
        """From now on chunks may come. Raises ``unavailable`` when the connection was lost meanwhile."""
        self._writer = writer
        self._handle = handle
        if self._over:
            self._spawn(self._finish())
            raise HubError(ErrorCode.UNAVAILABLE, "the connection is gone")
        self._begun = True

    # --- Intake

    def chunk(self, offset: int, data: memoryview) -> None:
        """Takes a chunk, or says where the client is to go on: once, until it does."""
        if not self._begun:
            return
        writer = self._writer
        end = offset + len(data)
        if not writer.takes:
            return  # its client is about to be told why
        if offset == writer.accepted and end <= writer.edge:
            self._heard_at = asyncio.get_running_loop().time()
            self._astray = False
            self._dropped = 0
            writer.take(data)
            return
        self._dropped += len(data)
        if self._astray:
            self._drop()
            return
        self._astray = True
        details = {"offset": writer.accepted}
        if offset != writer.accepted:
            text = f"the next byte is {writer.accepted}, and this chunk begins at {offset}"
            raise HubError(ErrorCode.OFFSET_MISMATCH, text, details=details)
        if end > writer.size:
            text = f"the upload has {writer.size} bytes, and this chunk ends at {end}"
            raise HubError(ErrorCode.TOO_LARGE, text, details=details)
        text = "this chunk goes beyond the credit; wait for the next, and send no more than its window"
        raise HubError(ErrorCode.RATE_LIMITED, text, details=details)

    def lost(self) -> None:
        """What has come is kept; whoever comes back goes on there."""
        if not self._begun:
            self._over = True
        elif not self._over:
            self._end()
            self._spawn(self._finish())

    # --- of the writer

    def acknowledged(self, _: int) -> None:
        """The client may send more."""
        if not self._over:
            self._handle.credit(*self.grant())

    def ended(self, error: HubError | None) -> None:
        """The writer takes no more: all is there, or something has ended it."""
        if self._over:
            return
        if error is not None:
            offset = {"offset": self._writer.acknowledged}
            told = HubError(
                error.code,
                error.message,
                retry=error.retry,
                retry_after_ms=error.retry_after_ms,
                details=(error.details or {}) | offset,
            )
            self._handle.refuse(told)
        self._end()

    # --- of the clock

    def tick(self, now: float) -> None:
        """Repeats the credit; closes the handle of a client that does nothing with it."""
        if not self._writer.takes:
            return
        if now - self._heard_at < self._settings.uploads_idle_s:
            if self._writer.accepted < self._writer.size:
                self._handle.credit(*self.grant())
            return
        if self._leaving:
            return
        idle = HubError(
            ErrorCode.TIMEOUT,
            f"no byte has come for {self._settings.uploads_idle_s:g} s; go on with upload.resume",
            details={"offset": self._writer.accepted},
        )
        self._spawn(self._finish(idle))

    def _drop(self) -> None:
        """What was under way when the error was sent is nobody's fault; what never ends is."""
        if self._dropped <= _DROPPED_WINDOWS * self._settings.uploads_window_bytes:
            return
        text = "chunks come that were not asked for; go on with upload.resume, at its offset"
        self._spawn(self._finish(HubError(ErrorCode.RATE_LIMITED, text)))
        self._dropped = 0

    async def _finish(self, farewell: HubError | None = None) -> None:
        self._leaving = True
        # What goes wrong `ended` has said, to whoever is still there.
        with contextlib.suppress(HubError):
            await self._writer.finish(farewell)

    def _end(self) -> None:
        self._over = True
        self._handle.close()
        self._on_over(self)
