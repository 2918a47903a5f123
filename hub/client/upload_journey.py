"""An upload's way to the hub: which handle, what after a refusal, whether it has arrived, what became of it.

It goes on from wherever it stands, whenever it is asked to; who asks, and when, is decided in ``upload``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from hub.client.backoff import Backoff
from hub.client.errors import (
    ClientError,
    ConnectionLost,
    ProtocolViolation,
    RequestRefused,
    RequestTimeout,
    SubscriptionEnded,
    UploadFailed,
)
from hub.client.upload_lane import Lane, LaneLost, LaneRefused, send_all
from hub.client.upload_source import Readable, Source, SourceProblem, open_source, sha256_of
from hub.client.upload_words import Asked, UploadInfo, UploadOwner, UploadProgress, UploadState
from hub.client.wire import Refusal
from hub.errors import ErrorCode

logger = logging.getLogger("hub.client")

_PASSING = frozenset((ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT, ErrorCode.INTERNAL, ErrorCode.RATE_LIMITED))
_ENDS = frozenset(("completed", "failed", "cancelled"))
_RECEIVING = "receiving"
_UNDER_WAY = frozenset((_RECEIVING, "received", "checking"))
_POLL_FIRST_S = 0.2

T = TypeVar("T")


class Journey:
    """One upload. ``asked``: a new one; None: that of the id ``upload``, which must be ``given``'s.

    Each of ``go_on``, ``rest`` and ``withdraw`` may be cancelled and followed by any other; one at a time. They raise
    ``UploadFailed`` and ``HubClosed``. ``close`` comes last.
    """

    def __init__(
        self,
        owner: UploadOwner,
        given: Readable,
        asked: Asked | None,
        upload: str,
        on_progress: Callable[[UploadProgress], None],
    ) -> None:
        self._owner = owner
        self._options = owner.options
        self._given = given
        self._asked = asked
        self._on_progress = on_progress
        self._source: Source | None = None
        self._params: dict[str, Any] | None = None
        self._backoff = Backoff(self._options)
        self._refused_since: float | None = None
        self._may_be_over = False
        self._has_asked = False
        self._has_sent = False
        self.arrived = False
        """Nothing is to be sent any more: all bytes are there, or it has ended otherwise."""
        self.progress = UploadProgress(upload, UploadState.WAITING, 0, 0)

    async def go_on(self) -> UploadInfo:
        """Sends what is missing, and waits for what becomes of it."""
        try:
            source = await self._prepare()
            while not self.arrived:
                await self._attempt(source)
        except SourceProblem as problem:
            raise await self._spoilt(problem) from problem
        info = await self._until_settled()
        try:
            await self._compare_content(source, info)
        except SourceProblem as problem:
            raise self.failure("file_changed", str(problem)) from problem
        return info

    async def rest(self, resting: Callable[[bool], None]) -> UploadInfo:
        """Paused until it is cancelled; ``resting`` is called with whether the hub knows. Returns only if it had
        arrived.
        """
        self.tell(UploadState.PAUSED)
        knows = False
        try:
            if self._id:
                await self._say("upload.pause")
            knows = bool(self._id) or not self._has_asked
        except (TimeoutError, ConnectionLost) as problem:
            logger.info("the hub was not told of the pause: %s", problem)
        except RequestRefused as refused:
            if refused.code == ErrorCode.CONFLICT:
                return await self.go_on()
            logger.info("the hub was not told of the pause: %s", refused)
        resting(knows)
        forever: asyncio.Future[UploadInfo] = asyncio.get_running_loop().create_future()
        return await forever

    async def withdraw(self) -> UploadInfo:
        """Has the hub forget it, and raises ``UploadFailed`` (``cancelled``). Returns if it had arrived before."""
        if not self._id and self._has_asked:
            await self._find()
        if self._id:
            try:
                await self._insist(lambda: self._owner.call("upload.cancel", {"upload": self._id}))
            except RequestRefused as refused:
                if refused.code == ErrorCode.CONFLICT:
                    return await self._until_settled()
                if refused.code != ErrorCode.NOT_FOUND:
                    text = f"{refused.message}; the upload {self._id} was not cancelled"
                    raise self.failure(refused.code, text, refused.details, resumable=True) from refused
        raise self.failure("cancelled", "the upload was cancelled")

    async def close(self) -> None:
        """Closes the file."""
        if self._source is not None:
            await self._source.close()

    def tell(self, state: UploadState | None = None, *, problem: str = "", **changes: Any) -> None:
        """Something has changed."""
        state = state or self.progress.state
        self.progress = msgspec.structs.replace(self.progress, state=state, problem=problem, **changes)
        self._on_progress(self.progress)

    def failure(
        self, code: str, message: str, details: dict[str, Any] | None = None, *, resumable: bool = False
    ) -> UploadFailed:
        """What to raise when it cannot go on."""
        return UploadFailed(code, message, "later" if resumable else "never", details=details, upload=self._id)

    @property
    def _id(self) -> str:
        return self.progress.upload

    # --- before the first byte

    async def _prepare(self) -> Source:
        if self._source is not None:
            return self._source
        source = await open_source(self._given)
        try:
            if self._asked is not None:
                self._params = await self._create_params(source, self._asked)
            else:
                await self._compare(source)
        except BaseException:
            await source.close()
            raise
        self._source = source
        return source

    async def _compare(self, source: Source) -> None:
        """What another process began must be of this file."""
        info = await self._status()
        self.arrived = self._may_be_over = info.state != _RECEIVING
        self._check_size(source, info.size)
        self.tell(UploadState.WAITING, offset=info.offset, size=info.size)

    async def _compare_content(self, source: Source, info: UploadInfo) -> None:
        """What was there before anything was sent from here must be of this file too."""
        if self._has_sent or info.sha256 is None or info.state != UploadState.AVAILABLE:
            return
        sha256 = (self._params or {}).get("sha256") or await sha256_of(source, lambda _: None)
        if sha256.lower() != info.sha256:
            raise self.failure("wrong_file", f"the upload {info.upload} is of another file{self._instead()}")

    def _instead(self) -> str:
        return "" if self._asked is None else "; take another key for another file"

    def _check_size(self, source: Source, size: int) -> None:
        if source.size != size:
            text = f"the upload has {size} bytes and this file {source.size}; give the file that it was begun with"
            raise self.failure("wrong_file", text + self._instead(), resumable=not self.arrived)

    async def _create_params(self, source: Source, asked: Asked) -> dict[str, Any]:
        filename = asked.filename or source.name
        if not filename:
            raise self.failure("bad_request", "the upload needs a name; give filename")
        if not source.size:
            raise self.failure(ErrorCode.EMPTY_CONTENT, f"{filename} is empty; there is nothing to upload")
        sha256 = asked.sha256
        if sha256 is True:
            self.tell(UploadState.HASHING, size=source.size)
            sha256 = await sha256_of(source, lambda read: self.tell(UploadState.HASHING, offset=read))
        self.tell(UploadState.WAITING, offset=0, size=source.size)
        params: dict[str, Any] = {
            "filename": filename,
            "size": source.size,
            "document_type": asked.document_type,
            "metadata": asked.metadata,
            "key": asked.key,
        }
        if sha256:
            params["sha256"] = sha256
        if asked.shares:
            params["shares"] = asked.shares
        try:
            msgspec.json.encode(params)
        except (TypeError, ValueError, OverflowError) as problem:  # a name that is no Unicode, for example
            raise self.failure("bad_request", f"its name or metadata cannot be sent: {problem}") from problem
        return params

    async def _spoilt(self, problem: SourceProblem) -> UploadFailed:
        """The file is not what it was. What the hub has of a new upload is of no use then."""
        if self._asked is not None and self._id:
            with contextlib.suppress(ClientError, TimeoutError):
                await self._say("upload.cancel")
        if self._source is None:
            return self.failure("file", str(problem))
        return self.failure("file_changed", f"{problem}; upload it again when it stays as it is")

    async def _say(self, method: str) -> None:
        """Once, and not for ever while there is no connection."""
        async with asyncio.timeout(self._options.request_timeout_s):
            await self._owner.call(method, {"upload": self._id})

    # --- sending

    async def _attempt(self, source: Source) -> None:
        """One handle, from its opening to its end. Returns when the next one may be opened, or when it has arrived."""
        opening = True
        try:
            async with self._owner.slots:
                lane = await self._open()
                opening = False
                try:
                    self._under_way(lane)
                    self._has_sent = True
                    if lane.grant.size is not None:
                        self._check_size(source, lane.grant.size)  # with a key, it may have been begun elsewhere
                    lane.on_acknowledged = self._acknowledged
                    await send_all(lane, source, self._options)
                    self.arrived = True
                finally:
                    self._owner.close_lane(lane)
        except (LaneLost, ConnectionLost):
            self._refused_since = None
            self.tell(UploadState.WAITING, problem="the connection was lost")
        except RequestTimeout as problem:
            await self._bear(Refusal("timeout", str(problem), "later"), opening)
        except LaneRefused as ended:
            await self._bear(ended.refusal, opening)
        except RequestRefused as refused:
            await self._bear(_refusal(refused), opening)

    async def _open(self) -> Lane:
        if self._id:
            return await self._owner.open_lane("upload.resume", {"upload": self._id})
        self._has_asked = True
        return await self._owner.open_lane("upload.create", self._params or {})

    async def _find(self) -> None:
        """The hub may have it, though its answer was lost."""
        try:
            lane = await self._insist(self._open)
        except RequestRefused as refused:
            self._recognise(refused.details)
        else:
            self._owner.close_lane(lane)
            self._under_way(lane)

    def _recognise(self, details: dict[str, Any] | None) -> None:
        """With a key, it may have ended already. Without a state it is another file's."""
        known = (details or {}).get("upload")
        if not self._id and isinstance(known, str) and "state" in (details or {}):
            self.tell(upload=known)

    def _under_way(self, lane: Lane) -> None:
        self.tell(UploadState.SENDING, upload=lane.grant.upload, offset=lane.acknowledged)

    def _acknowledged(self, offset: int) -> None:
        self._refused_since = None
        self.tell(UploadState.SENDING, offset=offset)

    async def _bear(self, refusal: Refusal, opening: bool) -> None:
        """Waits as long as a refusal takes to pass; raises ``UploadFailed`` when it does not."""
        if refusal.code == ErrorCode.CONFLICT:
            await self._look_into(refusal, opening)
        elif refusal.code in (ErrorCode.NOT_FOUND, ErrorCode.OFFSET_MISMATCH) and not opening:
            await self._wait(refusal)  # this handle is no good; another one may be
        elif refusal.code in _PASSING and refusal.retry != "never":
            await self._wait(refusal)
        else:
            raise self.failure(refusal.code, refusal.message, refusal.details)

    async def _look_into(self, conflict: Refusal, opening: bool) -> None:
        """A conflict: it has arrived already, or somebody else is at it."""
        self._recognise(conflict.details)
        if not self._id:
            raise self.failure(conflict.code, conflict.message, conflict.details)
        info = await self._status()
        if info.state != _RECEIVING:
            self.arrived = self._may_be_over = True
            if self._source is not None:
                self._check_size(self._source, info.size)
        elif opening:
            await self._wait(conflict)
        else:
            text = f"{conflict.message}; {self._what_is_left()}"
            raise self.failure(conflict.code, text, conflict.details, resumable=True)

    async def _wait(self, refusal: Refusal) -> None:
        now = asyncio.get_running_loop().time()
        if self._refused_since is None:
            self._refused_since = now
            self._backoff.reset()
        wait_s = max(self._backoff.next_s(), (refusal.retry_after_ms or 0) / 1000)
        if now + wait_s - self._refused_since > self._options.upload_patience_s:
            text = f"{refusal.message}; {self._what_is_left()}"
            raise self.failure(refusal.code, text, refusal.details, resumable=bool(self._id))
        self.tell(UploadState.WAITING, problem=f"{refusal.message}; again in {wait_s:.1f} s")
        await asyncio.sleep(wait_s)

    def _what_is_left(self) -> str:
        at = self.progress
        if not self._id:
            return "nothing was sent yet; upload it again later"
        return f"{at.offset} of {at.size} bytes are safe; upload {self._id} can be resumed"

    # --- being checked

    async def _until_settled(self) -> UploadInfo:
        """Waits for what becomes of it."""
        self.arrived = True
        self.tell(UploadState.CHECKING, offset=self.progress.size)
        news = asyncio.Event()
        if self._may_be_over:
            news.set()  # long ago, perhaps, and its topic may have forgotten it
        watching = asyncio.create_task(self._watch(news))
        poll_s = _POLL_FIRST_S
        try:
            while True:
                # Whoever may not subscribe has to ask.
                ask_s = min(poll_s, self._options.upload_ask_s) if watching.done() else self._options.upload_ask_s
                poll_s *= 2
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ask_s):
                        await news.wait()
                news.clear()
                info = await self._status()
                if info.state not in _UNDER_WAY:
                    return info
                self._refused_since = None
                if self.progress.state is not UploadState.CHECKING:
                    self.tell(UploadState.CHECKING)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, news: asyncio.Event) -> None:
        try:
            async for event in self._owner.subscribe(f"upload:{self._id}", since="start", on_gap=lambda _: None):
                if event.name in _ENDS:
                    news.set()
        except (SubscriptionEnded, RequestTimeout, ValueError) as problem:
            # ValueError: somebody watches it over this client already
            logger.info("the upload's topic cannot be watched, so its status is asked for: %s", problem)
            news.set()

    async def _status(self) -> UploadInfo:
        """Asks until there is an answer. Raises ``UploadFailed`` when there is no such upload."""
        try:
            answer = await self._insist(lambda: self._owner.call("upload.status", {"upload": self._id}))
            return msgspec.convert(answer, UploadInfo)
        except UploadFailed:
            raise
        except RequestRefused as refused:
            raise self.failure(refused.code, refused.message, refused.details) from refused
        except msgspec.ValidationError as problem:
            raise ProtocolViolation(f"malformed status of an upload: {problem}") from None

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks until there is an answer. Raises ``RequestRefused`` for what does not pass, ``UploadFailed`` for what
        has not passed.
        """
        while True:
            try:
                return await ask()
            except ConnectionLost:
                self._refused_since = None
            except RequestTimeout as problem:
                await self._wait(Refusal("timeout", str(problem), "later"))
            except RequestRefused as refused:
                if refused.code not in _PASSING or refused.retry == "never":
                    raise
                await self._wait(_refusal(refused))


def _refusal(refused: RequestRefused) -> Refusal:
    return Refusal(refused.code, refused.message, refused.retry, refused.retry_after_ms, refused.details)
