"""Bad input and bad luck with real nodes: floods of typing, two devices at once, other organisations, a wrong clock."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.client import RequestRefused
from hub.embedded import PostgresServer
from hub.protocol.frames import Error, Reply
from tests.support.hub_database import HubDatabase, empty_database
from tests.support.raw_client import raw_client
from tests.support.servers import running_redis, temporary_folder
from tests.support.waiting import until
from tests.system.chat_truth import read_rooms
from tests.system.chat_world import ORG, ChatWorld, Device, chat_world, token
from tests.system.conftest import Remark

FRAMES = 1000


class Clock:
    """The wall clock of the nodes: ``jump`` sets by how much it is wrong, also while they run."""

    def __init__(self, folder: Path) -> None:
        self._offset = folder / "offset"
        self.jump(0)
        # Found by every Python before anything else; the hub's own modules have no seam for this, and need none.
        (folder / "sitecustomize.py").write_text(
            "import pathlib, time\n"
            "_right, _offset = time.time, pathlib.Path(" + repr(str(self._offset)) + ")\n"
            "time.time = lambda: _right() + float(_offset.read_text() or 0)\n"
        )
        self.environment = {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))}

    def jump(self, seconds: float) -> None:
        """From now on it is wrong by so much."""
        fresh = self._offset.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.replace(self._offset)


@pytest.fixture(scope="module")
def clock() -> Iterator[Clock]:
    """One clock for the nodes of this module."""
    with temporary_folder() as folder:
        yield Clock(folder)


@pytest.fixture(scope="module")
async def world(
    postgres_server: PostgresServer, migrated_template: HubDatabase, clock: Clock
) -> AsyncIterator[ChatWorld]:
    """Two nodes."""
    with running_redis() as redis, temporary_folder() as folder:
        async with (
            empty_database(postgres_server, migrated_template.name) as database,
            chat_world(redis, database, folder, nodes=2, **clock.environment) as world,
        ):
            yield world


@contextlib.asynccontextmanager
async def heard(device: Device, topic: str) -> AsyncIterator[list[Any]]:
    """What comes on a topic, as it comes."""
    events: list[Any] = []
    subscription = device.client.subscribe(topic, on_gap=lambda _: None)

    async def listen() -> None:
        async for event in subscription:
            events.append(event)

    async with subscription:
        task = asyncio.create_task(listen())
        try:
            yield events
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def named(events: list[Any], name: str) -> list[Any]:
    """The data of the events of that name."""
    return [event.data for event in events if event.name == name]


async def test_a_thousand_typing_frames(world: ChatWorld, remark: Remark) -> None:
    """As fast as they go, on one connection, and on another node at the same time."""
    async with contextlib.AsyncExitStack() as stack:
        ada, bob = [
            await stack.enter_async_context(world.device(user, node)) for user, node in (("ada", 0), ("bob", 1))
        ]
        await ada.call("chat.create", name="Loud", room="loud", public=True, members=["bob"])
        told = await stack.enter_async_context(heard(bob, "chat:loud"))
        mine = await stack.enter_async_context(heard(ada, "chat:loud"))
        started = time.monotonic()
        answers = sum(await asyncio.gather(*(_type(world, node) for node in (0, 1))), Counter())
        took = time.monotonic() - started
        # Somebody else is not held up for ever, and comes after everything typed before.
        await bob.call("chat.send", room="loud", text="quiet, please", key="quiet")
        await until(lambda: named(told, "message.created") and named(mine, "message.created"))
        remark(f"{2 * FRAMES} typing frames in {took:.2f} s: {dict(answers)}; told {len(named(told, 'typing'))}")
        assert sum(answers.values()) == 2 * FRAMES, "a frame was not answered"
        assert set(answers) <= {"sent", "not sent", "rate_limited"}
        typing = named(told, "typing")
        # One per three seconds, over both nodes.
        assert 1 <= len(typing) <= 1 + int(took / 3) + 1
        assert {data["user"] for data in typing} == {"ada"}
        assert named(mine, "typing") == [], "told its author"
        assert answers["sent"] == len(typing)


async def _type(world: ChatWorld, node: int) -> Counter[str]:
    """All frames are sent before an answer is looked at."""
    answers: Counter[str] = Counter()
    async with raw_client(f"ws://{world.nodes[node].address}/ws", token("ada")) as client:
        await client.hello()

        async def send() -> None:
            for number in range(FRAMES):
                params = {"room": "loud", "on": True}
                await client.send({"type": "call", "id": number, "method": "chat.typing", "params": params})

        sending = asyncio.create_task(send())
        while answers.total() < FRAMES:
            frame = await client.receive(30)
            if isinstance(frame, Reply):
                answers["sent" if frame.result["sent"] else "not sent"] += 1
            elif isinstance(frame, Error):
                answers[frame.code] += 1
        await sending
    return answers


async def test_two_devices_read_at_once(world: ChatWorld) -> None:
    """On two nodes, forwards and backwards: the cursor only goes forward, for everybody."""
    chance = random.Random(5)
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(world.device("dora", 0))
        second = await stack.enter_async_context(world.device("dora", 1, name="dora.2"))
        other = await stack.enter_async_context(world.device("emil", 1))
        await other.call("chat.create", name="Books", room="books", members=["dora"])
        events = await stack.enter_async_context(heard(other, "chat:books"))
        numbers = []
        for count in range(30):
            answer = await other.call("chat.send", room="books", text=f"page {count}", key=f"page-{count}")
            numbers.append(answer["message"]["number"])

        async def read(device: Device) -> list[int]:
            answers = []
            for _ in range(40):
                number = chance.choice(numbers)
                answer = await device.call("chat.read", room="books", message=number)
                assert answer["read"] >= number
                assert answer["unread"] == sum(one > answer["read"] for one in numbers)
                answers.append(answer["read"])
            return answers

        for answers in await asyncio.gather(read(first), read(second)):
            assert answers == sorted(answers), "one's own cursor went back"
        await first.call("chat.read", room="books", message=numbers[-1])

        def cursors() -> list[int]:
            return [data["readers"]["dora"] for data in named(events, "read") if "dora" in data["readers"]]

        await until(lambda: cursors()[-1:] == numbers[-1:], 30, "the last receipt")
        assert cursors() == sorted(cursors()), "the others saw it go back"
        member = (await read_rooms(world.database, ORG))["books"].members["dora"]
        assert member.read == numbers[-1]


async def test_a_removed_member_hears_no_more(world: ChatWorld, remark: Remark) -> None:
    """On whichever node; at once, and on all devices."""
    async with contextlib.AsyncExitStack() as stack:
        owner = await stack.enter_async_context(world.device("olga", 0))
        devices = [await stack.enter_async_context(world.device("paul", node, name=f"paul.{node}")) for node in (0, 1)]
        await owner.call("chat.create", name="Vault", room="vault", members=["paul"])
        for device in devices:
            await stack.enter_async_context(_endless(device, "vault"))
        ears = [device.client.ear("chat:vault") for device in devices]
        asked = time.monotonic()
        await owner.call("chat.remove", room="vault", user="paul")
        await until(lambda: all(ear.ended for ear in ears), 30, "both devices to be told")
        remark(f"the last device was told after {1000 * (max(ear.ended[0] for ear in ears) - asked):.0f} ms")
        sent = await owner.call("chat.send", room="vault", text="he is gone", key="gone")
        for device in devices:
            with pytest.raises(RequestRefused, match="not_found"):
                await device.call("chat.history", room="vault")
        for ear in ears:
            assert ear.complaints == []
            assert sent["message"]["number"] not in ear.created
            assert len(ear.ended) == 1


@contextlib.asynccontextmanager
async def _endless(device: Device, room: str) -> AsyncIterator[None]:
    """Subscribed until the hub ends it."""
    subscription = device.client.subscribe(f"chat:{room}", on_gap=lambda _: None)

    async def listen() -> None:
        with contextlib.suppress(RequestRefused):
            async for _ in subscription:
                pass

    async with subscription:
        task = asyncio.create_task(listen())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_invites_stay_in_the_organisation(world: ChatWorld) -> None:
    """A user of the same name elsewhere is somebody else, and a room elsewhere is none."""
    async with contextlib.AsyncExitStack() as stack:
        owner = await stack.enter_async_context(world.device("rita", 0))
        namesake = await stack.enter_async_context(world.device("sven", 1, org="rival", name="sven of rival"))
        sven = await stack.enter_async_context(world.device("sven", 1))
        boss = await stack.enter_async_context(world.device("rita", 0, org="rival", name="rita of rival"))
        inboxes = [await stack.enter_async_context(heard(device, "user:me")) for device in (sven, namesake)]
        await owner.call("chat.create", name="Ours", room="ours")
        await owner.call("chat.invite", room="ours", user="sven")
        await until(lambda: inboxes[0], what="the invited to be told")
        assert inboxes[0][0].data["room"] == "ours"
        assert [room["room"] for room in (await sven.call("chat.rooms"))["rooms"]] == ["ours"]
        assert (await namesake.call("chat.rooms"))["rooms"] == []
        for params in ({"method": "chat.get"}, {"method": "chat.history"}, {"method": "chat.join"}):
            assert await _refusal(namesake, room="ours", **params) == await _refusal(namesake, room="none", **params)
        for device in (boss, namesake):
            invite = {"method": "chat.invite", "user": "sven"}
            assert await _refusal(device, room="ours", **invite) == await _refusal(device, room="none", **invite)
        # The same name is free there, and means another room.
        await boss.call("chat.create", name="Theirs", room="ours")
        assert (await owner.call("chat.get", room="ours"))["room"]["name"] == "Ours"
        assert inboxes[1] == []


async def _refusal(device: Device, *, method: str, **params: Any) -> tuple[str, str]:
    with pytest.raises(RequestRefused) as refused:
        await device.call(method, **params)
    return refused.value.code, refused.value.message


async def test_a_clock_that_jumps(world: ChatWorld, clock: Clock) -> None:
    """An hour forward, and two back: nobody comes or goes, and the order of messages is that of their numbers."""
    async with contextlib.AsyncExitStack() as stack:
        tina = await stack.enter_async_context(world.device("tina", 0))
        ulf = await stack.enter_async_context(world.device("ulf", 1))
        await tina.call("chat.create", name="Clocks", room="clocks", public=True, members=["ulf"])
        events = await stack.enter_async_context(heard(tina, "chat:clocks"))
        await stack.enter_async_context(heard(ulf, "chat:clocks"))
        await until(lambda: _present(events) == {"tina", "ulf"}, 30, "both to be there")
        before = len(named(events, "presence"))
        numbers = []
        try:
            for turn, offset in enumerate((3600.0, -7200.0, 0.0)):
                clock.jump(offset)
                for device in (tina, ulf):
                    await device.call("chat.typing", room="clocks", on=bool(turn % 2))
                    answer = await device.call("chat.send", room="clocks", text=f"{turn}", key=f"{device}-{turn}")
                    numbers.append(answer["message"]["number"])
                # Longer than the renewals and sweeps of leases are apart.
                await _ticks(tina, 6)
        finally:
            clock.jump(0)
        assert numbers == sorted(numbers)
        await until(lambda: len(named(events, "message.created")) == len(numbers), what="everything to be heard")
        assert [data["number"] for data in named(events, "message.created")] == numbers
        noise = [data for data in named(events, "presence")[before:] if data["action"] != "snapshot"]
        assert noise == [], "the clock made somebody come or go"
        page = await tina.call("chat.history", room="clocks")
        times = [message["created_at"] for message in page["messages"]]
        assert times == sorted(times)
        assert all(abs(at / 1000 - time.time()) < 600 for at in times), "a node's clock is in the messages"


async def _ticks(device: Device, count: int) -> None:
    """Waits for so many heartbeats, one a second: the node's loop has done its rounds meanwhile."""
    seen = 0

    def observe(frame: Any) -> None:
        nonlocal seen
        seen += type(frame).__name__ == "Heartbeat"

    device.client.on_frame(observe)
    await until(lambda: seen >= count, 30, "heartbeats")
    device.client.on_frame(None)


def _present(events: list[Any]) -> set[str]:
    present: set[str] = set()
    for data in named(events, "presence"):
        if data["action"] == "snapshot":
            present = {member["user"] for member in data["members"]}
        elif data["action"] == "leave":
            present.discard(data["user"])
        else:
            present.add(data["user"])
    return present
