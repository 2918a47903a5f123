"""Two hundred uploads by any way over any node while things break; in the end every file is what it was, or nothing.

The same mix each time; ORACLE_SEED runs another one, ORACLE_ROUNDS sets how many times fifty there are
(``make oracle-uploads``).
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
from tests.system import upload_judge as judge
from tests.system.chance import Deck, oracle_seed
from tests.system.chat_truth import pending
from tests.system.chat_world import token
from tests.system.conftest import Remark
from tests.system.upload_journey import Fate, Upload, document
from tests.system.upload_world import (
    BLOCK_BYTES,
    CHUNK_BYTES,
    EXPIRE_S,
    WINDOW_BYTES,
    UploadSaboteur,
    UploadWorld,
    upload_world,
)
from tests.system.uploader import Uploader

ROUNDS = int(os.environ.get("ORACLE_ROUNDS", "4"))
UPLOADS = 50 * ROUNDS
AT_ONCE = 14
HANG_S = 3.0
USERS = ("ada", "bob", "cleo")
QUIET_S = 60.0 + EXPIRE_S
GROWTH_BYTES = 96 * 1024 * 1024
"""What a node may have grown by when all is done; one of the uploads alone has a quarter of that."""
LARGE_BYTES = 24 * 1024 * 1024
_MOST_SHOWN = 30

pytestmark = pytest.mark.timeout(240 + 60 * ROUNDS)


class Rush:
    """Everybody's uploads, and what must not be."""

    def __init__(self, world: UploadWorld, seed: int) -> None:
        self.world = world
        self.seed = seed
        self.random = random.Random(seed)
        self.uploads = [self._planned(number) for number in range(UPLOADS)]
        self.complaints: list[str] = []
        self.over = 0
        self._next = iter(self.uploads)

    def _planned(self, number: int) -> Upload:
        border = self.random.choice((CHUNK_BYTES, BLOCK_BYTES, WINDOW_BYTES, 1_048_576))
        size = self.random.choice(
            (
                *(self.random.randint(2, 100), self.random.randint(100, 100_000), self.random.randint(1, 600_000)),
                *(border - 1, border, border + 1, 2 * border, self.random.randint(500_000, 3_000_000)),
            )
        )
        fates: tuple[Fate, ...] = ("finished",) * 17 + ("cancelled", "abandoned", "lied")
        fate = self.random.choice(fates)
        if number == 0:
            size, fate = LARGE_BYTES, "finished"
        elif number == 1:
            size, fate = 1, "finished"
        return Upload(number, document(self.random, size), fate, self.random.random() < 0.5)

    async def begin(self, group: asyncio.TaskGroup) -> None:
        """Some at once, and the next when one is over."""
        for _ in range(AT_ONCE):
            group.create_task(self._one_after_the_other())

    async def _one_after_the_other(self) -> None:
        for upload in self._next:
            user = USERS[upload.number % len(USERS)]
            chance = random.Random(f"{self.seed} {upload.number}")
            await Uploader(self.world, upload, user, chance, self.complaints.append).live()
            self.over += 1

    @property
    def done(self) -> bool:
        """Nobody has anything more to do."""
        return self.over == len(self.uploads)

    async def verdict(self) -> list[str]:
        """What is wrong now."""
        rows = await judge.read_rows(self.world)
        faults = judge.of_states(self.uploads, rows)
        if waiting := await pending(self.world.database):
            faults.append(f"{waiting} events wait in the outbox")
        faults += judge.of_events(rows, *judge.read_told(self.world.redis, rows))
        return faults + judge.of_store(self.uploads, self.world)

    async def served(self) -> list[str]:
        """What is wrong with what one gets."""
        faults = []
        for number, user in enumerate(USERS):
            address = self.world.nodes[number % len(self.world.nodes)].address
            theirs = [upload for upload in self.uploads if USERS[upload.number % len(USERS)] == user]
            faults += await judge.of_contents(theirs, address, token(user))
        return faults

    def figures(self) -> str:
        """What it came to."""
        deeds = sum((upload.deeds for upload in self.uploads), Counter())
        size = sum(len(upload.content) for upload in self.uploads)
        legs = sum(upload.legs for upload in self.uploads)
        return f"{len(self.uploads)} uploads, {size / 1e6:.0f} MB, {legs} legs: {dict(deeds.most_common())}"


async def test_every_upload_is_what_it_was_or_nothing(
    own_redis: RedisServer, hub_database: HubDatabase, tmp_path: Path, remark: Remark
) -> None:
    seed = oracle_seed("uploads")
    async with upload_world(own_redis, hub_database, tmp_path) as world:
        before = [node.resident_bytes for node in world.nodes]
        rush = Rush(world, seed)
        notes = await storm(rush)
        quiet_from = time.monotonic()
        faults = rush.complaints + (await settled(rush) if not rush.complaints else await rush.verdict())
        faults += await rush.served()
        remark(f"ORACLE_SEED={seed}: {', '.join(notes)}")
        remark(f"{rush.figures()}; all right after {time.monotonic() - quiet_from:.1f} s")
        shown = "\n  ".join(faults[:_MOST_SHOWN])
        assert not faults, f"ORACLE_SEED={seed} {notes}: {len(faults)} faults\n  {shown}"
        grown = [node.resident_bytes - was for node, was in zip(world.nodes, before, strict=True)]
        remark(f"nodes have grown by {[f'{count / 2**20:.0f} MB' for count in grown]}")
        assert max(grown) < GROWTH_BYTES


async def storm(rush: Rush) -> list[str]:
    """They upload, and things break, one or two at a time; returns what did."""
    notes = []
    saboteur = UploadSaboteur(rush.world, random.Random(rush.seed), hang_s=HANG_S)
    async with asyncio.TaskGroup() as group:
        await rush.begin(group)
        deck = Deck(rush.seed, saboteur.faults)
        while not rush.done:
            chosen = deck.deal(1, 2)
            notes.append("+".join(fault.__name__ for fault in chosen))
            await asyncio.gather(*(fault() for fault in chosen))
            target = rush.over + 6
            await until(lambda target=target: rush.done or rush.over >= target, 90, "uploads to go on")
    return notes


async def settled(rush: Rush) -> list[str]:
    """Waits until nothing is wrong; returns what still is when that does not come."""
    faults: list[str] = []

    async def right() -> bool:
        nonlocal faults
        faults = await rush.verdict()
        await asyncio.sleep(0.2)  # all is read again each time
        return not faults

    with contextlib.suppress(AssertionError):
        await until(right, QUIET_S, "everything to be right")
    return faults
