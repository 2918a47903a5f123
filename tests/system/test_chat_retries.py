"""Replies that are lost on their way: whoever sends again with the same key has sent once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from hub.client import ConnectionLost
from hub.embedded import PostgresServer
from tests.support.hub_database import HubDatabase, empty_database
from tests.support.servers import running_redis, temporary_folder
from tests.support.waiting import until
from tests.system.chance import oracle_seed
from tests.system.chat_truth import pending, read_rooms
from tests.system.chat_world import ORG, ChatWorld, Device, chat_world
from tests.system.conftest import Remark

SENDERS = 6
MESSAGES = 25
"""Of each sender."""


class Thief:
    """Loses what the hub answers, or what it is asked, by chance; the connection ends there."""

    def __init__(self, chance: random.Random, replies: float, requests: float) -> None:
        self._chance = chance
        self._rates = {"to_client": (b'"type":"reply"', replies), "to_target": (b"", requests)}
        self.taken: Counter[str] = Counter()

    def drops(self, direction: str, data: bytes) -> bool:
        """For ``CutProxy.drops``."""
        word, rate = self._rates[direction]
        lost = word in data and self._chance.random() < rate
        self.taken[direction] += lost
        return lost


@pytest.fixture(scope="module")
async def world(postgres_server: PostgresServer, migrated_template: HubDatabase) -> AsyncIterator[ChatWorld]:
    """The nodes of this module."""
    with running_redis(append_only=True) as redis, temporary_folder() as folder:
        async with (
            empty_database(postgres_server, migrated_template.name) as database,
            chat_world(redis, database, folder, nodes=2) as world,
        ):
            yield world


class Sender:
    """Somebody who sends one message after the other, and does not give up."""

    def __init__(self, device: Device, room: str) -> None:
        self.device = device
        self.room = room
        self.numbers: list[int] = []
        self.duplicates = 0
        self.attempts = 0

    async def run(self) -> None:
        """Waits for each answer before the next message."""
        for count in range(MESSAGES):
            key = f"{self.device.user}-{count}"
            answer = await self._insist(key, f"message {count} of {self.device.user}")
            assert answer["message"]["text"] == f"message {count} of {self.device.user}"
            self.numbers.append(answer["message"]["number"])
            self.duplicates += answer["duplicate"]

    async def _insist(self, key: str, text: str) -> dict:  # type: ignore[type-arg]
        while True:
            self.attempts += 1
            with contextlib.suppress(ConnectionLost):
                answer: dict = await self.device.call(  # type: ignore[type-arg]
                    "chat.send", room=self.room, text=text, key=key, retry=False
                )
                return answer


async def test_lost_replies_lose_and_double_nothing(world: ChatWorld, remark: Remark) -> None:
    seed = oracle_seed("chat retries")
    remark(f"ORACLE_SEED={seed}")
    chance = random.Random(seed)
    async with contextlib.AsyncExitStack() as stack:
        listener = await stack.enter_async_context(world.device("listener", 1))
        await listener.call("chat.create", name="Retries", room="retries", public=True)
        subscription = await stack.enter_async_context(
            listener.client.subscribe("chat:retries", since="start", on_gap=lambda _: None)
        )
        heard: list[tuple[int, str, str]] = []

        async def listen() -> None:
            async for event in subscription:
                if event.name == "message.created":
                    message = event.data["message"]
                    heard.append((message["number"], message["author"], message["text"]))

        listening = asyncio.create_task(listen())
        senders, thieves = [], []
        for number in range(SENDERS):
            device = await stack.enter_async_context(world.device(f"sender{number}", number % 2))
            thief = Thief(random.Random(chance.random()), replies=0.3, requests=0.1)
            device.door.drops = thief.drops
            senders.append(Sender(device, "retries"))
            thieves.append(thief)
        await asyncio.gather(*(sender.run() for sender in senders))

        stolen = sum((thief.taken for thief in thieves), Counter())
        duplicates = sum(sender.duplicates for sender in senders)
        attempts = sum(sender.attempts for sender in senders)
        remark(f"{SENDERS * MESSAGES} messages in {attempts} attempts; lost: {dict(stolen)}; {duplicates} were there")
        assert stolen["to_client"] > 0
        assert duplicates > 0, "no answer was lost after its message was stored"
        await until(lambda: len(heard) >= SENDERS * MESSAGES, 30, "everything to be heard")
        await until(lambda: _nothing_pending(world), 30, "the outbox to be empty")

        wanted = {
            (sender.device.user, f"message {count} of {sender.device.user}")
            for sender in senders
            for count in range(MESSAGES)
        }
        (room,) = (await read_rooms(world.database, ORG)).values()
        stored = [(written.author, written.text) for _, written in sorted(room.messages.items())]
        assert sorted(stored) == sorted(wanted), "stored twice, or lost"
        assert [(author, text) for _, author, text in heard] == stored, "heard twice, lost, or out of order"
        for sender in senders:
            assert sender.numbers == sorted(sender.numbers), "overtaken by his own message"
            mine = [number for number, written in sorted(room.messages.items()) if written.author == sender.device.user]
            assert sender.numbers == mine, "told another number than the message has"
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def _nothing_pending(world: ChatWorld) -> bool:
    return await pending(world.database) == 0
