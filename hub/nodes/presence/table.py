"""What stands in Redis about who is present in topics, and the events that say how it changes.

A user is present by instances; an instance is one life of a node (``hub.nodes.presence.lease``). What is told is the
difference that a change makes over all of them; the scripts count, number and publish it in the same step.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct

from hub.config import Settings
from hub.errors import HubError
from hub.fanout.publisher import event_id
from hub.nodes.duty_table import cut
from hub.orgs import parse_presence_note, presence_names, presence_node_key, presence_note
from hub.redis import Arg, Command, Redis, Script, ScriptCall, load_script
from hub.topics.topic import Topic, parse_topic

# One step: what is asked of Redis before it looks again at what others want. A millisecond or two.
_STEP_CALLS: Final = 20
_STEP_USERS: Final = 200
_STEP_SNAPSHOTS: Final = 10
_CALL_USERS: Final = 100
_REMOVAL_PAUSE_S: Final = 0.001  # between two steps; nobody waits for the end of it
_NOTES_PER_COMMAND: Final = 500
# Stands among the notes of an instance, which all have a slash, until somebody begins to remove it.
_ALIVE: Final = "alive"
# The rest of an event's id is its number within the call; see presence_merge.lua.
_EVENT_ID_CHARS: Final = 27


class Status(StrEnum):
    """How a user is present; over several connections the first of these that one of them has."""

    ONLINE = "online"
    AWAY = "away"
    OFFLINE = "offline"


_LETTERS: Final = {Status.ONLINE: "o", Status.AWAY: "a", Status.OFFLINE: ""}
_STATUSES: Final = {ord("o"): Status.ONLINE, ord("a"): Status.AWAY}


class Member(Struct, frozen=True, gc=False):
    """A user who is present in a topic."""

    user: str
    name: str
    status: Status


class Snapshot(Struct, frozen=True):
    """Who is present in a topic at ``version``; the events that follow have the next versions of ``epoch``."""

    epoch: str
    version: int
    online: int
    away: int
    members: tuple[Member, ...] | None
    """None: too many to list; their number is all that is told."""


class Change(NamedTuple):
    """What the connections of one node make of a user in a topic; OFFLINE: the user has none there (any more)."""

    user: str
    name: str
    status: Status


class Changed(NamedTuple):
    """What a topic came to."""

    epoch: str
    version: int
    again_ms: int
    """0, or: its count was held back; call again in so many ms, without changes if there are none by then."""


class _Person(Struct, gc=False):
    user: str
    name: str


class _Job(NamedTuple):
    """A call to be made for one of several items."""

    item: int
    topic: Topic
    changes: list[Change]


_encoder = msgspec.json.Encoder()
_person_decoder = msgspec.json.Decoder(_Person)


class PresenceTable:
    """Presence in Redis. An ``instance`` is a word without blanks that has a lease (``NodeLease``).

    What nobody changes for ``presence_keep_s`` is forgotten: whom an instance has for long it says again in time (a
    change without changes is enough). However much is asked for at once, a step keeps Redis busy for some milliseconds.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._keep_ms = settings.presence_keep_s * 1000
        self._change, self._leave, self._read = scripts = (
            _script("record", "merge", "change"),
            _script("record", "merge", "leave"),
            _script("record", "read"),
        )
        redis.register(*scripts)

    async def change(
        self, instance: str, items: Sequence[tuple[Topic, Sequence[Change], bool]]
    ) -> list[Changed | HubError]:
        """Says whom ``instance`` has in topics; one outcome each, in the order asked.

        The flag is ``whole``: whoever is not named is not there by this instance. What is said again changes nothing,
        and nobody is told. After an error some of it may have happened: say it again. One call at a time for a topic
        and instance, or ``whole`` takes away what another call brings.
        """
        outcomes: dict[int, Changed | HubError] = {}
        named = [
            _Job(number, topic, some)
            for number, (topic, changes, _) in enumerate(items)
            for some in list(cut({change.user: change for change in changes}.values(), _CALL_USERS)) or [[]]
        ]
        await self._apply(instance, named, outcomes)
        whole = {
            number: (topic, {change.user for change in changes})
            for number, (topic, changes, whole) in enumerate(items)
            if whole and isinstance(outcomes[number], Changed)
        }
        await self._apply(instance, await self._not_named(instance, whole, outcomes), outcomes)
        return [outcomes[number] for number in range(len(items))]

    async def snapshots(self, topics: Sequence[Topic]) -> list[Snapshot | HubError]:
        """Who is present in each of ``topics``. Also where nobody is there is an epoch, and the next event is of it."""
        outcomes: list[Snapshot | HubError] = []
        for some in cut(topics, _STEP_SNAPSHOTS):
            calls = [
                ScriptCall(self._read, (presence_names(topic.org, topic.text).members,), self._first())
                for topic in some
            ]
            replies = await self._redis.batch(calls)
            outcomes += [reply if isinstance(reply, HubError) else _snapshot(reply) for reply in replies]
            if error := _nothing_but_errors(replies):
                return outcomes + [error] * (len(topics) - len(outcomes))
        return outcomes

    async def begin(self, instance: str) -> None:
        """A new instance begins. Raises ``unavailable``."""
        key = presence_node_key(instance)
        await self._redis.command(key, "SADD", key, _ALIVE)

    async def lives(self, instance: str) -> bool:
        """False: somebody has removed it, or Redis has lost it. Asked now and then, or it is forgotten in time.

        Raises ``unavailable``.
        """
        key = presence_node_key(instance)
        lives, _ = replies = await self._redis.batch(
            [Command(key, ("SISMEMBER", key, _ALIVE)), Command(key, ("PEXPIRE", key, self._keep_ms))]
        )
        _raise_first(replies)
        return bool(lives)

    async def servers(self) -> frozenset[str]:
        """What the servers call themselves: one that was not there before may have less than was said to another.

        Raises ``unavailable`` when one of them does not answer.
        """
        return frozenset((await self._redis.servers()).values())

    async def note(self, instance: str, topics: Sequence[Topic]) -> None:
        """Before the first change of a topic: if the instance dies, it is looked for there. Raises ``unavailable``."""
        _raise_first(await self._redis.batch(_notes(instance, topics)))

    async def unnote(self, instance: str, topics: Sequence[Topic]) -> None:
        """After the last one: the instance has nobody there any more. Raises ``unavailable``."""
        key = presence_node_key(instance)
        for some in cut(topics, _NOTES_PER_COMMAND):
            await self._redis.command(key, "SREM", key, *(presence_note(topic.org, topic.text) for topic in some))

    async def remove(self, instance: str) -> int:
        """Takes a dead instance out of all its topics, step by step. Returns how many users went.

        Raises ``unavailable``; what is left goes when it is called again. Several may do it at the same time.
        """
        key = presence_node_key(instance)
        # First: whoever finds itself here no more begins as another, and does not rely on what is there.
        await self._redis.command(key, "SREM", key, _ALIVE)
        removed = 0
        while notes := await self._redis.command(key, "SRANDMEMBER", key, _STEP_CALLS):
            most = _STEP_USERS // len(notes)
            calls = [self._call(self._leave, _noted(note), instance, (most,)) for note in notes]
            replies = await self._redis.batch(calls)
            empty = [
                note
                for note, reply in zip(notes, replies, strict=True)
                if not isinstance(reply, HubError) and not reply[1]
            ]
            removed += sum(reply[0] for reply in replies if not isinstance(reply, HubError))
            if empty:
                await self._redis.command(key, "SREM", key, *empty)
            _raise_first(replies)
            await asyncio.sleep(_REMOVAL_PAUSE_S)
        return removed

    async def _apply(self, instance: str, jobs: Sequence[_Job], outcomes: dict[int, Changed | HubError]) -> None:
        """Does the jobs in steps. Of an item's outcomes the last one counts, or the first error."""
        away: HubError | None = None
        for step in _steps(jobs):
            if away is not None:
                # The rest is not tried: each step would wait for as long again.
                outcomes |= dict.fromkeys((job.item for job in step), away)
                continue
            calls: list[ScriptCall | Command] = [
                self._call(self._change, job.topic, instance, tuple(_arguments(job.changes))) for job in step
            ]
            # A node that others have removed, and that does not know it yet, has no notes any more.
            calls += _notes(instance, [job.topic for job in step if any(map(_is_here, job.changes))])
            replies = await self._redis.batch(calls)
            away = _nothing_but_errors(replies)
            not_noted = next((reply for reply in replies[len(step) :] if isinstance(reply, HubError)), None)
            for job, reply in zip(step, replies[: len(step)], strict=True):
                error = not_noted or (reply if isinstance(reply, HubError) else None)
                if not isinstance(outcomes.get(job.item), HubError):
                    outcomes[job.item] = error or Changed(reply[0].decode(), *reply[1:])

    async def _not_named(
        self, instance: str, whole: Mapping[int, tuple[Topic, set[str]]], outcomes: dict[int, Changed | HubError]
    ) -> list[_Job]:
        """What takes away whom the instance has in topics beside those who were named."""
        jobs: list[_Job] = []
        cursors = dict.fromkeys(whole, b"0")
        while cursors:
            some = list(cursors)[:_STEP_CALLS]
            keys = [presence_names(topic.org, topic.text).users + instance for topic, _ in map(whole.__getitem__, some)]
            calls = [
                Command(key, ("SSCAN", key, cursors[number], "COUNT", _STEP_USERS))
                for key, number in zip(keys, some, strict=True)
            ]
            replies = await self._redis.batch(calls)
            if error := _nothing_but_errors(replies):
                outcomes |= dict.fromkeys(whole, error)
                return []
            for number, reply in zip(some, replies, strict=True):
                topic, named = whole[number]
                if isinstance(reply, HubError):
                    outcomes[number] = reply
                    del cursors[number]
                    continue
                users = {user.decode() for user in reply[1]} - named
                jobs += [
                    _Job(number, topic, part)
                    for part in cut((Change(user, "", Status.OFFLINE) for user in users), _CALL_USERS)
                ]
                cursors[number] = reply[0]
                if reply[0] == b"0":
                    del cursors[number]
        return jobs

    def _call(self, script: Script, topic: Topic, instance: str, args: tuple[Arg, ...]) -> ScriptCall:
        names = presence_names(topic.org, topic.text)
        count_ms = round(self._settings.presence_count_s * 1000)
        publish = "SPUBLISH" if self._redis.cluster else "PUBLISH"
        more = (count_ms, topic.channel, publish, event_id()[:_EVENT_ID_CHARS], instance)
        return ScriptCall(script, (names.members, names.users + instance), (*self._first(), *more, *args))

    def _first(self) -> tuple[Arg, ...]:
        # A new candidate for each call: no two epochs of a topic may be alike.
        return (f"{random.getrandbits(64):016x}", self._keep_ms, self._settings.presence_max_listed)


