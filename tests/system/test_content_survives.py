"""Content streams outlive the node that drives them: whoever follows one has the same document, every chunk once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hub.client import RequestRefused
from hub.embedded import PostgresServer, RedisServer
from hub.fake_llm import fake_llm_server
from tests.support.hub_database import HubDatabase, empty_database
from tests.support.servers import running_redis, temporary_folder
from tests.support.waiting import until
from tests.system.newsroom import (
    TAKEN_OVER_S,
    Clocked,
    Desk,
    Newsroom,
    newsroom,
    page,
    same,
    sanitised,
    shown,
    stored,
)

PAGE = page(80)
DOCUMENT = {"content": PAGE, "content_type": "html", "chunk_by": "word", "speed": "fast"}
CHAT = {"kind": "chat", "messages": [{"role": "user", "content": "Why?"}], "chunk_by": "word", "speed": "superfast"}


@pytest.fixture(scope="module")
async def rooms(postgres_server: PostgresServer, migrated_template: HubDatabase) -> AsyncIterator[Newsroom]:
    """The nodes of this module, and a language model that lets everybody wait for its first word."""
    with running_redis() as server, temporary_folder() as folder:
        async with empty_database(postgres_server, migrated_template.name) as database, fake_llm_server() as fake:
            assistant = {
                "HUB_ASSISTANT_PROVIDERS": "offline,openai",
                "HUB_ASSISTANT_OPENAI_BASE_URL": f"{fake.url}/v1",
                "HUB_ASSISTANT_OPENAI_MODEL": "fake?first_token_s=4",
                "HUB_ASSISTANT_OPENAI_KEY": "none",
            }
            async with newsroom(server, database, folder, **assistant) as room:
                yield room


@pytest.fixture
async def room(rooms: Newsroom) -> Newsroom:
    """Both nodes run."""
    await rooms.ready()
    return rooms


class Stream:
    """One stream that node 0 drives, and who follows it: at the door, and at node 1."""

    def __init__(self, name: str, editors: list[Clocked], *, document: bool) -> None:
        self.name = name
        self.editors = editors
        self.document = document

    async def ends(self, room: Newsroom, desk: Desk) -> dict[str, Any]:
        """Everybody has the whole, and it is stored."""
        for editor in self.editors:
            await editor.ended(30)
        html = sanitised(PAGE, "html") if self.document else shown(room.written(self.name))
        same(list(self.editors), html)
        row = await stored(desk, self.name)
        assert (row["state"], row["html"], row["chunks"]) == ("complete", html, len(self.editors[0].chunks))
        return row


class Cast:
    """The owner at node 0, and two editors: one comes through the door, one is at node 1."""

    def __init__(self, owner: Desk, near: Desk, far: Desk, owner_at_far: Desk) -> None:
        self.owner, self.near, self.far, self.owner_at_far = owner, near, far, owner_at_far

    async def begin(self, *, document: bool, by: Desk | None = None, **changes: Any) -> Stream:
        method, params = ("content.start", DOCUMENT) if document else ("assistant.generate", CHAT)
        begun = await (by or self.owner).call(method, **(params | changes))
        editors = [await desk.watch(begun["stream"]) for desk in (self.near, self.far)]
        return Stream(begun["stream"], editors, document=document)

    async def begin_both(self, **changes: Any) -> list[Stream]:
        """A document and a text, of which everybody has some."""
        streams = [await self.begin(document=document, **changes) for document in (True, False)]
        for stream in streams:
            await under_way(stream)
        return streams


@contextlib.asynccontextmanager
async def cast(room: Newsroom) -> AsyncIterator[Cast]:
    async with contextlib.AsyncExitStack() as stack:
        owner = await stack.enter_async_context(room.desk(node=0))
        near = await stack.enter_async_context(room.desk("nina", door=True))
        far = await stack.enter_async_context(room.desk("fred", node=1))
        yield Cast(owner, near, far, await stack.enter_async_context(room.desk(node=1)))


async def test_the_node_that_drives_is_killed_in_the_middle(room: Newsroom) -> None:
    async with cast(room) as they:
        streams = await they.begin_both()
        await room.lose()
        for stream in streams:
            await stream.ends(room, they.far)
            assert stream.editors[1].longest_wait_s < TAKEN_OVER_S


async def test_it_is_killed_before_the_first_chunk(room: Newsroom) -> None:
    async with cast(room) as they:
        stream = await they.begin(document=False, provider="openai")
        await room.lose()
        assert stream.editors[1].events == []
        await stream.ends(room, they.far)


async def test_it_is_killed_before_anything_is_written_down(room: Newsroom) -> None:
    async with cast(room) as they:
        room.to_postgres.stall()
        asked = asyncio.create_task(they.owner.call("content.start", **DOCUMENT, stream="unwritten"))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asked), 0.5)
        assert not asked.done()
        await room.lose()

        async def begins() -> bool:
            try:
                return bool(await they.owner_at_far.call("content.start", **DOCUMENT, stream="unwritten"))
            except RequestRefused:
                return False

        await until(begins, TAKEN_OVER_S, "the name to be free again")
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        editor = await they.far.watch("unwritten")
        await editor.ended()
        same([editor], sanitised(PAGE, "html"))


async def test_it_is_killed_between_the_last_event_and_the_row(room: Newsroom) -> None:
    async with cast(room) as they:
        streams = await they.begin_both()
        room.to_postgres.stall()
        for stream in streams:
            for editor in stream.editors:
                await editor.ended(30)
            row = await they.far.call("content.get", stream=stream.name)
            assert (row["state"], row["finished_ms"], row["html"]) == ("running", None, "")
        await room.lose()
        for stream in streams:
            await stream.ends(room, they.far)


async def test_with_many_streams_at_once(room: Newsroom) -> None:
    async with cast(room) as they, contextlib.AsyncExitStack() as stack:
        users = [await stack.enter_async_context(room.desk(f"user{number}")) for number in range(5)]
        begun = [
            they.begin(document=number % 4 != 3, by=users[number // 4], speed=("fast", "normal")[number % 2])
            for number in range(20)
        ]
        streams = await asyncio.gather(*begun)
        for stream in streams:
            await under_way(stream)
        await room.lose()
        for stream in streams:
            await stream.ends(room, they.far)
        assert max(stream.editors[1].longest_wait_s for stream in streams) < TAKEN_OVER_S


async def test_every_node_is_killed(room: Newsroom) -> None:
    async with cast(room) as they:
        streams = await they.begin_both()
        await asyncio.gather(*(node.kill() for node in room.nodes))
        await asyncio.gather(*(node.start() for node in room.nodes))
        for stream in streams:
            await stream.ends(room, they.far)


async def test_one_node_is_killed_after_the_other(room: Newsroom) -> None:
    async with cast(room) as they:
        stream = await they.begin(document=True, speed="slow")
        await under_way(stream)
        await room.lose()
        seen = len(stream.editors[0].chunks)
        await until(lambda: len(stream.editors[0].chunks) > seen + 5, TAKEN_OVER_S, "the other node to go on")
        await room.ready()
        await room.nodes[1].kill()
        await hurry(they.owner, stream)
        await stream.editors[0].ended(30)
        await room.nodes[1].start()
        await stream.ends(room, they.far)


async def test_a_node_that_leaves_hands_over_at_once(
    own_redis: RedisServer, hub_database: HubDatabase, tmp_path: Path
) -> None:
    """Nodes look for what was handed over four times a lease; these last long enough to tell it from what was left."""
    lease_s = 16.0
    async with newsroom(own_redis, hub_database, tmp_path, HUB_DUTY_LEASE_S=str(lease_s)) as room:
        await room.ready()
        async with cast(room) as they:
            streams = await they.begin_both()
            await room.lose(politely=True)
            for stream in streams:
                await stream.ends(room, they.far)
                assert stream.editors[1].longest_wait_s < lease_s, "it was left to be found"


async def test_a_node_that_hangs_for_a_while_drives_no_more(room: Newsroom) -> None:
    """It wakes up and does not know yet that another node has its streams."""
    async with cast(room) as they:
        streams = [*await they.begin_both(speed="normal"), *await they.begin_both(speed="normal")]
        room.nodes[0].signal(signal.SIGSTOP)
        try:
            followers = [stream.editors[1] for stream in streams]
            seen = [len(editor.chunks) for editor in followers]

            def went_on() -> bool:
                return all(len(editor.chunks) > before + 2 for editor, before in zip(followers, seen, strict=True))

            await until(went_on, TAKEN_OVER_S, "the other node to go on")
        finally:
            room.nodes[0].signal(signal.SIGCONT)
        for stream in streams:
            await hurry(they.owner_at_far, stream)
            await stream.ends(room, they.far)


async def test_what_was_paused_stays_so_on_another_node(room: Newsroom) -> None:
    async with cast(room) as they:
        stream = await they.begin(document=True)
        await under_way(stream)
        await they.owner.call("content.pause", stream=stream.name)
        await until(lambda: stream.editors[1].named("progress"), what="the pause")
        seen = [len(editor.chunks) for editor in stream.editors]
        adopted = await room.nodes[1].metric("hub_content_streams_adopted_total")
        await room.lose()

        async def is_adopted() -> bool:
            return await room.nodes[1].metric("hub_content_streams_adopted_total") > adopted

        await until(is_adopted, TAKEN_OVER_S, "the other node to have it")
        # The new driver would publish at once if it did.
        await they.owner_at_far.call("content.speed", stream=stream.name, speed="superfast")
        told = await until(lambda: told_of(stream.editors[1], "superfast"), what="the new speed")
        assert told["state"] == "paused"
        assert [len(editor.chunks) for editor in stream.editors] == seen
        assert (await they.owner_at_far.call("content.resume", stream=stream.name))["state"] == "running"
        await stream.ends(room, they.far)


async def test_cancel_reaches_a_stream_whose_node_is_dead(room: Newsroom) -> None:
    async with cast(room) as they:
        streams = await they.begin_both()
        await room.lose()
        for stream in streams:
            assert (await they.owner_at_far.call("content.cancel", stream=stream.name))["state"] == "cancelled"
        for stream in streams:
            for editor in stream.editors:
                result = await editor.ended(30)
                assert (result["code"], result["chunks"]) == ("cancelled", len(editor.chunks))
                assert len(editor.named("stream_error")) == 1
            assert stream.editors[0].chunks == stream.editors[1].chunks
            assert (await stored(they.far, stream.name))["state"] == "cancelled"


async def hurry(owner: Desk, stream: Stream) -> None:
    """Nobody wants to wait for the rest, if there is any."""
    try:
        await owner.call("content.speed", stream=stream.name, speed="superfast")
    except RequestRefused as refused:
        if refused.details != {"state": "complete"}:
            raise


async def under_way(stream: Stream) -> None:
    """Everybody has some of it."""
    await until(lambda: all(len(editor.chunks) >= 8 for editor in stream.editors), 30, "the middle")
    assert all(editor.result is None for editor in stream.editors), "it is over already"


def told_of(editor: Clocked, speed: str) -> Any:
    """What the editor was told when the speed changed."""
    return next((told for told in editor.named("progress") if told["speed"] == speed), None)
