"""Everything at once: random clients, publications and faults; then calm, and every client's record must be complete.

Time is virtual and each world has its seed, so that a failing one can be run again.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from hub.fanout import dispatcher
from hub.fanout.membership import JoinRequest
from hub.fanout.turns import Turns
from hub.protocol.codec import Encoding
from hub.protocol.frames import Position
from hub.topics.kinds import TopicKind
from hub.topics.splice import Asked
from hub.topics.subscriptions import SubState
from tests.support.fan_out import FLEETING, LATEST, REPLAY, SHORT, SKIP, FakeConnection, FanOut, hidden, topic
from tests.support.record import Violation
from tests.support.virtual_loop import run_virtually

KINDS = (REPLAY, LATEST, SKIP, FLEETING, SHORT)
USERS = ("u1", "u2", "u3")
STORM_S = 20.0
CALM_S = 60.0


class World:
    """One hub, some clients, and whoever troubles them."""

    def __init__(self, seed: int, *, epochs: bool = True, cursors: bool = False) -> None:
        self.random = random.Random(seed)
        self.epochs = epochs
        self.cursors = cursors
        self.moves = 0
        self.storm = True
        self.hub = FanOut(
            replay_page_events=7,
            join_tail_bytes=65_536,
            ack_window=10,
            position_skip_events=4,
            unsubscribe_delay_s=0.2,
            heal_concurrency=2,
            max_waiting_messages=self.random.choice((10, 20_000)),
        )
        self.broker = self.hub.broker
        ticks = itertools.count()  # delivery takes time, so topics rest
        self.turns = Turns(self.hub.settings, self.hub.topics, self.hub.dispatcher, lambda: next(ticks) * 0.002)
        self.broker.events = self.turns
        self.broker.delay = self.broker.arrival = lambda: self.pause(0.03)
        self.broker.refuse_read = lambda _: self.storm and self.chance(0.1)
        self.broker.refuse_subscribe = lambda _: self.storm and self.chance(0.1)
        self.clients: list[Client] = []
        self.windowed: set[tuple[FakeConnection, str]] = set()

    def chance(self, likelihood: float) -> bool:
        return self.random.random() < likelihood

    async def pause(self, longest: float) -> None:
        # Often none at all: what happens in the same turn of the loop is the most interesting.
        await asyncio.sleep(0 if self.chance(0.3) else self.random.uniform(0, longest))

    async def run(self) -> None:
        troubles: list[Callable[[], Any]] = [self._publish, self._pump, self._hurt_messages, self._hurt_link]
        if self.epochs:
            troubles.append(self._hurt_epochs)
        tasks = [asyncio.create_task(trouble()) for trouble in troubles]
        self.clients = [Client(self) for _ in range(6)]
        tasks += [asyncio.create_task(client.run()) for client in self.clients]
        async with asyncio.timeout(STORM_S + CALM_S):
            await asyncio.sleep(STORM_S)
            self.storm = False
            await asyncio.gather(*tasks)
            await self._calm()
        await self.hub.close()

    async def _publish(self) -> None:
        while self.storm:
            kind = self.random.choice(KINDS)
            for _ in range(self.random.choice((1, 1, 1, 3, 20))):
                self.hub.publish(kind, g=self.random.randrange(3), ephemeral=self.chance(0.1))
                if self.chance(0.1):
                    self.broker.publish_now(hidden(kind, self.random.choice(USERS), g=self.random.randrange(3)))
            await self.pause(0.1)

    async def _pump(self) -> None:
        while self.storm:
            self.broker.pump(self.random.choice((1, 2, 5, None)))
            for client in self.clients if self.cursors else ():
                client.judge()  # in the midst of a walk
            await self.pause(0.05)

    async def _hurt_messages(self) -> None:
        """Repeats, late strangers, and messages lost while nobody notices."""
        wire = self.broker.wire
        past: list[tuple[bytes, bytes]] = []
        while self.storm:
            await self.pause(0.5)
            if wire:
                past.append(self.random.choice(wire))
                wire.insert(self.random.randrange(len(wire)), self.random.choice(past))
            if len(wire) > 1 and self.chance(0.3):
                del wire[self.random.randrange(len(wire))]
            if self.chance(0.1):
                wire.append((topic(self.random.choice(KINDS)).names.channel.encode(), b"unreadable"))

    async def _hurt_link(self) -> None:
        while self.storm:
            await self.pause(4.0)
            self.broker.cut()
            await self.pause(1.5)
            self.broker.mend()
            if self.chance(0.3):
                self.broker.trim(topic(self.random.choice(KINDS)), self.random.randrange(30))

    async def _hurt_epochs(self) -> None:
        server = 1
        while self.storm:
            await self.pause(6.0)
            if self.chance(0.3):
                self.broker.forget(topic(self.random.choice(KINDS)))
            else:
                server += 1
                self.broker.fail_over(f"s{server}", lost=self.random.choice((0, 0, 1, 5)))

    async def _calm(self) -> None:
        """Nothing is hurt any more, everybody reads and acknowledges; the last link was lost once."""
        self.broker.cut()
        self.broker.mend()
        while True:
            self.broker.pump()
            for client in self.clients:
                client.connection.room = 1_000_000
                client.connection.drain()
                client.acknowledge()
            missing = [problem for client in self.clients for problem in client.problems()]
            if not missing and not self.broker.wire:
                return
            self.last_problems = missing
            await asyncio.sleep(0.05)


class Client:
    """A client that joins, leaves, acknowledges, stops reading, goes away and comes back."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.encoding = world.random.choice(list(Encoding))
        self.connection = self._connect()
        self.windowed: set[TopicKind] = set()

    def _connect(self) -> FakeConnection:
        room = self.world.random.choice((5, 40, 1_000_000))
        return FakeConnection(self.world.hub, self.encoding, room, user=self.world.random.choice(USERS))

    async def run(self) -> None:
        chance = self.world.chance
        while self.world.storm:
            await self.world.pause(0.2)
            kind = self.world.random.choice(KINDS)
            if chance(0.1):
                self.connection.leave(kind)
            elif topic(kind).wire not in self.connection.subscriptions and chance(0.5):
                await self._join(kind)
            if chance(0.5):
                self.connection.drain(self.world.random.choice((1, 5, 50)))
            if chance(0.1):
                self.connection.congest()
            if chance(0.3):
                self.acknowledge()
            if chance(0.03):
                await self._reconnect()
            if self.world.cursors and chance(0.1):
                await self._move()

    async def _join(self, kind: TopicKind) -> None:
        asked = self._asked(kind)
        ack = self.world.chance(0.3)
        g = self.world.random.randrange(3) if self.world.chance(0.3) else None
        joining = asyncio.create_task(self.connection.join(kind, asked, g=g, ack=ack))
        if self.world.chance(0.1):
            # The connection is lost while its subscribe is under way.
            await self.world.pause(0.05)
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
            self.connection.lose()
            self.connection = self._connect()
            return
        await joining

    def _asked(self, kind: TopicKind) -> Asked:
        record = self.connection.records.get(topic(kind).wire)
        if record is not None and record.resumable is not None and self.world.chance(0.6):
            return record.resumable
        return self.world.random.choice(("now", "start", 0, 3, 100, Position("strange", 5), Position("e1", 1)))

    async def _reconnect(self) -> None:
        records = self.connection.records
        self.connection.lose()
        await self.world.pause(1.0)
        self.connection = self._connect()
        self.connection.records = records

    async def _move(self) -> None:
        """Goes on elsewhere by what the hub says of where it stands, which must be exactly what came."""
        self.judge()
        wishes, wanted = [], {}
        for text, sub in self.connection.subscriptions.items():
            if sub.topic.kind.history is None:
                continue
            wishes.append(JoinRequest(sub.topic.topic, sub.topic.kind, sub.position, sub.filter, sub.window > 0))
            if sub.filter is not None:
                wanted[text] = sub.filter.spec["g"]
        self.world.moves += len(wishes)
        await self._reconnect()
        await self.connection.join_all(wishes, wanted)

    def judge(self) -> None:
        """Whether what the hub says is so."""
        for text, sub in self.connection.subscriptions.items():
            position = sub.settled()
            if sub.topic.kind.history is None:
                continue
            try:
                self.connection.records[text].stands_at(position)
            except Violation as violation:
                self.world.hub.violations.append(violation)

    def acknowledge(self) -> None:
        for kind in KINDS:
            if topic(kind).wire in self.connection.subscriptions:
                self.connection.acknowledge(kind)

    def problems(self) -> list[str]:
        """What is not as it must be once all is calm."""
        found: list[str] = []
        for text, sub in self.connection.subscriptions.items():
            state = self.world.broker.state(sub.topic.topic)
            if sub.state is not SubState.LIVE:
                found.append(f"{text} is {sub.state}")
            if sub.topic.kind.history is None:
                continue
            if sub.position != Position(state.epoch, state.top):
                found.append(f"{text} is at {sub.position} and not {state}")
            try:
                self.connection.records[text].must_be_complete(state.epoch, state.top)
            except AssertionError as error:
                found.append(str(error))
        return found


