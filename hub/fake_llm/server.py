"""uvicorn around the fake, with one addition: requests know their transport, so that an answer can break off."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hub.fake_llm.application import FakeLlm
from hub.fake_llm.behaviour import Behaviour


class _Protocol(HttpToolsProtocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.app_state = {**self.app_state, "transport": transport}
        super().connection_made(transport)


class FakeLlmServer:
    """A fake that listens. ``url`` is what Anthropic's library takes; OpenAI's wants ``/v1`` behind it."""

    def __init__(self, listener: socket.socket, behaviour: Behaviour | None = None) -> None:
        self.llm = FakeLlm(behaviour)
        host, port = listener.getsockname()[:2]
        self.url = f"http://{host}:{port}"
        self._listener = listener
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.llm,
                http=_Protocol,
                ws="none",
                lifespan="off",
                loop="none",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
            )
        )

    async def serve(self) -> None:
        """Serves until ``stop``, SIGINT or SIGTERM."""
        await self._server.serve(sockets=[self._listener])

    def stop(self) -> None:
        """Ends ``serve``; answers that are being written get a second."""
        self._server.should_exit = True


@contextlib.asynccontextmanager
async def fake_llm_server(behaviour: Behaviour | None = None) -> AsyncIterator[FakeLlmServer]:
    """A fake on a free port of this machine; it takes requests from the start."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = FakeLlmServer(listener, behaviour)
        serving: asyncio.Task[Any] = asyncio.ensure_future(server.serve())
        try:
            yield server
        finally:
            server.stop()
            await serving
