"""Whoever looks for viruses: what is asked of it, and clamd, which is spoken to by its INSTREAM command.

That a scanner cannot say is never taken for "nothing was found".
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Final, Protocol
from urllib.parse import urlsplit

import structlog

from hub.api import ConfigError, ErrorCode, HubError, Settings

_VARIABLE: Final = "HUB_UPLOADS_SCAN_URL"
_COMMAND: Final = b"zINSTREAM\0"
_PING: Final = b"zPING\0"
_PONG: Final = b"PONG\0"
_PING_S: Final = 5.0
_MAX_PIECE: Final = 1_048_576
_MAX_REPLY: Final = 4096
_MAX_NAME: Final = 200
_RETRY_MS: Final = 5000

_log = structlog.get_logger(__name__)


class Scanner(Protocol):
    """Any scanner."""

    async def scan(self, pieces: AsyncIterator[bytes]) -> str | None:
        """The name of what was found, or ``None``.

        Raises ``unavailable`` when it cannot say just now, ``timeout`` when it is well and does not come to an end with
        this file, ``too_large`` when it does not look at files of that size.
        What ``pieces`` raises passes.
        """


def open_scanner(settings: Settings) -> Scanner | None:
    """The one that ``uploads_scan_url`` names; ``None``: nobody. Raises ``ConfigError``."""
    url = settings.uploads_scan_url
    if not url:
        return None
    try:
        parts = urlsplit(url)
        if parts.scheme == "tcp" and parts.hostname and parts.port and not parts.path.strip("/"):
            return Clamd((parts.hostname, parts.port), settings.uploads_scan_timeout_s)
        if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
            return Clamd(parts.path, settings.uploads_scan_timeout_s)
    except ValueError:
        pass
    raise ConfigError(f"{_VARIABLE}: {url} is neither tcp://host:port nor unix:/path")


class Clamd:
    """One connection for each file. ``address``: host and port, or the path of a socket."""

    def __init__(self, address: tuple[str, int] | str, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s

    async def scan(self, pieces: AsyncIterator[bytes]) -> str | None:
        """See ``Scanner``."""
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                reply = await self._ask(pieces)
        except TimeoutError as error:
            if not limit.expired():
                raise
            if await self._is_well():
                _log.warning("scanner_takes_too_long", timeout_s=self._timeout_s)
                raise HubError(ErrorCode.TIMEOUT, "the virus scanner does not come to an end with the file") from error
            raise _cannot_say("does not answer in time") from error
        return _found(reply)

    async def _ask(self, pieces: AsyncIterator[bytes]) -> str:
        try:
            reader, writer = await self._connect()
        except OSError as error:
            raise _cannot_say("is not reachable") from error
        answer = asyncio.ensure_future(reader.readuntil(b"\0"))
        try:
            # It may answer before the end, and close: then what was sent last fails, and the answer counts.
            await self._send(writer, pieces, answer)
            return await _reply(answer)
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _is_well(self) -> bool:
        """Whether it answers others, so that its silence is the file's fault."""
        try:
            async with asyncio.timeout(min(self._timeout_s, _PING_S)):
                reader, writer = await self._connect()
                try:
                    writer.write(_PING)
                    return await reader.readuntil(b"\0") == _PONG
                finally:
                    writer.close()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return False

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._address, str):
            return await asyncio.open_unix_connection(self._address, limit=_MAX_REPLY)
        return await asyncio.open_connection(*self._address, limit=_MAX_REPLY)

    async def _send(
        self, writer: asyncio.StreamWriter, pieces: AsyncIterator[bytes], answer: asyncio.Future[bytes]
    ) -> None:
        await _write(writer, _COMMAND)
        async for piece in pieces:
            for start in range(0, len(piece), _MAX_PIECE):
                part = piece[start : start + _MAX_PIECE]
                await asyncio.sleep(0)  # what has come is read before a write finds the connection closed, and drops it
                if answer.done() or not await _write(writer, struct.pack(">I", len(part)) + part):
                    return
        await _write(writer, bytes(4))


async def _write(writer: asyncio.StreamWriter, data: bytes) -> bool:
    """False: the other side takes nothing any more. (What ``pieces`` raises is not caught here.)"""
    try:
        writer.write(data)
        await writer.drain()
    except OSError:
        return False
    return True


async def _reply(answer: asyncio.Future[bytes]) -> str:
    try:
        return (await answer).rstrip(b"\0").decode("utf-8", "replace").strip()
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise _cannot_say("has broken off") from error


def _found(reply: str) -> str | None:
    verdict = reply.removeprefix("stream: ")
    if verdict == "OK":
        return None
    if verdict.endswith(" FOUND"):
        return verdict.removesuffix(" FOUND")[:_MAX_NAME] or "something"
    if "size limit exceeded" in verdict:
        _log.warning("upload_larger_than_scanner_takes", hint="raise StreamMaxLength of clamd")
        raise HubError(ErrorCode.TOO_LARGE, "the file is larger than what is looked at for viruses here")
    _log.warning("scanner_failed", reply=verdict[:_MAX_NAME])
    raise _cannot_say("has failed")


def _cannot_say(why: str) -> HubError:
    return HubError(ErrorCode.UNAVAILABLE, f"the virus scanner {why}; try again", retry_after_ms=_RETRY_MS)