def _simulate(seed: int, *, epochs: bool, cursors: bool = False) -> World:
    random.seed(seed)  # back-offs of the hub
    world: World | None = None

    async def run() -> World:
        nonlocal world
        world = World(seed, epochs=epochs, cursors=cursors)
        await world.run()
        return world

    with capture_logs() as logs:
        try:
            finished = run_virtually(run())
        except TimeoutError:
            assert world is not None
            pytest.fail(f"seed {seed}: not calm: {world.last_problems[:5]}; {world.hub.violations[:3]}")
    assert finished.hub.violations == [], f"seed {seed}"
    assert [line for line in logs if line["log_level"] == "error"] == [], f"seed {seed}"
    return finished


@pytest.mark.parametrize("seed", range(20))
def test_every_record_is_complete_after_a_storm(seed: int) -> None:
    world = _simulate(seed, epochs=True)
    # Sets are walked in another order in every process: the same storm leaves more or less, but not next to nothing.
    assert sum(len(record.events) for client in world.clients for record in client.connection.records.values()) > 10


@pytest.mark.parametrize("seed", range(100, 106))
def test_every_record_is_complete_after_a_storm_within_one_epoch(seed: int) -> None:
    world = _simulate(seed, epochs=False)
    for client in world.clients:
        for record in client.connection.records.values():
            assert {gap.reason for gap in record.gaps} <= {"expired", "overflow", "epoch_changed"}


@pytest.mark.parametrize("seed", range(200, 212))
def test_every_record_is_complete_when_events_go_out_in_walks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "STEP_WRITES", 1)
    _simulate(seed, epochs=True)


@pytest.mark.parametrize("seed", range(300, 312))
def test_clients_move_by_the_hubs_own_account_of_where_they_stand(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cursor: in whatever state a subscription is, whatever is cut where, every event comes once."""
    monkeypatch.setattr(dispatcher, "STEP_WRITES", 1)
    assert _simulate(seed, epochs=True, cursors=True).moves > 20


def test_nothing_is_left_behind() -> None:
    """When everybody has gone, no topic, tail, task or collected event is kept."""

    async def leave_all() -> None:
        world = World(7)
        await world.run()
        for client in world.clients:
            client.connection.lose()
        await asyncio.sleep(5)
        assert len(world.hub.topics) == 0
        assert world.broker.wanted == {}
        assert world.hub.catch_up._lagging == {}
        assert world.hub.catch_up._conflating == {}
        assert world.hub.healer._tasks == {}
        assert world.hub.history._under_way == {}
        assert len(world.turns) == 0

    random.seed(7)
    with capture_logs():
        run_virtually(leave_all())
