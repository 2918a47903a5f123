"""A whole node on a free port: the hub's own sockets on uvloop ("direct") or a stock uvicorn ("asgi").

Its clients (``tests.support.peers``) come by WebSockets, server-sent events or polls.

It runs in a thread with an event loop of its own, as in production: a test that blocks or a client that does not read
holds up nobody but itself. What it logs is caught; an error that the test did not allow fails the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from typing import Any, Literal, TypeVar

import uvicorn
import uvloop

from hub.app import Node
from hub.auth.tokens import mint_token
from hub.config import Settings, load_settings
from hub.edge.gateway import Gateway
from hub.flags import FixedFlags
from hub.service import ServiceFactory
from hub.serving import direct_server
from tests.support.hub_services import TestService
from tests.support.log_catcher import LogCatcher, caught_logs
from tests.support.raw_client import Transport
from tests.support.waiting import until

SocketKind = Literal["direct", "asgi", "sse", "poll", "sse-asgi", "poll-asgi"]
"""The server, and how clients come: by WebSockets unless it says otherwise."""
SECRET = "not-a-secret-but-32-bytes-long-ok"
EVERYTHING = "subscribe:* publish:* call:*"
_START_S = 30.0
_STOP_S = 40.0
_T = TypeVar("_T")


class RunningHub:
    """One node that serves. ``service``: the test service, when no others were given."""

    def __init__(self, kind: SocketKind, settings: Settings, service: TestService, logs: LogCatcher) -> None:
        self.kind = kind
        self.settings = settings
        self.service = service
        self.logs = logs
        self.gateway: Gateway
        self.node: Node
        self.port = 0
        self.loop: asyncio.AbstractEventLoop
        self._server: uvicorn.Server
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"hub-{kind}", daemon=True)
        self._factories: Sequence[ServiceFactory] = ()
        self.flags: FixedFlags | None = None
        """In place of those of a file; set it before the hub starts."""

    @property
    def stock(self) -> bool:
        """Whether it is a stock server, whose sockets the hub does not own."""
        return self.kind.endswith("asgi")

    @property
    def transport(self) -> Transport:
        """How clients come."""
        if self.kind.startswith("sse"):
            return "sse"
        return "poll" if self.kind.startswith("poll") else "websocket"

    @property
    def url(self) -> str:
        """Where its WebSocket is."""
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def http_url(self) -> str:
        """Where its HTTP is."""
        return f"http://127.0.0.1:{self.port}"

    def token(
        self, org: str = "acme", user: str = "u1", *, scope: str | None = EVERYTHING, ttl_s: float = 3600.0
    ) -> str:
        """A token for this hub."""
        return mint_token(self.settings, org, user, scope=scope, ttl_s=ttl_s)

    async def within(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Runs a coroutine on the hub's event loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), self.loop))

    async def start(self, factories: Sequence[ServiceFactory]) -> None:
        """Returns when it listens and its own probe came back."""
        self._factories = factories
        self._thread.start()
        await until(lambda: self._ready.is_set() or self._failure is not None, _START_S, "the hub to listen")
        if self._failure is not None:
            raise self._failure
        await until(lambda: self.gateway.broker.ready, _START_S, "the hub to be ready")

    def flip(self, **changes: bool) -> None:
        """Changes flags of a hub that was started with ``flags``; may be called from another thread."""
        assert self.flags is not None
        self.loop.call_soon_threadsafe(functools.partial(self.flags.set, **changes))

    def leave(self) -> None:
        """Begins to drain and stop, as SIGTERM does."""
        self._server.should_exit = True

    async def stop(self) -> None:
        """Drains and stops; returns when everything is closed."""
        if self._thread.is_alive():
            if self._ready.is_set():
                self.leave()
            await until(lambda: not self._thread.is_alive(), _STOP_S, "the hub to stop")
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as error:
            self._failure = error

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.node = await Node.build(self.settings, self._factories, self.flags)
        self.gateway = self.node.gateway
        if self.stock:
            self._server = uvicorn.Server(_stock(self.node, self.settings))
        else:
            self._server = direct_server(self.settings, self.node)
        # A test that is slow for a while finds its lines as it left them.
        self._server.config.timeout_keep_alive = 600
        serving = asyncio.ensure_future(self._server.serve())
        await until(lambda: self._server.started or serving.done(), _START_S, "uvicorn to listen")
        if self._server.started:
            self.port = self._server.servers[0].sockets[0].getsockname()[1]
            self._ready.set()
        await serving


def _stock(node: Node, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        node.http(),
        port=0,
        ws="websockets-sansio",
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_config=None,
        access_log=False,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=15,
    )


def hub_settings(redis_url: str, **changes: Any) -> Settings:
    """Settings with the short waits that tests want; ``changes`` win."""
    quick: dict[str, Any] = {
        "port": 0,
        "database_url": "postgresql://nobody@127.0.0.1:1/nowhere",
        "jwt_secret": SECRET,
        "drain_window_s": 0.0,
        "drain_grace_s": 0.1,
        "drain_answers_s": 5.0,
        "session_save_s": 0.05,
        "unsubscribe_delay_s": 0.05,
        "messages_per_second": 10_000,
        "messages_burst": 10_000,
        "max_connections_per_user": 10_000,
    }
    return load_settings({}, redis_url=redis_url, **(quick | changes))


@contextlib.asynccontextmanager
async def running_hub(
    kind: SocketKind,
    redis_url: str,
    *,
    factories: Sequence[ServiceFactory] | None = None,
    flags: FixedFlags | None = None,
    allowed_errors: Collection[str] = (),
    **changes: Any,
) -> AsyncIterator[RunningHub]:
    """A started hub; ``changes`` are settings. Fails when it logged an error that is not in ``allowed_errors``."""
    service = TestService()
    with tempfile.TemporaryDirectory(prefix="hub-uploads-") as store, caught_logs() as logs:
        changes = {"uploads_store": f"file:{store}"} | changes
        hub = RunningHub(kind, hub_settings(redis_url, **changes), service, logs)
        hub.flags = flags
        try:
            await hub.start([service.factory] if factories is None else factories)
            yield hub
        finally:
            await hub.stop()
        bad = [entry for entry in logs.errors() if entry["event"] not in allowed_errors]
        assert not bad, f"the hub logged errors: {bad}"
