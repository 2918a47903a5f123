"""Random changes by several instances against a plain model: what stands in Redis, and what is made of the events."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from hub.embedded import RedisServer
from hub.errors import HubError
from hub.nodes.presence.table import Change, Changed, PresenceTable, Status
from hub.redis import Redis
from hub.topics.topic import Topic
from tests.nodes.presence.stage import Stage, stage
from tests.support.cut_proxy import CutProxy
from tests.support.redis_world import redis_settings, topic
from tests.support.waiting import until

INSTANCES = ["i1", "i2", "i3"]
USERS = [f"u{number}" for number in range(8)]
STATUSES = list(Status)
Said = dict[str, dict[str, Status]]
"""By instance and user; nobody who is offline."""


def over_all(said: Said) -> dict[str, str]:
    """What the users are over all instances."""
    found: dict[str, str] = {}
    for users in said.values():
        for user, status in users.items():
            found[user] = "online" if "online" in (status, found.get(user)) else "away"
    return found


def difference(before: dict[str, str], after: dict[str, str]) -> Counter[tuple[str, str, str]]:
    """The events that one is the other after."""
    events: Counter[tuple[str, str, str]] = Counter()
    for user in before.keys() | after.keys():
        if user not in before:
            events["join", user, after[user]] += 1
        elif user not in after:
            events["leave", user, "offline"] += 1
        elif before[user] != after[user]:
            events["update", user, after[user]] += 1
    return events


def summed(events: list[dict[str, Any]]) -> Counter[tuple[str, str, str]]:
    return Counter((event["action"], event["user"], event["status"]) for event in events)


class Model:
    """What every instance has said of every topic."""

    def __init__(self, chance: random.Random, topics: list[Topic]) -> None:
        self._chance = chance
        self.said: dict[Topic, Said] = {one: {instance: {} for instance in INSTANCES} for one in topics}

    def changes(self, instance: str, topics: list[Topic]) -> Iterator[tuple[Topic, list[Change], bool]]:
        """Something new to say, noted as said."""
        for one in topics:
            users = self._chance.sample(USERS, self._chance.randint(0, len(USERS)))
            changes = [Change(user, user.upper(), self._chance.choice(STATUSES)) for user in users]
            whole = self._chance.random() < 0.3
            mine = {} if whole else self.said[one][instance]
            for user, _, status in changes:
                mine[user] = status
                if status is Status.OFFLINE:
                    del mine[user]
            self.said[one][instance] = mine
            yield one, changes, whole

    def remove(self, instance: str) -> int:
        removed = 0
        for said in self.said.values():
            removed += len(said[instance])
            said[instance] = {}
        return removed


@pytest.mark.parametrize("seed", range(4))
async def test_one_after_the_other(redis_url: str, seed: int) -> None:
    """After every step: the state is the model's, and what was told is exactly the difference that the step made."""
    chance = random.Random(seed)
    rooms = [topic(f"r{number}") for number in range(4)]
    async with stage(redis_url) as on:
        await on.listen(*rooms)
        model, heard = Model(chance, rooms), dict.fromkeys(rooms, 0)
        for _ in range(60):
            before = {room: over_all(model.said[room]) for room in rooms}
            instance = chance.choice(INSTANCES)
            if chance.random() < 0.15:
                expected = model.remove(instance)
                assert await on.table.remove(instance) == expected
            else:
                items = list(model.changes(instance, chance.sample(rooms, chance.randint(1, 4))))
                for _ in range(chance.choice((1, 1, 2))):
                    outcomes = await on.table.change(instance, items)
                    assert all(isinstance(outcome, Changed) for outcome in outcomes)
            for room in rooms:
                after = over_all(model.said[room])
                assert await on.present(room) == after
                events = (await on.heard(room))[heard[room] :]
                assert summed(events) == difference(before[room], after)
                versions = [event["version"] for event in events]
                assert versions == list(range(heard[room] + 1, heard[room] + len(events) + 1))
                heard[room] += len(events)
            snapshots = await on.table.snapshots(rooms)
            assert [getattr(one, "version", None) for one in snapshots] == list(heard.values())


def replayed(events: list[dict[str, Any]]) -> dict[str, str]:
    """Who is present, for whoever has heard everything."""
    present: dict[str, str] = {}
    for number, event in enumerate(events):
        assert event["version"] == number + 1
        assert event["epoch"] == events[0]["epoch"]
        assert (event["action"] == "join") == (event["user"] not in present)
        if event["action"] == "leave":
            del present[event["user"]]
        else:
            assert present.get(event["user"]) != event["status"], "nothing has changed"
            present[event["user"]] = event["status"]
        numbers = Counter(present.values())
        assert (event["online"], event["away"]) == (numbers["online"], numbers["away"])
    return present


