"""The kind ``events``: one topic per business service and organisation, written to through the outbox."""

from __future__ import annotations

from collections.abc import Iterable

from hub.api import History, SlowPolicy, Switch, TopicKind

SERVICES = (
    "finance",
    "guest",
    "staff",
    "tasks",
    "properties",
    "users",
    "dashboard",
    "branding",
    "analytics",
    "reports",
)
"""The services that ship. A deployment adds others with HUB_EVENT_SERVICES."""


def events_kind(more: Iterable[str] = ()) -> TopicKind:
    """``events:<service>`` for the ten that ship and ``more``; any other key is a topic that does not exist.

    A day of history: a dashboard that was closed overnight catches up without a snapshot.
    """
    known = frozenset((*SERVICES, *more))
    return TopicKind(
        name="events",
        history=History(count=10_000, bytes=16 * 1024 * 1024, age_s=24 * 3600),
        slow=SlowPolicy.REPLAY,
        exists=known.__contains__,
    )


def events_switches(more: Iterable[str] = ()) -> list[Switch]:
    """A flag for each service, by which its events come over the socket; over other transports they always do."""
    names = dict.fromkeys((*SERVICES, *more))
    return [Switch(f"{name}_realtime_v2", (f"events:{name}",), socket_only=True) for name in names]