def _script(*parts: str) -> Script:
    return load_script("hub.nodes.presence", *(f"presence_{part}.lua" for part in parts))


def _steps(jobs: Iterable[_Job]) -> Iterator[list[_Job]]:
    step: list[_Job] = []
    users = 0
    for job in jobs:
        if step and (len(step) == _STEP_CALLS or users + len(job.changes) > _STEP_USERS):
            yield step
            step, users = [], 0
        step.append(job)
        users += len(job.changes)
    if step:
        yield step


def _arguments(changes: Iterable[Change]) -> Iterator[Arg]:
    for user, name, status in changes:
        yield _LETTERS[status]
        yield user
        yield _encoder.encode(_Person(user, name))[1:-1]


def _notes(instance: str, topics: Iterable[Topic]) -> list[Command]:
    key = presence_node_key(instance)
    return [
        Command(key, ("SADD", key, *(presence_note(topic.org, topic.text) for topic in some)))
        for some in cut(topics, _NOTES_PER_COMMAND)
    ]


def _raise_first(replies: Iterable[Any]) -> None:
    for reply in replies:
        if isinstance(reply, HubError):
            raise reply


def _nothing_but_errors(replies: Sequence[Any]) -> HubError | None:
    """One of them, if Redis has done nothing at all."""
    errors = [reply for reply in replies if isinstance(reply, HubError)]
    return errors[0] if errors and len(errors) == len(replies) else None


def _is_here(change: Change) -> bool:
    return change.status is not Status.OFFLINE


def _snapshot(reply: list[Any]) -> Snapshot:
    epoch, version, online, away, listed, *members = reply
    return Snapshot(epoch.decode(), version, online, away, tuple(map(_member, members)) if listed else None)


def _member(stored: bytes) -> Member:
    person = _person_decoder.decode(b"{%b}" % stored[1:])
    return Member(person.user, person.name, _STATUSES[stored[0]])


def _noted(note: bytes) -> Topic:
    return parse_topic(*parse_presence_note(note.decode()))
