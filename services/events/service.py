"""The service ``events``: a topic ``events:<service>`` for every business service, and on demand a demo feed."""

from __future__ import annotations

import asyncio

from hub.api import Hub, OrgId, Service
from services.events.demo_feed import run_demo_feed
from services.events.topics import events_kind, events_switches


def events(hub: Hub) -> Service:
    """Registers the kind; with HUB_DEMO_ORGS runs the demo feed while the node runs."""
    orgs = [OrgId.from_operator(name) for name in hub.settings.demo_orgs]
    tasks: list[asyncio.Task[None]] = []

    async def start() -> None:
        if orgs:
            tasks.append(asyncio.create_task(run_demo_feed(hub.database, orgs), name="demo-feed"))

    async def stop() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    more = hub.settings.event_services
    return Service(name="events", kinds=[events_kind(more)], switches=events_switches(more), start=start, stop=stop)
