"""The hub's scripts in Python's words: what they are called with, and what their replies mean. No I/O."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from hub.config import Settings
from hub.fanout.broker import (
    AnyEpoch,
    ConditionFailed,
    Draft,
    HistoryPage,
    HistoryRequest,
    Publication,
    Published,
    ServerChanged,
    TopicState,
    TopMoved,
)
from hub.fanout.envelope import EPHEMERAL, UNECHOED
from hub.orgs import rewriting_key
from hub.protocol.frames import Position
from hub.redis import Arg, ScriptCall, load_script
from hub.topics.topic import Topic

PUBLISH = load_script("hub.fanout", "position.lua", "publish.lua")
READ = load_script("hub.fanout", "position.lua", "read.lua")
REDACT = load_script("hub.fanout", "redact.lua")
IDENTITY = load_script("hub.fanout", "identity.lua")

_DUPLICATE, _SERVER_CHANGED, _TOP_MOVED = 1, 2, 3


def publish_call(draft: Draft, settings: Settings, *, sharded: bool) -> ScriptCall:
    """The call that publishes ``draft``; ``sharded``: on the channels of a cluster."""
    names = draft.topic.names
    keys: tuple[str, ...] = (names.position, names.history)
    if draft.key is not None:
        keys += (names.dedupe + draft.key,)
    args: tuple[Arg, ...] = (
        names.channel,
        _candidate_epoch(),
        draft.if_server or "",
        "" if draft.if_top is None else draft.if_top,
        "SPUBLISH" if sharded else "PUBLISH",
        _mark(draft),
    )
    bounds = (0, 0, 0)
    if draft.history is not None:
        bounds = (draft.history.count, draft.history.bytes, draft.history.age_s * 1000)
    lifetimes = (settings.position_ttl_s * 1000, settings.idempotency_ttl_s * 1000)
    return ScriptCall(PUBLISH, keys, (*args, *bounds, *lifetimes, draft.body, *draft.further))


def published(reply: Any) -> Published | ConditionFailed:
    """What ``publish_call`` came to."""
    epoch, seq, status, server = reply
    if status == _SERVER_CHANGED:
        return ServerChanged(server.decode())
    if status == _TOP_MOVED:
        return TopMoved(server.decode(), seq)
    return Published(epoch.decode(), seq, status == _DUPLICATE, server.decode())


def redact_call(topic: Topic, epoch: str, bodies: Mapping[int, bytes]) -> ScriptCall:
    """The call that gives kept events other bodies."""
    names = topic.names
    keys = (names.position, names.history, rewriting_key(topic.org, topic.text))
    return ScriptCall(REDACT, keys, (epoch, *(arg for pair in bodies.items() for arg in pair)))


def state_call(topic: Topic, settings: Settings) -> ScriptCall:
    """The call that reads a topic's state and no events."""
    names = topic.names
    args = (_candidate_epoch(), settings.position_ttl_s * 1000, "top")
    return ScriptCall(READ, (names.position, names.history), args)


def read_call(request: HistoryRequest, settings: Settings) -> ScriptCall:
    """The call that reads a page of history."""
    after = request.after
    wanted: tuple[Arg, ...]
    if isinstance(after, Position):
        wanted = ("position", after.epoch, after.seq)
    elif isinstance(after, AnyEpoch):
        wanted = ("number", "", after.seq)
    elif isinstance(after, int):
        wanted = ("last", "", after)
    else:
        wanted = (after, "", 0)
    state = state_call(request.topic, settings)
    return state._replace(args=(*state.args[:2], *wanted, request.limit, request.max_bytes))


def state_of(reply: Any) -> TopicState:
    """The state in a reply of read.lua."""
    epoch, top, first, previous, base, server = reply[:6]
    return TopicState(epoch.decode(), top, first, previous.decode(), base, server.decode())


def page_of(reply: Any) -> HistoryPage:
    """The whole of a reply of read.lua."""
    state = state_of(reply)
    entries = reply[7:]
    publications = tuple(
        # The id of an entry is `<seq>-0`.
        Publication(state.epoch, int(id_[:-2]), int(ts), body)
        for id_, ts, body in zip(entries[::3], entries[1::3], entries[2::3], strict=True)
    )
    return HistoryPage(state, publications, bool(reply[6]))


def _mark(draft: Draft) -> str:
    """What stands for the epoch of an event that is not kept."""
    if draft.history is not None and not draft.ephemeral:
        return ""
    return EPHEMERAL if draft.echo else UNECHOED


def _candidate_epoch() -> str:
    """Used when a record is made or forked. A new one for each call: no two epochs of a topic may be alike."""
    return f"{random.getrandbits(64):016x}"
