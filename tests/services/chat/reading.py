"""Reads a stream of server-sent events, and watches the hub's connections to the fake."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx

from hub.client.content import ContentAssembler


class Told(NamedTuple):
    """One event."""

    name: str
    data: Any
    id: str | None


def events(text: str) -> list[Told]:
    """All events of a whole stream, which must be nothing but events and comments."""
    assert text.endswith("\n\n")
    return [told for block in text[:-2].split("\n\n") if (told := _event(block)) is not None]


async def blocks(response: httpx.Response) -> AsyncIterator[str]:
    """Events and comments as they come."""
    rest = ""
    async for text in response.aiter_text():
        rest += text
        while "\n\n" in rest:
            block, _, rest = rest.partition("\n\n")
            yield block


def _event(block: str) -> Told | None:
    if block.startswith(":"):
        return None
    fields = dict(line.split(": ", 1) for line in block.split("\n"))
    assert fields.keys() <= {"event", "data", "id"}
    return Told(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id"))


def parts(text: str) -> list[dict[str, Any]]:
    """All parts of a UI message stream, without the mark of the end, which must be there."""
    assert text.endswith("data: [DONE]\n\n")
    told = events(text.removesuffix("data: [DONE]\n\n"))
    assert {one.name for one in told} == {"message"}
    return [one.data for one in told]


def document(told: list[Told]) -> str:
    """What a client has after all chunks."""
    assembler = ContentAssembler()
    for one in told:
        if one.name == "chunk":
            assert one.id == str(one.data["index"])
            assembler.apply(one.data)
    return assembler.html
