"""``Upload``: one document on its way to the hub, as whoever uploads it sees it. The way itself: ``upload_journey``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Generator
from types import TracebackType
from typing import Any, Literal

from hub.client.errors import ClientError, ConnectionLost, UploadFailed
from hub.client.upload_journey import Journey
from hub.client.upload_source import Readable
from hub.client.upload_words import Asked, UploadInfo, UploadOwner, UploadProgress, UploadState

logger = logging.getLogger("hub.client")

OnProgress = Callable[[UploadProgress], None]
_Wish = Literal["go", "pause", "cancel"]


class Upload:
    """A document on its way. Made by ``HubClient.upload`` and ``resume_upload``; begins at once.

    ``await upload`` is its end: the hub has all bytes, has checked them, and serves them. Lost connections, planned
    moves, refusals that pass, and handles that the hub closed are made good meanwhile, from the last byte that the hub
    has acknowledged. What cannot be made good raises ``UploadFailed``, which says what to do next; ``HubClosed`` and
    ``ConnectionLost`` (the client was closed) end the sending too. In the last cases what was acknowledged stays in the
    hub, until the upload expires there.

    In ``async with`` the block's end waits for the upload's; an exception in the block stops the sending.
    ``async for progress in upload`` gives the newest progress whenever there is one.
    """

    def __init__(
        self,
        owner: UploadOwner,
        given: Readable,
        asked: Asked | None,
        *,
        upload: str = "",
        on_progress: OnProgress | None = None,
    ) -> None:
        self._journey = Journey(owner, given, asked, upload, self._told)
        self._on_progress = on_progress
        self._wish: _Wish = "go"
        self._rested = asyncio.Event()
        self._knows = True
        self._changed = asyncio.Event()
        self._step: asyncio.Task[UploadInfo] | None = None
        self._end: asyncio.Future[UploadInfo] = asyncio.get_running_loop().create_future()
        # Whoever does not ask for the end is not warned of it either.
        self._end.add_done_callback(lambda end: end.exception())
        self.task = asyncio.create_task(self._run(), name="hub-client-upload")
        """Its owner's, to see when nothing of it is left."""
        # A task that is cancelled before its first step never enters ``_run``.
        self.task.add_done_callback(self._ended)

    @property
    def progress(self) -> UploadProgress:
        """The newest."""
        return self._journey.progress

    @property
    def id(self) -> str:
        """The upload's id in the hub, empty until known: for ``resume_upload``, and for those who watch its topic."""
        return self.progress.upload

    async def done(self) -> UploadInfo:
        """Waits for its end; the sending goes on if the waiting is given up. Raises as the class says."""
        return await asyncio.shield(self._end)

    def __await__(self) -> Generator[Any, None, UploadInfo]:
        return self.done().__await__()

    async def __aenter__(self) -> Upload:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if kind is None:
            await self.done()
        else:
            await self.stop()

    async def __aiter__(self) -> AsyncIterator[UploadProgress]:
        seen: UploadProgress | None = None
        while True:
            if self.progress is not seen:
                seen = self.progress
                yield seen
            elif self._end.done():
                return
            else:
                self._changed.clear()
                await self._changed.wait()

    async def pause(self) -> bool:
        """Stops sending, and tells the hub, which keeps what it has. Nothing when all bytes are there already.

        False: the hub could not be told within ``request_timeout_s``. A file that is being read for its sum
        (``sha256=True``) is read from its beginning after ``resume``.
        """
        if self._journey.arrived or self._end.done():
            return True
        self._knows = True
        self._rested.clear()
        self._want("pause")
        rested = asyncio.create_task(self._rested.wait())
        either: list[asyncio.Future[Any]] = [rested, self._end]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            rested.cancel()
        return self._knows

    async def resume(self) -> None:
        """Goes on after ``pause``."""
        if self._wish == "pause":
            self._want("go")
            self._rested.set()

    async def cancel(self) -> bool:
        """Stops, and has the hub forget everything; ``done`` raises ``UploadFailed`` (``cancelled``) then.

        Without a connection it waits for one. False: it had arrived, or ended otherwise, before. Raises what ``done``
        raises when the hub could not be told: it still has the upload then.
        """
        was_over = self._end.done()
        if not was_over:
            self._want("cancel")
            await asyncio.wait({self._end})
        problem = self._end.exception()
        if isinstance(problem, UploadFailed) and problem.code == "cancelled":
            return True
        if problem is None or was_over or self._journey.arrived:
            return False
        raise problem

    async def stop(self) -> None:
        """Stops sending without telling the hub: the upload can be resumed there until it expires."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    # --- inside

    async def _run(self) -> None:
        try:
            try:
                info = await self._live()
            finally:
                await self._journey.close()
            self._conclude(info)
        except ClientError as problem:
            self._fail(problem)
        except Exception as problem:
            logger.exception("an upload failed by a fault of the client")
            self._fail(ClientError(f"the client failed: {type(problem).__name__}: {problem}"))

    def _ended(self, _: asyncio.Task[None]) -> None:
        if not self._end.done():
            self._fail(ConnectionLost(f"the upload {self.id!r} was stopped; it can be resumed"))

    async def _live(self) -> UploadInfo:
        """What is wished is done by one task, which is ended when something else is wished."""
        journey = self._journey
        while True:
            match self._wish:
                case "go":
                    step = asyncio.create_task(journey.go_on())
                case "pause":
                    step = asyncio.create_task(journey.rest(self._resting))
                case "cancel":
                    return await journey.withdraw()
            self._step = step
            try:
                await asyncio.wait({step})
            finally:
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)
            if not step.cancelled():
                return step.result()

    def _resting(self, knows: bool) -> None:
        self._knows = knows
        self._rested.set()

    def _want(self, wish: _Wish) -> None:
        self._wish = wish
        if self._step is not None:
            self._step.cancel()

    def _told(self, progress: UploadProgress) -> None:
        self._changed.set()
        if self._on_progress is not None:
            try:
                self._on_progress(progress)
            except Exception:
                logger.exception("on_progress failed")

    def _conclude(self, info: UploadInfo) -> None:
        if info.state != UploadState.AVAILABLE:
            error = info.error or {}
            code = str(error.get("code") or info.state)
            self._fail(self._journey.failure(code, str(error.get("message") or f"the upload was {info.state}")))
            return
        self._end.set_result(info)
        self._journey.tell(UploadState.AVAILABLE, offset=info.size, size=info.size)

    def _fail(self, problem: ClientError) -> None:
        self._end.set_exception(problem)
        self._journey.tell(UploadState.FAILED, problem=str(problem))
