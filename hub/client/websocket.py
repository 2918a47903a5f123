"""Frames over a WebSocket: the transport that is tried first."""

from __future__ import annotations

import asyncio
import contextlib
import socket as kernel
from collections.abc import Collection

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from hub.client.options import ClientOptions, TransportName
from hub.client.refusals import refused_with
from hub.client.transport import ABNORMAL, LOST, CannotConnect, Deliver, Ended, Lost, MakeHello, TransportLost
from hub.client.wire import Wire


class WebSocketTransport:
    """Implements ``Transport``. ``url`` holds whatever stands for the token when there is none."""

    name: TransportName = "websocket"
    acknowledges = False
    wrapping_bytes = 0

    def __init__(self, url: str, token: str | None, wire: Wire, options: ClientOptions) -> None:
        self._url = url
        self._options = options
        self._socket: ClientConnection
        self.differs = asyncio.Event()
        self.token = token
        self.wire = wire

    async def open(self, hello: MakeHello, timeout_s: float) -> None:
        """Opens the socket. Raises ``CannotConnect``, whatever went wrong."""
        socket = self._socket = await self._connect(timeout_s)
        _keep_queue_short(socket, self._options.unsent_bytes)
        try:
            message = self.wire.encode(await hello())
            with contextlib.suppress(ConnectionClosed):  # `run` says how
                await socket.send(message, text=self.wire.text)
        except BaseException:
            self.abort()
            raise

    def welcomed(self, session: str, max_message_bytes: int) -> None:
        """Nothing to do: the socket is the session's connection."""

    async def run(self, deliver: Deliver, lost: Lost) -> Ended:
        """Until the socket has closed."""
        receive = self._socket.recv
        while True:
            try:
                message = await receive()
            except ConnectionClosed as closed:
                return _ended_by(closed)
            deliver(message)

    async def send(self, message: bytes | memoryview, *, chunk: bool = False) -> None:
        """Waits while the line takes no more. Raises ``TransportLost``."""
        try:
            await self._socket.send(message, text=self.wire.text and not chunk)
        except ConnectionClosed as closed:
            raise TransportLost(_ended_by(closed)) from closed

    def under_way(self) -> Collection[int | str | None]:
        """Nothing: what was asked over a socket is answered over it."""
        return ()

    def give_up(self, number: int) -> None:
        """Nothing to do: the hub goes on with it."""

    async def settle(self) -> None:
        """Nothing to do: what was sent on a socket reaches that connection or none."""

    def resume(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """The closing handshake."""
        await self._socket.close(1000, "bye")

    def abort(self) -> None:
        """No handshake."""
        self._socket.transport.abort()

    async def _connect(self, timeout_s: float) -> ClientConnection:
        token = self.token
        try:
            return await connect(
                self._url,
                subprotocols=[Subprotocol(self.wire.subprotocol)],
                additional_headers={"Authorization": f"Bearer {token}"} if token is not None else None,
                compression="deflate" if self._options.compression else None,
                open_timeout=timeout_s,
                # The hub's heartbeat tells both sides what a ping would.
                ping_interval=None,
                close_timeout=self._options.close_timeout_s,
                max_size=self._options.max_frame_bytes,
                proxy=True if self._options.use_system_proxy else None,
            )
        except InvalidStatus as refused:
            raise CannotConnect(_refused_by(refused)) from refused
        except (OSError, WebSocketException) as problem:
            ended = Ended(ABNORMAL, f"cannot connect: {problem}", in_the_way=_is_in_the_way(problem))
            raise CannotConnect(ended) from problem


def _refused_by(refused: InvalidStatus) -> Ended:
    response = refused.response
    headers = response.headers
    # `get` raises when a header came twice.
    names = ("Content-Type", "Retry-After", "WWW-Authenticate")
    content_type, retry_after, challenge = ("".join(headers.get_all(name)[:1]) for name in names)
    return refused_with(response.status_code, content_type, retry_after, bytes(response.body or b""), challenge)


def _is_in_the_way(problem: OSError | WebSocketException) -> bool:
    """Whether something spoke, or swallowed what was said. Where nobody can be reached no transport helps."""
    if isinstance(problem, OSError):
        return isinstance(problem, TimeoutError | ConnectionResetError | ConnectionAbortedError | BrokenPipeError)
    return True


def _ended_by(closed: ConnectionClosed) -> Ended:
    frame = closed.rcvd
    return Ended(frame.code, frame.reason) if frame is not None else Ended(ABNORMAL, LOST)


def _keep_queue_short(socket: ClientConnection, most_bytes: int) -> None:
    """While an upload fills the line, what else is sent waits behind what the kernel has taken; let it take little."""
    raw = socket.transport.get_extra_info("socket")
    option = getattr(kernel, "TCP_NOTSENT_LOWAT", None)  # Linux and macOS have it
    if raw is not None and option is not None:
        with contextlib.suppress(OSError, AttributeError, TypeError):
            raw.setsockopt(kernel.IPPROTO_TCP, option, most_bytes)
