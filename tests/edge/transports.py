"""Which files of the behaviour suite run over which server and transport, and what cannot be asked over HTTP.

The tests themselves are the same: ``tests.support.http_link`` translates. A stock server is tried with fewer files.
"""

from __future__ import annotations

from tests.support.running_hub import SocketKind

SOCKETS: tuple[SocketKind, ...] = ("direct", "asgi")
OTHERS: tuple[SocketKind, ...] = ("sse", "poll")
STOCK_OTHERS: tuple[SocketKind, ...] = ("sse-asgi", "poll-asgi")

KINDS: dict[str, tuple[SocketKind, ...]] = {
    "test_behaviour_subscribing": (*SOCKETS, *OTHERS),
    "test_behaviour_sessions": (*SOCKETS, *OTHERS, *STOCK_OTHERS),
    "test_behaviour_filters": (*SOCKETS, *OTHERS),
    "test_behaviour_slow": (*SOCKETS, *OTHERS),
    "test_behaviour_publishing": (*SOCKETS, *OTHERS),
    "test_behaviour_tokens": (*SOCKETS, *OTHERS),
}
"""By module; others are about sockets."""

NOT_BY_HTTP: dict[str, str] = {}
"""Tests that other transports do not have, and why."""

NOT_BY_POLLS: dict[str, str] = {}
"""The same of polls."""


def reason_to_leave_out(test: str, kind: str, encoding: str) -> str:
    """Why a test (its name without parameters) is not tried over ``kind``; "" when it is."""
    if kind in SOCKETS:
        return ""
    if encoding == "msgpack":
        return "other transports speak JSON"
    return NOT_BY_HTTP.get(test, "") or (NOT_BY_POLLS.get(test, "") if kind.startswith("poll") else "")
