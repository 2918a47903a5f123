"""``HubClient``: the door of this package. Wires link, registry, acks and uploads; adds publish and call."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import msgspec

from hub.client.backoff import Backoff
from hub.client.connection import Connection
from hub.client.errors import ClientError, ConnectionLost, HubClosed, ProtocolViolation, RequestRefused, RequestTimeout
from hub.client.link import Link
from hub.client.messages import field_of
from hub.client.options import ClientOptions, TransportName
from hub.client.registry import Counters, OnState, Registry
from hub.client.subscription import OnGap, Subscription
from hub.client.tokens import TokenSource
from hub.client.upload import OnProgress, Upload
from hub.client.upload_lane import Lane, Lanes
from hub.client.upload_source import Readable, check_readable
from hub.client.upload_words import Asked
from hub.client.wire import Encoding, HubFrame, Published, Welcome, Wire
from hub.errors import ErrorCode
from hub.protocol.frames import Call, ClientFrame, Filter, Publish, Since, SubscribeItem, TagValue

Read = Callable[[Connection, Any], Any]
"""Makes something of a result, in its place among the frames of its connection."""

Repeat = Callable[[str, dict[str, Any], Read | None], Awaitable[Any]]
"""A call that is sent again when its connection is lost."""

_WAIT_AND_RETRY = frozenset((ErrorCode.RATE_LIMITED, ErrorCode.QUOTA_EXCEEDED))


class HubClient:
    """One connection to the hub, kept alive, with any number of subscriptions on it.

    ``url``: of the WebSocket, for example ``ws://127.0.0.1:8000/ws``. ``get_token`` (sync or async) is asked before
    every connection and when the token is about to expire. ``session``: an earlier client's ``session``, to go on from
    its acknowledged positions; such a client's subscriptions without ``since`` and ``last`` start there.

    Entering connects, or raises ``HubClosed`` or ``ConnectionLost`` (not reached within ``first_connect_timeout_s``).
    Afterwards a lost connection is nobody's business but the client's, until it is over for good (``HubClosed``).
    One event loop, no threads.
    """

    def __init__(
        self,
        url: str,
        get_token: TokenSource | None = None,
        *,
        encoding: Encoding = "json",
        session: str | None = None,
        options: ClientOptions | None = None,
    ) -> None:
        self._url = url
        self._options = options or ClientOptions()
        self._resumes = session is not None
        wire = Wire(encoding)
        self._registry = Registry(self._options)
        self._link = Link(url, get_token, wire, self._options, self._registry, session)
        self._registry.link = self._link
        self._slots = asyncio.Semaphore(self._options.max_requests_in_flight)
        self._uploads = _Uploads(self, self._link, self._registry.lanes, self._repeat)
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> HubClient:
        self._running = [
            asyncio.create_task(self._keep(self._link.run()), name="hub-client-link"),
            asyncio.create_task(self._keep(self._registry.acks.run()), name="hub-client-acks"),
        ]
        timeout_s = self._options.first_connect_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await self._link.ready()
        except TimeoutError:
            await self.close()
            problem = self._link.last_problem or "no answer"
            raise ConnectionLost(f"no connection to {self._url} within {timeout_s:g} s: {problem}") from None
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def options(self) -> ClientOptions:
        """What this client was made with."""
        return self._options

    @property
    def session(self) -> str | None:
        """The session's id; a later client may go on with it for as long as the hub keeps it (24 h)."""
        return self._link.session

    @property
    def welcome(self) -> Welcome | None:
        """The newest ``welcome``: user, organisation, flags as they were then."""
        return self._registry.welcome

    @property
    def transport(self) -> TransportName | None:
        """What the connection travels over now: ``websocket``, ``sse`` or ``poll``. None: there is no connection."""
        current = self._link.current
        return None if current is None else current.transport.name

    @property
    def flags(self) -> Mapping[str, bool]:
        """What is switched on for this user, as far as the hub has told."""
        return self._link.flags

    @property
    def counters(self) -> Counters:
        """What this client has seen so far."""
        return self._registry.counters

    def on_gap(self, callback: OnGap | None) -> None:
        """Registers the callback for gaps of subscriptions that have none of their own.

        It is called (and awaited) by the consumer's task, in the place where the events are missing. With no callback
        at all the iterator raises ``GapError`` there: a gap is never passed over in silence.
        """
        self._registry.on_gap = callback

    def on_state(self, callback: OnState | None) -> None:
        """Registers a callback for connection changes. It must not block."""
        self._registry.on_state = callback

    def on_frame(self, callback: Callable[[HubFrame], None] | None) -> None:
        """Registers a callback for every frame that is no answer (``flags``, for example). It must not block."""
        self._registry.observer = callback

    def subscribe(
        self,
        topic: str,
        *,
        since: Since | None = None,
        last: int | None = None,
        filter: Mapping[str, TagValue | Sequence[TagValue]] | None = None,
        ack: bool = False,
        on_gap: OnGap | None = None,
    ) -> Subscription:
        """A subscription that begins when it is entered or iterated over. See ``Subscription``.

        ``since``: a ``Position``, ``"start"`` or ``"now"``; ``last``: the newest N events first; neither: live only.
        ``ack=True``: the hub sends at most its window (1000 events) ahead of what was processed. Positions are
        acknowledged without it too, so that a session can be resumed; nothing then waits for them.
        """
        if since is not None and last is not None:
            raise ValueError("give since or last, not both")
        # Said outright, because in a `hello` that resumes, silence would mean the session's position.
        if since is None and last is None and not self._resumes:
            since = "now"
        item = SubscribeItem(topic=topic, since=since, last=last, filter=_filter(filter), ack=ack)
        return Subscription(self._registry, item, self._options, on_gap)

    async def publish(
        self,
        topic: str,
        name: str,
        data: Any,
        *,
        key: str | None = None,
        tags: Mapping[str, TagValue] | None = None,
        ephemeral: bool = False,
    ) -> Published:
        """Publishes one event and returns where it stands.

        Raises ``RequestRefused``, ``RequestTimeout`` and ``HubClosed``.

        Every event gets an idempotency key, so that a lost connection can be made good by sending again. Ephemeral
        ones do not (the hub would remember it for a day) and raise ``ConnectionLost`` instead, unless ``key`` is given.
        """
        if key is None and not ephemeral:
            key = uuid.uuid4().hex

        def build(number: int) -> Publish:
            return Publish(
                id=number,
                topic=topic,
                name=name,
                data=data,
                key=key,
                tags=dict(tags) if tags else None,
                ephemeral=ephemeral,
            )

        result = await self._request(build, retry=key is not None, timeout_s=None)
        try:
            return msgspec.convert(result, Published)
        except msgspec.ValidationError as problem:
            raise ProtocolViolation(f"malformed answer to publish: {problem}") from None

    async def call(
        self, method: str, params: dict[str, Any] | None = None, *, retry: bool = False, timeout_s: float | None = None
    ) -> Any:
        """Calls a method of a service and returns its result.

        Raises ``RequestRefused``, ``RequestTimeout``, ``HubClosed`` and ``ConnectionLost``: with the last it is unknown
        whether the call took effect. ``retry=True`` sends it again instead; for methods that bear repeating.
        """
        return await self._request(lambda number: Call(number, method, params or {}), retry=retry, timeout_s=timeout_s)

    def upload(  # noqa: PLR0913 - what there is to say about a document
        self,
        source: Readable,
        *,
        document_type: str = "document",
        filename: str | None = None,
        metadata: Mapping[str, TagValue] | None = None,
        sha256: str | bool | None = None,
        shares: Sequence[str] = (),
        key: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Upload:
        """Uploads a file (its path, or an open binary file) or bytes, beginning now. See ``Upload``; ``await`` its end.

        ``filename``: the file's own, when none is given. ``metadata`` become tags of the upload's events.
        ``sha256=True`` reads the file once before, so that the hub can compare what has arrived; or give the sum.
        ``shares``: topics whose readers may watch and read it. ``key``: the same again (of the same user) goes on with
        the same upload, also after a crash. ``on_progress`` is called with every ``UploadProgress``; it must not block.

        Raises ``TypeError`` at once for what can be no upload; whatever else is wrong, ``await`` raises.
        """
        check_readable(source)
        if isinstance(shares, str):
            raise TypeError("shares has to be a list of topics")
        about = (document_type, key or uuid.uuid4().hex, filename, dict(metadata or {}), sha256, list(shares))
        return self._uploads.begin(Upload(self._uploads, source, Asked(*about), on_progress=on_progress))

    def resume_upload(self, upload: str, source: Readable, *, on_progress: OnProgress | None = None) -> Upload:
        """Goes on with an upload that was begun elsewhere: by another process, on another way, or paused.

        ``source`` is the same file; that its size is the same is checked. Whoever sends it now is asked to stop.
        """
        check_readable(source)
        return self._uploads.begin(Upload(self._uploads, source, None, upload=upload, on_progress=on_progress))

    async def close(self) -> None:
        """Acknowledges, says goodbye, ends all iterations. Called by leaving the client."""
        await self._uploads.stop()
        with contextlib.suppress(TimeoutError, ClientError):
            async with asyncio.timeout(self._options.close_timeout_s):
                await self._registry.acks.send()
        self._registry.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._link.close()
        self._link.fail(ConnectionLost("the client was closed"))

    async def _repeat(self, method: str, params: dict[str, Any], read: Read | None) -> Any:
        return await self._request(lambda number: Call(number, method, params), retry=True, timeout_s=None, read=read)

    async def _request(
        self, build: Callable[[int], ClientFrame], *, retry: bool, timeout_s: float | None, read: Read | None = None
    ) -> Any:
        limit_s = self._options.request_timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(limit_s) as deadline, self._slots:
                backoff = Backoff(self._options)
                while True:
                    connection: Connection = await self._link.ready()
                    try:
                        return await connection.request(build, read and functools.partial(read, connection))
                    except ConnectionLost:
                        if not retry:
                            raise
                        if not connection.ended.done():  # only this request has failed
                            await asyncio.sleep(backoff.next_s())
                    except RequestRefused as refused:
                        await _wait_as_told(refused, deadline)
        except TimeoutError:
            raise RequestTimeout(f"no answer within {limit_s:g} s") from None

    async def _keep(self, work: Any) -> None:
        """A background task's death reaches every consumer; none dies unseen."""
        try:
            await work
        except HubClosed as closed:
            failure: ClientError = closed
        except Exception as problem:
            failure = ClientError(f"the client failed: {type(problem).__name__}: {problem}")
            failure.__cause__ = problem
        else:
            return
        self._registry.fail(failure)
        self._link.fail(failure)


class _Uploads:
    """The uploads of one client; implements ``UploadOwner``."""

    def __init__(self, client: HubClient, link: Link, lanes: Lanes, repeat: Repeat) -> None:
        self._link = link
        self._lanes = lanes
        self._repeat = repeat
        self.options = client.options
        self.slots = asyncio.Semaphore(self.options.max_uploads)
        self.subscribe = client.subscribe
        self.close_lane = lanes.close
        self._running: set[Upload] = set()
        self._stopped = False

    async def open_lane(self, method: str, params: dict[str, Any]) -> Lane:
        while True:
            await self._link.ready()
            if (way := self._link.by_requests()) is not None:
                return await way.open(await self._begun(method, params))
            try:
                lane: Lane = await self._ask(method, params, self._lanes.opened)
            except RequestRefused:
                # On the way it may have become a client without a socket, which is not given handles.
                if self._link.by_requests() is None:
                    raise
            else:
                return lane

    async def _begun(self, method: str, params: dict[str, Any]) -> str:
        """The upload that a method which opens a handle is about."""
        answer = params if method == "upload.resume" else await self._ask("upload.begin", params, None)
        return field_of(answer, "upload", str)

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        return await self._ask(method, params, None)

    async def _ask(self, method: str, params: dict[str, Any], read: Read | None) -> Any:
        connection = await self._link.ready()
        try:
            return await self._repeat(method, params, read)
        except RequestTimeout as problem:
            if connection is self._link.current and not connection.ended.done():
                raise
            raise ConnectionLost("the connection was lost before the answer came") from problem

    def begin(self, upload: Upload) -> Upload:
        self._running.add(upload)
        upload.task.add_done_callback(lambda _: self._running.discard(upload))
        if self._stopped:
            upload.task.cancel()
        return upload

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.gather(*(upload.stop() for upload in self._running))


def _filter(wanted: Mapping[str, TagValue | Sequence[TagValue]] | None) -> Filter | None:
    if not wanted:
        return None
    return {tag: value if isinstance(value, str | int | float | bool) else list(value) for tag, value in wanted.items()}


async def _wait_as_told(refused: RequestRefused, deadline: asyncio.Timeout) -> None:
    """Waits ``retry_after_ms`` if the refusal names one that fits before the deadline; else raises the refusal."""
    until = deadline.when()
    if refused.code not in _WAIT_AND_RETRY or refused.retry_after_ms is None or until is None:
        raise refused
    wait_s = refused.retry_after_ms / 1000
    if asyncio.get_running_loop().time() + wait_s >= until:
        raise refused
    await asyncio.sleep(wait_s)
