"""Follows topics until it is interrupted: what ``hub tail`` does between connecting and Ctrl-C."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import Struct

from hub.cli.printer import Printer
from hub.client import HubClient, SubscriptionEnded
from hub.protocol.frames import Since


class Wanted(Struct, frozen=True):
    """What to follow, and from where."""

    topics: tuple[str, ...]
    since: Since | None
    last: int | None
    filter: dict[str, Any] | None


async def follow(client: HubClient, wanted: Wanted, printer: Printer) -> bool:
    """Prints events until every topic was taken away. False then; raises ``HubClosed`` when the connection is over."""

    async def one(topic: str) -> None:
        events = client.subscribe(topic, since=wanted.since, last=wanted.last, filter=wanted.filter, on_gap=printer.gap)
        try:
            async for event in events:
                printer.event(event)
        except SubscriptionEnded as ended:
            printer.problem(f"{topic}: {ended}")

    def tell(state: str, detail: str) -> None:
        over = "" if client.transport == "websocket" else f" over {client.transport}"
        printer.note(f"connected{over}" if state == "up" else f"not connected: {detail}")

    client.on_state(tell)
    async with client:
        await asyncio.gather(*(one(topic) for topic in wanted.topics))
    return False
