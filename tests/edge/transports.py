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

SETTINGS: dict[str, dict[str, float]] = {"test_behaviour_sessions": {"poll_linger_s": 0.5}}
"""By module: a client that polls has left when it has not been heard of for a while."""

NOT_BY_HTTP: dict[str, str] = {
    "test_a_node_that_stops_drains_first": "there is no connection before its hello",
    "test_a_stock_server_that_stops_says_1012": "answers that wait are the server's to end",
    "test_calls_of_a_client_that_leaves_are_cancelled": "a call is a request of its own",
    "test_more_calls_at_once_than_allowed_are_rate_limited": "requests that overlap come in any order",
}
"""Tests that other transports do not have, and why."""

_ACKNOWLEDGES = "a poll acknowledges all that the answer before it had"
NOT_BY_POLLS: dict[str, str] = {
    "test_acknowledged_positions_are_used_for_what_has_no_since_or_last": _ACKNOWLEDGES,
    "test_wrong_epochs_lower_numbers_and_foreign_topics_are_ignored": _ACKNOWLEDGES,
    "test_drain_gives_a_slot_and_a_ticket_that_resumes_once": "a ticket is good for one request",
    "test_a_drain_ticket_is_bound_to_scope_and_organisation": "that a client has left is noticed late",
    "test_a_kind_without_history_says_that_something_was_skipped": "nothing is kept for who does not ask just then",
}
"""The same of polls."""


def reason_to_leave_out(test: str, kind: str, encoding: str) -> str:
    """Why a test (its name without parameters) is not tried over ``kind``; "" when it is."""
    if kind in SOCKETS:
        return ""
    if encoding == "msgpack":
        return "other transports speak JSON"
    return NOT_BY_HTTP.get(test, "") or (NOT_BY_POLLS.get(test, "") if kind.startswith("poll") else "")
