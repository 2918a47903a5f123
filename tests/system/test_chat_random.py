"""Twenty people in five rooms do what they like while things break; in the end every device shows what is stored.

The same mix each time; ORACLE_SEED runs another one, ORACLE_ROUNDS sets how many rounds of faults there are
(``make oracle-chat``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from hub.embedded import RedisServer
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until
from tests.system.chance import Deck, oracle_seed
from tests.system.chat_judge import merged_status, same_mentions, same_presence, same_room, same_rooms
from tests.system.chat_people import Ledger, Person
from tests.system.chat_truth import RoomTruth, kept_for_replay, pending, read_rooms
from tests.system.chat_world import ORG, ChatWorld, Device, chat_world
from tests.system.conftest import Remark
from tests.system.saboteur import Saboteur

ROUNDS = int(os.environ.get("ORACLE_ROUNDS", "3"))
PEOPLE = 20
ROOMS = {"hall": True, "yard": True, "loft": False, "cellar": False, "den": False}
"""Whether they are public."""
PAUSE_S = 0.15
QUIET_S = 60.0
LEASE_S = 3
QUICK = {
    "HUB_PRESENCE_LEASE_S": str(LEASE_S),
    "HUB_PRESENCE_GRACE_S": "1.5",
    "HUB_RECHECK_SUBSCRIPTIONS_S": "3",
    "HUB_CHAT_JANITOR_S": "2",
    "HUB_CHAT_HISTORY_COUNT": "40",
}
"""Nobody wants to wait for what a dead node has left."""
_MOST_SHOWN = 40

pytestmark = pytest.mark.timeout(180 + 60 * ROUNDS)


class Party:
    """The people, their devices, and what they were promised."""

    def __init__(self, world: ChatWorld, seed: int) -> None:
        self.world = world
        self.seed = seed
        self.random = random.Random(seed)
        self.ledger = Ledger()
        self.devices: list[Device] = []
        self.people: list[Person] = []
        self.notes: list[str] = []
        self._partying = True

    async def gather(self, stack: contextlib.AsyncExitStack) -> None:
        """Everybody comes, the rooms are made, every device shows those that its user may see."""
        names = [f"u{number:02}" for number in range(PEOPLE)]
        for number, name in enumerate(names):
            for which in range(1 + number % 2):
                node = (number + which) % len(self.world.nodes)
                device = await stack.enter_async_context(self.world.device(name, node, name=f"{name}.{which}"))
                self.devices.append(device)
        for number, name in enumerate(names):
            devices = [device for device in self.devices if device.user == name]
            person = Person(name, devices, list(ROOMS), self.ledger, self.random.getrandbits(32))
            person.others = [other for other in names if other != name]
            self.people.append(person)
            if number < len(ROOMS):
                room = list(ROOMS)[number]
                members = self.random.sample([other for other in names if other != name], PEOPLE // 2)
                await devices[0].call("chat.create", room=room, name=room.title(), public=ROOMS[room], members=members)
                self.ledger.owners[room] = name
                person.owns = [room]
        for device in self.devices:
            await stack.enter_async_context(device.reading_inbox())
            for room in ROOMS:
                await stack.enter_async_context(device.sitting(room))

    async def begin(self, group: asyncio.TaskGroup) -> None:
        """They begin to talk."""
        for person in self.people:
            group.create_task(person.live(lambda: self._partying, PAUSE_S), name=person.user)

    async def goes_on(self, deeds: int) -> None:
        """Waits until so many things more are done."""
        target = self.ledger.deeds + deeds
        await until(lambda: self.ledger.deeds >= target, 60, f"{deeds} deeds more")

    def end(self) -> None:
        """Nobody begins anything new."""
        self._partying = False

    async def some_leave(self) -> None:
        """So that not everybody is there at the end: one device in five is gone, and everybody says how he is."""
        for device in self.devices:
            if self.random.random() < 0.2:
                device.gone = True
                device.door.refuse()
                device.door.cut()
        here = [device for device in self.devices if not device.gone]
        await until(lambda: all(device.client.connected for device in here), QUIET_S, "everybody to be connected")
        for device in here:
            await device.say_status()

    def figures(self) -> str:
        """What it came to."""
        ears = [ear for device in self.devices for ear in device.client.ears.values()]
        events = sum((ear.names for ear in ears), Counter())
        reconnects = sum(device.client.ups - 1 for device in self.devices)
        ledger = self.ledger
        return (
            f"{ledger.deeds} deeds ({ledger.refusals} refused), {sum(map(len, ledger.numbers.values()))} messages; "
            f"{len(self.devices)} devices with {reconnects} reconnects took in {events.total()} events, of these "
            f"{events['presence']} presence, {events['typing']} typing"
        )

    async def verdict(self) -> list[str]:
        """What is wrong now."""
        if await pending(self.world.database):
            return ["events wait in the outbox"]
        rooms = await read_rooms(self.world.database, ORG)
        faults = self.ledger.check(rooms)
        said = await kept_for_replay(self.world.database, self.world.redis, ORG, rooms)
        faults += [
            f"{word} is still there, and was replaced or deleted" for word in self.ledger.erased(rooms) if word in said
        ]
        for device in self.devices:
            faults += [f"{device}: {text}" for ear in device.client.ears.values() for text in ear.complaints]
            if not device.gone:
                faults += [f"{device}: {text}" for text in await self._shown(device, rooms)]
        return faults

    async def _shown(self, device: Device, rooms: dict[str, RoomTruth]) -> list[str]:
        faults = []
        for name, truth in rooms.items():
            seat = device.seats[name]
            if seat.open is not truth.may_see(device.user):
                faults.append(f"{name}: {'sees it, and may not' if seat.open else 'does not see it, and may'}")
            elif seat.open:
                await seat.complete()
                differences = same_room(seat.view, truth, device.user)
                differences += same_presence(seat.presence, self._present(name))
                faults += [f"{name}: {text}" for text in differences]
        listed = (await device.call("chat.rooms"))["rooms"]
        mentions = {
            (event.data["room"], event.data["number"]) for event in device.inbox if event.name == "chat.mention"
        }
        return faults + same_rooms(device.user, listed, rooms) + same_mentions(device.user, mentions, rooms)

    def _present(self, room: str) -> dict[str, str]:
        """Who really has a connection that is subscribed."""
        statuses: dict[str, list[str]] = {}
        for device in self.devices:
            if not device.gone and device.seats[room].open:
                statuses.setdefault(device.user, []).append(device.status)
        return {user: merged_status(of) for user, of in statuses.items()}


async def test_every_device_shows_what_is_stored(
    own_redis: RedisServer, hub_database: HubDatabase, tmp_path: Path, remark: Remark
) -> None:
    seed = oracle_seed("talk")
    async with contextlib.AsyncExitStack() as stack:
        world = await stack.enter_async_context(chat_world(own_redis, hub_database, tmp_path, **QUICK))
        party = Party(world, seed)
        await party.gather(stack)
        await storm(party)
        await party.some_leave()
        quiet_from = time.monotonic()
        faults = await settled(party)
        took = time.monotonic() - quiet_from
        remark(f"ORACLE_SEED={seed}: {', '.join(party.notes)}")
        remark(f"{party.figures()}; all the same after {took:.1f} s")
        shown = "\n  ".join(faults[:_MOST_SHOWN])
        assert not faults, f"ORACLE_SEED={seed} {party.notes}: {len(faults)} differences\n  {shown}"


async def storm(party: Party) -> None:
    """They talk, and things break, two at a time."""
    saboteur = Saboteur(party.world, random.Random(party.seed), hang_s=2 * LEASE_S)
    deck = Deck(party.seed, saboteur.faults)
    async with asyncio.TaskGroup() as group:
        await party.begin(group)
        await party.goes_on(100)
        for _ in range(ROUNDS):
            chosen = deck.deal(2, 2)
            party.notes.append("+".join(fault.__name__ for fault in chosen))
            await asyncio.gather(*(fault() for fault in chosen))
            await party.goes_on(80)
        party.end()


async def settled(party: Party) -> list[str]:
    """Waits until nothing is wrong; returns what still is when that does not come."""
    faults: list[str] = []

    async def right() -> bool:
        nonlocal faults
        faults = await party.verdict()
        return not faults

    with contextlib.suppress(AssertionError):
        await until(right, QUIET_S, "everything to be the same everywhere")
    return faults
