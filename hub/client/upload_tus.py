"""Uploads where there is no WebSocket: a lane whose chunks are requests (tus 1.0, docs/uploads-tus.md).

They are begun by ``upload.begin``, which is told what ``upload.create`` is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from hub.client.errors import ProtocolViolation, RequestRefused
from hub.client.options import ClientOptions
from hub.client.transport import CannotConnect
from hub.client.upload_lane import Grant, Lane
from hub.client.wire import CHUNK_HEAD_BYTES, Refusal
from hub.errors import ErrorCode, Retry

if TYPE_CHECKING:
    from hub.client.door import Answer, Door

PATH = "/v1/uploads"
_VERSION = {"Tus-Resumable": "1.0.0"}
_NO_HANDLE = -1
# Of answers that have no body to say it. What is over says its status.
_CODES = {403: ErrorCode.FORBIDDEN, 404: ErrorCode.NOT_FOUND, 410: ErrorCode.CONFLICT}


class _Problem(Struct):
    code: str
    detail: str = ""
    retry: Retry = "later"
    retry_after_ms: int | None = None
    details: dict[str, Any] | None = None


class TusWay:
    """Implements ``Carrier``. Made for one lane."""

    def __init__(self, door: Door, token: Callable[[], str | None], options: ClientOptions) -> None:
        self._door = door
        self._token = token
        self._options = options
        self._address = ""
        self._lane: Lane

    async def open(self, upload: str) -> Lane:
        """As ``upload.resume``, which opens a handle of a socket. Raises ``RequestRefused``."""
        answer = await self._ask("HEAD", self._door.address(f"{PATH}/{upload}"), {})
        offset, size = _number(answer, "Upload-Offset"), _number(answer, "Upload-Length")
        self._address = self._door.address(f"{PATH}/{upload}")
        most = self._options.tus_chunk_bytes
        self._lane = Lane(self, Grant(upload, _NO_HANDLE, offset, most, most, size, paced=False))
        return self._lane

    async def send_chunk(self, handle: int, offset: int, chunk: memoryview) -> None:
        """Returns when the hub has it, or the lane has heard why not."""
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        try:
            answer = await self._ask("PATCH", self._address, headers, bytes(chunk[CHUNK_HEAD_BYTES:]))
        except RequestRefused as no:
            self._lane.refused(Refusal(no.code, no.message, no.retry, no.retry_after_ms, no.details))
            return
        reached = _number(answer, "Upload-Offset")
        self._lane.sent = reached  # less than was sent, when a node leaves
        self._lane.credit(reached, self._options.tus_chunk_bytes)

    async def _ask(self, method: str, address: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        limit_s = self._options.upload_stall_s
        try:
            async with asyncio.timeout(limit_s):
                answer = await self._door.ask(method, address, {**_VERSION, **headers}, body, self._token())
        except TimeoutError:
            raise RequestRefused(ErrorCode.TIMEOUT, f"no answer for {limit_s:g} s", "later") from None
        except CannotConnect as problem:
            raise RequestRefused(ErrorCode.UNAVAILABLE, problem.ended.reason, "later") from problem
        if not 200 <= answer.status < 300:
            raise _refusal(answer)
        return answer


def _refusal(answer: Answer) -> RequestRefused:
    if answer.status == 401:
        # The connection that brings events renews the token.
        return RequestRefused(ErrorCode.UNAVAILABLE, "the token has expired; waiting for a fresh one", "later")
    try:
        problem = msgspec.json.decode(answer.body, type=_Problem)
    except msgspec.DecodeError:
        if not answer.header("Tus-Resumable"):
            text = f"something on the way, not the hub, answers HTTP {answer.status}"
            return RequestRefused(ErrorCode.UNAVAILABLE, text, "later")
        code = _CODES.get(answer.status, ErrorCode.UNAVAILABLE)
        return RequestRefused(code, f"HTTP {answer.status}", "never" if answer.status in _CODES else "later")
    return RequestRefused(problem.code, problem.detail, problem.retry, problem.retry_after_ms, problem.details)


def _number(answer: Answer, name: str) -> int:
    text = answer.header(name)
    if not text.isdigit():
        raise ProtocolViolation(f"an answer about an upload without {name}")
    return int(text)
