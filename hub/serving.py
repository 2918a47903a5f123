"""A node as a process: the server it runs on, signals, the polite end. What a node is made of is ``hub.app``'s."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import math
import signal
import socket as sockets
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import uvicorn
import uvloop

from hub.app import Node, load_services, node_name
from hub.config import Settings
from hub.edge.direct_socket import direct_protocol
from hub.edge.drain import drain
from hub.edge.front_door import front_door
from hub.edge.gateway import Gateway
from hub.edge.side_door import side_door
from hub.service import ServiceFactory
from hub.telemetry import configure_logging

Ready = Callable[[], None]
Chore = Callable[[], Coroutine[Any, Any, None]]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT_FREE_BYTES = 8 << 20
_FROM_KERNEL_BYTES = 4 << 20


def run(settings: Settings, listener: sockets.socket, ready: Ready | None = None, chore: Chore | None = None) -> None:
    """Serves on ``listener`` until SIGTERM or SIGINT; drains, stops, returns. ``ready`` is called when it listens.

    ``chore`` runs beside the node, from before its start until after its stop.
    """
    configure_logging(settings.log_level, node_name(settings))
    keep_freed_memory()
    factories = load_services(settings.services)

    def started() -> None:
        spare_the_collector()
        if ready is not None:
            ready()

    async def served() -> None:
        beside = [asyncio.ensure_future(chore())] if chore is not None else []
        try:
            await serve(settings, factories, listener=listener, on_ready=started)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    uvloop.run(served())


def spare_the_collector() -> None:
    """Tells Python's garbage collector not to walk what lives as long as the process or a connection.

    Every connection leaves some thirty objects that stay. With the usual thresholds each thousand of new connections
    had all of them walked again: 10 000 handshakes took a seventh longer. Cycles are rare, so a walk of everything is
    soon enough after five million more objects than before. The young are walked often because they are walked while
    everybody waits: in a storm of 10 000 clients 10 to 20 ms at a time, and 370 ms when they were ten times as many.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 10, 100)


def keep_freed_memory() -> bool:
    """Lets the C library keep what large messages leave behind for the next ones. False: it is not glibc.

    By default it gives every freed piece of a quarter of a megabyte back to the kernel, which hands it out again page
    by page, zeroed: more than half of what it cost to take an upload's chunk. Bounded by ``_KEPT_FREE_BYTES`` for the
    main thread, and as much for each other one.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _FROM_KERNEL_BYTES) == 1 and mallopt(_M_TRIM_THRESHOLD, _KEPT_FREE_BYTES) == 1
    )


async def serve(
    settings: Settings,
    factories: Sequence[ServiceFactory],
    *,
    listener: sockets.socket | None = None,
    on_ready: Ready | None = None,
) -> None:
    """Runs one node until SIGTERM or SIGINT, then drains and stops. ``on_ready`` is called once, when it listens.

    ``listener``: a bound socket instead of ``settings.host`` and ``port``.
    """
    node = await Node.build(settings, factories)
    listeners = None
    if listener is not None:
        # libuv accepts one connection per listening socket and turn, and clients that return together come faster.
        listeners = [listener, *(listener.dup() for _ in range(settings.accepts_per_turn - 1))]
    await direct_server(settings, node, on_ready).serve(sockets=listeners)


def direct_server(settings: Settings, node: Node, on_ready: Ready | None = None) -> uvicorn.Server:
    """The node on the hub's own WebSocket protocol class; ``should_exit = True`` drains and stops it like SIGTERM."""
    config = uvicorn.Config(
        node.http(),
        host=settings.host,
        port=settings.port,
        ws=direct_protocol(node.gateway),
        ws_max_size=settings.max_message_bytes,
        ws_per_message_deflate=False,
        ws_ping_interval=None,  # the keeper sends pings, and waits only while nothing is unsent
        loop="uvloop",
        http=front_door(node.gateway.turnstile, settings, side_door(node.gateway)),
        lifespan="on",
        log_config=None,
        access_log=False,  # it would write query strings, and so tickets
        proxy_headers=False,
        timeout_graceful_shutdown=math.ceil(settings.drain_answers_s),
        backlog=4096,
    )
    return _Server(config, node.gateway, on_ready)


class _Server(uvicorn.Server):
    """uvicorn that drains before it stops."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, on_ready: Ready | None) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._on_ready = on_ready

    async def startup(self, sockets: list[sockets.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._on_ready is not None:
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn's, but what was caught is not raised again: the caller has servers of its own to stop."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[sockets.socket] | None = None) -> None:
        """Still answers (not ready) while clients leave. A second Ctrl-C does not wait for them."""
        draining = asyncio.ensure_future(drain(self._gateway))
        while not draining.done() and not self.force_exit:
            await asyncio.wait([draining], timeout=0.1)
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
        await super().shutdown(sockets)
