"""A business that never sleeps, for ``hub dev``: events of the ten services, published the way a service would.

Each event goes through ``hub_publish`` in a transaction bound to its organisation, and so through the outbox and its
relay. The same seed tells the same story.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from hub.api import Database, HubError, OrgId

_log = structlog.get_logger(__name__)

_GUESTS = ("Ada Lindqvist", "Bruno Costa", "Chiara Ricci", "Dmitri Volkov", "Emeka Obi", "Fatima Haddad", "Grace Kim")
_STAFF = ("hana", "ivan", "jonas", "katya", "luis", "mei")
_TASKS = ("Replace the towels", "Fix the shower", "Prepare the crib", "Inspect the minibar", "Deep clean")
_REPORTS = ("occupancy", "revenue", "arrivals", "housekeeping")


class DemoEvent(NamedTuple):
    """One event of a service: topic ``events:<service>``."""

    service: str
    name: str
    data: dict[str, Any]
    tags: dict[str, str | int]


_Make = Callable[[random.Random], dict[str, Any]]


def _money(dice: random.Random) -> dict[str, Any]:
    # Minor units: money does not belong into a float.
    return {
        "invoice_id": f"INV-{dice.randint(10_000, 99_999)}",
        "amount": dice.randint(40, 900) * 100,
        "currency": "EUR",
    }


def _stay(dice: random.Random) -> dict[str, Any]:
    return {
        "guest": dice.choice(_GUESTS),
        "room": str(dice.randint(1, 9) * 100 + dice.randint(1, 30)),
        "nights": dice.randint(1, 9),
    }


def _shift(dice: random.Random) -> dict[str, Any]:
    return {"member": dice.choice(_STAFF), "shift": dice.choice(("early", "late", "night"))}


def _task(dice: random.Random) -> dict[str, Any]:
    return {"task_id": dice.randint(1000, 9999), "title": dice.choice(_TASKS), "assignee": dice.choice(_STAFF)}


def _room(dice: random.Random) -> dict[str, Any]:
    return {"room": str(dice.randint(1, 9) * 100 + dice.randint(1, 30)), "floor": dice.randint(1, 9)}


def _user(dice: random.Random) -> dict[str, Any]:
    return {"member": dice.choice(_STAFF), "role": dice.choice(("manager", "reception", "housekeeping"))}


def _figures(dice: random.Random) -> dict[str, Any]:
    return {
        "occupancy": round(dice.uniform(0.4, 1.0), 3),
        "arrivals": dice.randint(0, 40),
        "open_tasks": dice.randint(0, 25),
    }


def _brand(dice: random.Random) -> dict[str, Any]:
    return {"theme": dice.choice(("dawn", "harbour", "forest")), "colour": f"#{dice.randrange(1 << 24):06x}"}


def _visits(dice: random.Random) -> dict[str, Any]:
    return {"visits": dice.randint(20, 900), "bookings": dice.randint(0, 30), "window_s": 60}


def _report(dice: random.Random) -> dict[str, Any]:
    return {"report": dice.choice(_REPORTS), "rows": dice.randint(10, 5000)}


# service -> what can happen there: name, status tag, data.
_STORY: Mapping[str, Sequence[tuple[str, str, _Make]]] = {
    "finance": (
        ("invoice.created", "open", _money),
        ("invoice.paid", "paid", _money),
        ("invoice.overdue", "late", _money),
    ),
    "guest": (
        ("guest.booked", "booked", _stay),
        ("guest.checked_in", "in", _stay),
        ("guest.checked_out", "out", _stay),
    ),
    "staff": (("shift.started", "on", _shift), ("shift.ended", "off", _shift)),
    "tasks": (("task.created", "open", _task), ("task.assigned", "open", _task), ("task.completed", "done", _task)),
    "properties": (("room.cleaned", "clean", _room), ("room.blocked", "blocked", _room)),
    "users": (("user.invited", "invited", _user), ("user.role_changed", "active", _user)),
    "dashboard": (("figures.updated", "live", _figures),),
    "branding": (("theme.published", "live", _brand),),
    "analytics": (("visits.counted", "live", _visits),),
    "reports": (("report.requested", "running", _report), ("report.finished", "done", _report)),
}

PROPERTIES = (123, 456, 789)
"""Values of the tag ``property_id``."""


def demo_events(seed: int) -> Iterator[DemoEvent]:
    """Events without end; every service comes once before any comes again."""
    dice = random.Random(seed)
    services = list(_STORY)
    while True:
        dice.shuffle(services)
        for service in services:
            name, status, make = dice.choice(_STORY[service])
            tags: dict[str, str | int] = {"property_id": dice.choice(PROPERTIES), "status": status}
            yield DemoEvent(service, name, make(dice), tags)


async def run_demo_feed(
    database: Database, orgs: Sequence[OrgId], *, per_second: float = 4.0, seed: int = 1, count: int | None = None
) -> None:
    """Publishes for the organisations in turn until cancelled, or until there were ``count`` events.

    While the database is away it goes on trying with the same event. A client's answer is never needed.
    """
    stories = [demo_events(seed + index) for index in range(len(orgs))]
    published = 0
    away = False
    while count is None or published < count:
        turn = published % len(orgs)
        event = next(stories[turn])
        while not await _publish(database, orgs[turn], event):
            if not away:
                _log.warning("demo feed waits for the database")
            away = True
            await asyncio.sleep(1 / per_second)
        away = False
        published += 1
        await asyncio.sleep(1 / per_second)


async def _publish(database: Database, org: OrgId, event: DemoEvent) -> bool:
    try:
        async with database.transaction(org) as tx:
            await tx.publish(f"events:{event.service}", event.name, event.data, tags=event.tags)
    except HubError as error:
        if error.retry == "never":
            raise
        return False
    return True