@pytest.mark.parametrize("seed", range(2))
async def test_all_at_the_same_time_through_connections_that_break(
    redis_server: RedisServer, redis_url: str, seed: int
) -> None:
    """Whatever is said again because no answer came: nothing happens twice, and everything arrives."""
    chance = random.Random(seed)
    rooms = [topic(f"r{number}") for number in range(6)]
    async with stage(redis_url) as on, CutProxy(redis_server.socket_path) as proxy:
        await on.listen(*rooms)
        model = Model(chance, rooms)
        redis = Redis(redis_settings(f"redis://127.0.0.1:{proxy.port}/0", redis_timeout_s=0.3))
        table = PresenceTable(redis, on.world.settings)
        said = again = 0

        async def speak(instance: str) -> None:
            nonlocal said, again
            for _ in range(40):
                waiting = list(model.changes(instance, chance.sample(rooms, 3)))
                while waiting:
                    outcomes = await table.change(instance, waiting)
                    waiting = [item for item, out in zip(waiting, outcomes, strict=True) if isinstance(out, HubError)]
                    again += len(waiting)
                said += 1

        async def hurt() -> None:
            while True:
                await until(lambda at=said: said > at, 30)
                proxy.stall("to_client")
                await asyncio.sleep(chance.random() / 50)  # some answers are on their way meanwhile
                proxy.cut()
                proxy.resume()

        hurting = asyncio.create_task(hurt())
        await asyncio.gather(*map(speak, INSTANCES))
        hurting.cancel()
        await asyncio.gather(hurting, return_exceptions=True)
        assert again
        model.remove(INSTANCES[0])
        proxy.resume()

        async def removed() -> bool:
            try:
                await table.remove(INSTANCES[0])
            except HubError:
                return False  # over a connection that was just cut
            return True

        await until(removed)
        for room in rooms:
            assert replayed(await on.heard(room)) == await on.present(room) == over_all(model.said[room])
        await redis.close()


class Follower:
    """What a node makes of events, as the contract says; it asks for a snapshot when it must."""

    def __init__(self, on: Stage, room: Topic) -> None:
        self._on = on
        self._room = room
        self._seen = 0
        self.asked = 0
        self.version = -1
        self.counts = (0, 0)
        self.members: dict[str, str] | None = None

    async def catch_up(self) -> None:
        events = await self._on.heard(self._room)
        for event in events[self._seen :]:
            await self._follow(event)
        self._seen = len(events)

    async def _follow(self, event: dict[str, Any]) -> None:
        if event["version"] <= self.version:
            return
        if event["action"] == "count":
            self.members = None
        elif self.members is None or event["version"] != self.version + 1:
            snapshot = await self._on.snapshot(self._room)
            self.asked += 1
            self.version, self.counts = snapshot.version, (snapshot.online, snapshot.away)
            self.members = None
            if snapshot.members is not None:
                self.members = {member.user: str(member.status) for member in snapshot.members}
            return
        elif event["action"] == "leave":
            del self.members[event["user"]]
        else:
            self.members[event["user"]] = event["status"]
        self.version, self.counts = event["version"], (event["online"], event["away"])


@pytest.mark.parametrize("seed", range(2))
async def test_now_few_and_now_too_many(redis_url: str, seed: int) -> None:
    chance = random.Random(seed)
    room = topic("a")
    async with stage(redis_url, presence_max_listed=4, presence_count_s=0.002) as on:
        await on.listen(room)
        model, follower = Model(chance, [room]), Follower(on, room)
        modes: set[bool] = set()
        for _ in range(150):
            instance = chance.choice(INSTANCES)
            if chance.random() < 0.2:
                model.remove(instance)
                await on.table.remove(instance)
            else:
                ((_, changes, whole),) = model.changes(instance, [room])
                await on.table.change(instance, [(room, changes, whole)])

            async def told() -> bool:
                return (await on.say("i1", room)).again_ms == 0

            await until(told)
            await follower.catch_up()
            wanted = Counter(over_all(model.said[room]).values())
            assert follower.counts == (wanted["online"], wanted["away"])
            assert follower.members in (None, over_all(model.said[room]))
            if wanted.total() > 4:
                assert follower.members is None
            elif wanted.total() <= 3:
                assert follower.members is not None
            modes.add(follower.members is None)
        assert modes == {True, False}
        assert follower.asked
