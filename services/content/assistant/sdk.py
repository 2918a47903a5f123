"""What the providers with an official library have in common: one stream, read until the text is complete."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from services.content.assistant.failures import failure_of
from services.content.assistant.prompt import Prompt
from services.content.assistant.provider import Fault, ProviderFailure
from services.content.assistant.wire import demand_events

# The reasons with which models end a text that is not complete; any other is a usual end.
_ENDS: Mapping[str, Fault] = {
    "length": Fault.TOO_LONG,
    "max_tokens": Fault.TOO_LONG,
    "model_context_window_exceeded": Fault.TOO_LONG,
    "content_filter": Fault.WITHHELD,
    "refusal": Fault.WITHHELD,
}


class Reading(NamedTuple):
    """What one event of a stream says: a piece of the text, why the text ends, or neither."""

    text: str = ""
    end: str | None = None


class SdkProvider:
    """A provider whose library gives a stream of events. ``ask`` makes the call, ``read`` understands an event.

    ``client`` is closed with it; ``tail_s`` is what the end of the stream may take after the end of the text.
    """

    def __init__(
        self,
        name: str,
        client: Any,
        ask: Callable[[Prompt], Awaitable[Any]],
        read: Callable[[Any], Reading],
        tail_s: float,
    ) -> None:
        self.name = name
        self._client = client
        self._ask = ask
        self._read = read
        self._tail_s = tail_s

    async def generate(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        """See ``Provider``."""
        characters = _WholeCharacters()
        try:
            async with await self._ask(prompt) as stream:
                demand_events(stream.response)
                async for event in stream:
                    text, end = self._read(event)
                    if text := characters.add(text, last=end is not None):
                        yield text
                    if end is not None:
                        await self._read_tail(stream)
                        break
                else:
                    raise ProviderFailure(Fault.UNFINISHED)
            if end in _ENDS:
                raise ProviderFailure(_ENDS[end], end)
        except Exception as error:
            # Without the cause: it holds the request, and with it the key.
            raise failure_of(error) from None

    async def close(self) -> None:
        """See ``Provider``."""
        await self._client.close()

    async def _read_tail(self, stream: AsyncIterator[Any]) -> None:
        """A connection whose answer was read to its end is used again. The text is complete, whatever comes now."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self._tail_s):
                async for _ in stream:
                    pass


class _WholeCharacters:
    """Puts characters together that came in two halves, as JSON's escapes allow; half a character becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-16-le")("replace")

    def add(self, text: str, *, last: bool) -> str:
        """What is complete now; with ``last`` everything."""
        return self._decoder.decode(text.encode("utf-16-le", "surrogatepass"), last)
