"""Questions between nodes: asked in a control message that bears an ``Inquiry``, answered in a moment or not at all."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import structlog

from hub.errors import HubError
from hub.fanout.control import Answered, Control, ControlMessage, Inquiry

log = structlog.get_logger(__name__)


class Inquiries:
    """Bounded by whoever asks: each waits for one answer, and not for long."""

    def __init__(self, node: str, control: Control) -> None:
        self._node = node
        self._control = control
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        control.on(Answered, self._receive)

    async def ask(self, node: str, make: Callable[[Inquiry], ControlMessage], within_s: float) -> bytes | None:
        """The answer, as JSON. None: that node is gone, or slow. Raises ``unavailable`` when Redis does not take it."""
        inquiry = Inquiry(self._node, secrets.token_urlsafe(9))
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[inquiry.id] = answer
        try:
            async with asyncio.timeout(within_s):
                await self._control.send(make(inquiry), node)
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._waiting[inquiry.id]

    def answer(self, inquiry: Inquiry, making: Coroutine[Any, Any, Any]) -> None:
        """Answers as soon as ``making`` has returned what to say."""
        task = asyncio.create_task(self._answer(inquiry, making), name="inquiry")
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def close(self) -> None:
        """Answers nothing any more."""
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    async def _answer(self, inquiry: Inquiry, making: Coroutine[Any, Any, Any]) -> None:
        try:
            body = msgspec.Raw(msgspec.json.encode(await making))
            await self._control.send(Answered(inquiry.id, body), inquiry.node)
        except HubError as error:
            log.warning("inquiry not answered", error=error.code)
        except Exception:
            log.exception("inquiry not answered")

    def _receive(self, message: Answered) -> None:
        waiting = self._waiting.get(message.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(bytes(message.body))
