"""Events that do not go to their authors: whatever else goes out with them, and however it does."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from hub.fanout import dispatcher, run
from hub.fanout.broker import Draft
from hub.protocol.codec import Encoding, Packet, encode_event
from hub.topics.subscriptions import SubState
from tests.support.fan_out import FLEETING, REPLAY, FakeConnection, FanOut, hidden, topic
from tests.support.redis_world import draft, world
from tests.support.redis_world import topic as real_topic
from tests.support.waiting import until


def publish_hidden(hub: FanOut, *users: str, g: int | None = None) -> None:
    for user in users:
        hub.broker.publish_now(hidden(REPLAY, user, g=g))


def mixture(hub: FanOut) -> None:
    """1, anna's, 2, bert's, anna's, 3."""
    hub.publish(REPLAY)
    publish_hidden(hub, "anna")
    hub.publish(REPLAY)
    publish_hidden(hub, "bert", "anna")
    hub.publish(REPLAY)


TALES = {"anna": [1, 2, "bert", 3], "bert": [1, "anna", 2, "anna", 3], "carl": [1, "anna", 2, "bert", "anna", 3]}


async def people(hub: FanOut, *, each: int = 1, **how: object) -> list[FakeConnection]:
    connections = [
        FakeConnection(hub, encoding, user=user) for user in TALES for encoding in Encoding for _ in range(each)
    ]
    for connection in connections:
        await connection.join(REPLAY, **how)  # type: ignore[arg-type]
    return connections


@pytest.mark.parametrize("how", [{}, {"ack": True}, {"g": 1}, {"g": 1, "ack": True}])
async def test_in_one_turn_with_others(hub: FanOut, how: dict[str, object]) -> None:
    connections = await people(hub, **how)
    if "g" in how:
        for number in range(3):
            hub.publish(REPLAY, g=number)
            publish_hidden(hub, "anna", g=number)
        hub.broker.pump()
        tales = {"anna": [2], "bert": [2, "anna"], "carl": [2, "anna"]}
    else:
        mixture(hub)
        hub.broker.pump()
        tales = TALES
    assert [connection.tale(REPLAY) for connection in connections] == [tales[item.user] for item in connections]
    assert all(connection.complete(REPLAY) for connection in connections)


@pytest.mark.parametrize("kind", [REPLAY, FLEETING])
async def test_alone_it_costs_its_author_no_write(hub: FanOut, kind: object) -> None:
    author, other = FakeConnection(hub, user="anna"), FakeConnection(hub, user="bert")
    for connection in (author, other):
        await connection.join(kind)  # type: ignore[arg-type]
    hub.broker.publish_now(hidden(kind, "anna"))  # type: ignore[arg-type]
    hub.broker.pump()
    assert author.packets == []
    assert other.tale(kind) == ["anna"]  # type: ignore[arg-type]


async def test_all_others_share_the_same_bytes(hub: FanOut) -> None:
    connections = await people(hub, each=2)
    mixture(hub)
    hub.broker.pump()
    packets = {user: {id(item.packets[0]) for item in connections if item.user == user} for user in TALES}
    assert {user: len(found) for user, found in packets.items()} == {"anna": 2, "bert": 2, "carl": 2}
    hub.publish(REPLAY)
    hub.broker.pump()
    assert len({id(item.packets[-1]) for item in connections}) == 2
    assert hub.dispatcher._unechoed == set()  # so what comes later is not looked at
    assert hub.metrics.stats()["eventsDelivered"] == 4 * (4 + 5 + 6) + 12


async def test_many_authors_share_what_is_encoded_once(hub: FanOut, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Encoding] = []

    def counting(*event: Any) -> bytes:
        encoded.append(event[-1])
        return encode_event(*event)

    monkeypatch.setattr(run, "encode_event", counting)
    users = [f"u{number}" for number in range(10)]
    connections = [FakeConnection(hub, encoding, user=user) for user in users for encoding in Encoding]
    for connection in connections:
        await connection.join(REPLAY, ack=connection.user == users[0])
    publish_hidden(hub, *users)
    hub.broker.pump()
    assert [item.tale(REPLAY) for item in connections] == [
        [user for user in users if user != item.user] for item in connections
    ]
    assert [encoded.count(encoding) for encoding in Encoding] == [10, 10]
    for connection in connections:
        for packet in connection.packets:
            assert packet.wire == Packet(packet.encoding, packet.payloads).wire


