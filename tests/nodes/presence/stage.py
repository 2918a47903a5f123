"""A topic's stage for tests: what its subscribers are told of presence, and what they make of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from hub.errors import HubError
from hub.fanout.bodies import encode_body, name_and_data
from hub.fanout.broker import Publication
from hub.nodes.presence.table import Change, Changed, PresenceTable, Snapshot, Status
from hub.topics.topic import Topic
from tests.support.redis_world import World, world
from tests.support.waiting import until

ONLINE, AWAY, OFFLINE = Status.ONLINE, Status.AWAY, Status.OFFLINE


def told(publication: Publication) -> dict[str, Any]:
    """The data of an event of presence; its form is that of every other event."""
    assert (publication.epoch, publication.seq) == ("", 0)
    name, data = name_and_data(publication.body)
    id_ = msgspec.json.decode(publication.body)["id"]
    assert name == "presence"
    assert len(id_) == 31
    assert publication.body == encode_body(id_, name, data, None, None)
    assert isinstance(data, dict)
    return data


class Stage:
    """A table on a real Redis, and a link that listens."""

    def __init__(self, its: World) -> None:
        self.world = its
        self.table = PresenceTable(its.redis, its.settings)

    async def listen(self, *topics: Topic) -> None:
        outcomes = await self.world.broker.subscribe(topics)
        assert not any(isinstance(outcome, HubError) for outcome in outcomes)

    async def say(
        self, instance: str, topic: Topic, *changes: tuple[str, Status], whole: bool = False, name: str = ""
    ) -> Changed:
        """One change of one topic; the name is the user's in capitals."""
        said = [Change(user, name or user.upper(), status) for user, status in changes]
        (outcome,) = await self.table.change(instance, [(topic, said, whole)])
        assert isinstance(outcome, Changed), outcome
        return outcome

    async def snapshot(self, topic: Topic) -> Snapshot:
        (outcome,) = await self.table.snapshots([topic])
        assert isinstance(outcome, Snapshot), outcome
        return outcome

    async def present(self, topic: Topic) -> dict[str, str]:
        """Who is present, by user; the counts agree."""
        snapshot = await self.snapshot(topic)
        assert snapshot.members is not None
        found = {member.user: str(member.status) for member in snapshot.members}
        assert len(found) == len(snapshot.members)
        numbers = list(found.values())
        assert (snapshot.online, snapshot.away) == (numbers.count("online"), numbers.count("away"))
        return found

    async def heard(self, topic: Topic) -> list[dict[str, Any]]:
        """Everything that was told so far: a probe behind it has arrived."""
        ear = self.world.ear
        probe = b"- 0 1\nprobe-%d" % len(ear.heard(topic))
        names = topic.names
        command = "SPUBLISH" if self.world.redis.cluster else "PUBLISH"
        await self.world.redis.command(names.channel, command, names.channel, probe)
        body = probe.partition(b"\n")[2]
        await until(lambda: any(one.body == body for one in ear.heard(topic)))
        return [told(one) for one in ear.heard(topic) if not one.body.startswith(b"probe-")]


def brief(events: Sequence[dict[str, Any]]) -> list[str]:
    """``join ann online`` …, or ``count 3 1``."""
    return [
        f"count {event['online']} {event['away']}"
        if event["action"] == "count"
        else f"{event['action']} {event['user']} {event['status']}"
        for event in events
    ]


@contextlib.asynccontextmanager
async def stage(url: str, **changes: Any) -> AsyncIterator[Stage]:
    async with world(url, **changes) as its:
        yield Stage(its)