async def test_nobody_is_looked_at_before_it_is_his_turn(hub: FanOut, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd costs the turn in which an event comes no more than a step."""
    monkeypatch.setattr(dispatcher, "STEP_WRITES", 2)
    asked: list[str] = []

    class Asked(FakeConnection):
        @property
        def user(self) -> str:
            asked.append(self.name)
            return self.name

        @user.setter
        def user(self, name: str) -> None:
            self.name = name

    connections = [Asked(hub, user=f"u{number}") for number in range(8)]
    for connection in connections:
        await connection.join(FLEETING)
    asked.clear()
    hub.broker.publish_now(hidden(FLEETING, "u3"))
    hub.broker.pump()
    assert 0 < len(set(asked)) <= 2
    await until(lambda: hub.local(FLEETING).walk is None)
    assert [bool(item.packets) for item in connections] == [number != 3 for number in range(8)]


@pytest.mark.parametrize("step", [1, 100])
async def test_who_cannot_be_read_is_nobody(hub: FanOut, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(dispatcher, "STEP_WRITES", step)
    connections = await people(hub)
    hub.publish(REPLAY)
    body = b'{"id":"x","name":"odd","data":null,"by":5}'
    hub.broker.publish_now(Draft(topic(REPLAY), REPLAY.history, body, ephemeral=True, echo=False))
    publish_hidden(hub, "anna")
    hub.publish(REPLAY)
    for connection in connections:
        connection.deliver = partial(keep, connection)  # type: ignore[method-assign]
    hub.broker.pump()
    await until(lambda: hub.local(REPLAY).walk is None)
    for connection in connections:
        (packet,) = connection.packets
        assert len(packet.payloads) == (3 if connection.user == "anna" else 4)


def keep(connection: FakeConnection, packet: Packet) -> None:
    """Without a look at it: no client could read it."""
    connection.packets.append(packet)


@pytest.mark.parametrize("step", [1, 2, 5])
async def test_on_a_walk(hub: FanOut, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(dispatcher, "STEP_WRITES", step)
    connections = await people(hub, each=3)
    mixture(hub)
    hub.broker.pump()
    waiting = [item for item in connections if not item.frames]
    assert waiting
    waiting[0].congest()  # leaves the walk with what it has coming
    mixture(hub)
    hub.broker.pump()
    waiting[0].drain()
    await until(lambda: hub.local(REPLAY).walk is None and waiting[0].complete(REPLAY))
    assert waiting[0].tale(REPLAY) == [*TALES[waiting[0].user], 4, 5, 6]
    assert hub.metrics.stats()["eventsDelivered"] == sum(len(item.tale(REPLAY)) for item in connections)
    for connection in connections:
        if connection is not waiting[0]:
            tale = TALES[connection.user]
            assert connection.tale(REPLAY) == tale + [item + 3 if isinstance(item, int) else item for item in tale]


async def test_to_those_who_are_ahead(hub: FanOut) -> None:
    connections = await people(hub)
    local = hub.local(REPLAY)
    for connection in connections:
        sub = connection.subscriptions[topic(REPLAY).wire]
        local.leave_live(sub, SubState.AHEAD)
        local.add_ahead(sub)
    mixture(hub)
    hub.broker.pump()
    assert [connection.tale(REPLAY) for connection in connections] == [TALES[item.user] for item in connections]
    assert {connection.state(REPLAY) for connection in connections} == {SubState.LIVE}


async def test_while_a_hole_is_healed(hub: FanOut) -> None:
    connections = await people(hub)
    hub.publish(REPLAY, 2)
    del hub.broker.wire[0]
    publish_hidden(hub, "anna")
    hub.publish(REPLAY)
    hub.broker.pump()
    await until(lambda: all(item.complete(REPLAY) for item in connections))
    assert [item.tale(REPLAY).count("anna") for item in connections] == [
        int(item.user != "anna") for item in connections
    ]


async def test_redis_passes_it_on(redis_url: str) -> None:
    subject = real_topic("echo")
    async with world(redis_url) as it:
        await it.broker.subscribe([subject])
        for number, echo in enumerate((False, True)):
            await it.broker.publish(draft(subject, b'{"id":"%d"}' % number, ephemeral=True, echo=echo))
        await it.broker.publish(draft(subject))
        await until(lambda: len(it.ear.heard(subject)) == 3)
    assert [(item.epoch == "", item.seq, item.echo) for item in it.ear.heard(subject)] == [
        (True, 0, False),
        (True, 0, True),
        (False, 1, True),
    ]
