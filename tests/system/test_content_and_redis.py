"""Content streams while Redis and PostgreSQL fail: whoever follows one has the whole in the end, and knows of gaps.

What Redis still has comes once. What it has lost is streamed again, with the same numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from hub.embedded import RedisServer
from hub.orgs import OrgId
from services.content.pipeline import Pipeline
from tests.services.content.studio import Editor, Studio, studio
from tests.support.cut_proxy import CutProxy
from tests.support.hub_database import HubDatabase, migrated_database
from tests.support.servers import client as connected
from tests.support.servers import running_redis
from tests.support.waiting import until
from tests.system.newsroom import page, shown
from tests.system.test_faults_of_redis import lasting_postgres, restart, restart_postgres

PAGE = page(30)
CHAT = {"kind": "chat", "messages": [{"role": "user", "content": "Why?"}], "chunk_by": "word", "speed": "superfast"}
ORG = OrgId.from_operator("acme")
HEALED_S = 40.0


class Play:
    """A document and a text, driven by node 0, and two editors of each, on two nodes."""

    def __init__(self, house: Studio) -> None:
        self.house = house
        self.streams: list[str] = []
        self.editors: list[list[Editor]] = []

    async def begin(self) -> None:
        client = await self.house.client()
        document = {"content": PAGE, "content_type": "html", "chunk_by": "word", "speed": "fast"}
        for method, params in (("content.start", document), ("assistant.generate", CHAT)):
            stream = (await client.call(method, params))["stream"]
            self.streams.append(stream)
            self.editors.append([await self.house.watch(stream, node=node) for node in (0, 1)])
        await self.flows()

    async def flows(self) -> None:
        """Everybody gets some more chunks."""
        have = [len(editor.chunks) for of in self.editors for editor in of]
        await until(
            lambda: all(
                len(editor.chunks) >= before + 5
                for before, editor in zip(have, [editor for of in self.editors for editor in of], strict=True)
            ),
            HEALED_S,
            "chunks to come",
        )
        assert all(editor.result is None for of in self.editors for editor in of), "it is over already"

    async def ends(self, *, repeats: bool = False) -> None:
        """Everybody has the same and the whole, and it is stored."""
        client = await self.house.client()
        for stream, editors in zip(self.streams, self.editors, strict=True):
            for editor in editors:
                await editor.ended(HEALED_S)
                check(editor, repeats=repeats)
            assert editors[0].document.html == editors[1].document.html
            row = await self.stored(client, stream)
            assert (row["state"], row["html"]) == ("complete", editors[0].document.html)
        assert self.editors[0][0].document.html == Pipeline().document(PAGE, "html").document.html
        assert self.editors[1][0].document.html == shown(await self.written(self.streams[1]))

    async def written(self, stream: str) -> str:
        """What the model has said, as it stands in Redis."""
        hub, text, more = self.house.hubs[1], "", True
        after = 0
        while more:
            page = await self.house.nodes[1].within(
                lambda after=after: hub.read(ORG, f"content_dictation:{stream}", after=after)  # type: ignore[misc]
            )
            text += "".join(event.data["text"] for event in page.events if event.name == "text")
            after, more = page.events[-1].seq if page.events else after, page.more
        return text

    async def stored(self, client: Any, stream: str) -> dict[str, Any]:
        async def row() -> Any:
            found = await client.call("content.get", {"stream": stream})
            return found if found["finished_ms"] else None

        return dict(await until(row, HEALED_S, "the end to be stored"))


def check(editor: Editor, *, repeats: bool) -> None:
    """Every chunk came, in order; once, or (when Redis has lost it) the very same again."""
    first: dict[int, Any] = {}
    for chunk in editor.chunks:
        assert chunk["index"] in (len(first), *first), "one is missing"
        assert first.setdefault(chunk["index"], chunk) == chunk, "the same number, but another chunk"
    assert [event.name for event in editor.events].count("stream_complete") == 1
    assert editor.events[-1].name == "stream_complete"
    assert editor.result is not None
    assert editor.result["chunks"] == len(first)
    if repeats:
        assert [gap.reason for gap in editor.gaps], "nobody was told that something was lost"
    else:
        assert len(first) == len(editor.chunks)
        assert len(editor.named("stream_start")) == 1


@contextlib.asynccontextmanager
async def play(redis_url: str | Sequence[str], database: HubDatabase, **changes: Any) -> AsyncIterator[Play]:
    settings = {"redis_timeout_s": 1.0, "reconnect_max_s": 0.3, "assistant_offline_words_per_s": 100.0} | changes
    async with studio(redis_url, database, nodes=2, **settings) as house:
        running = Play(house)
        await running.begin()
        yield running


async def test_redis_restarts_with_its_data(own_redis: RedisServer, hub_database: HubDatabase) -> None:
    async with play(own_redis.url, hub_database) as it:
        await restart(own_redis, away_s=0.5)
        await it.ends()


async def test_redis_restarts_with_its_data_lost(own_redis: RedisServer, hub_database: HubDatabase) -> None:
    async with play(own_redis.url, hub_database) as it:
        with connected(own_redis) as link:
            link.config_set("appendonly", "no")
        await asyncio.to_thread(own_redis.stop)
        for file in own_redis.home.data.glob("**/*.*"):
            if file.suffix in (".rdb", ".aof", ".manifest"):
                file.unlink()
        own_redis.start()
        await it.ends(repeats=True)


async def test_redis_restarts_with_an_older_state(hub_database: HubDatabase) -> None:
    """As after a failover to a replica that lagged."""
    with running_redis() as server:
        async with play(server.url, hub_database) as it:
            with connected(server) as link:
                link.save()
                keys = link.dbsize()
            snapshot = (server.home.data / "dump.rdb").read_bytes()
            await it.flows()
            await asyncio.to_thread(server.stop)
            (server.home.data / "dump.rdb").write_bytes(snapshot)
            server.start()
            with connected(server) as link:
                assert link.dbsize() >= keys > 0
            await it.ends(repeats=True)


async def test_redis_is_flushed(own_redis: RedisServer, hub_database: HubDatabase) -> None:
    async with play(own_redis.url, hub_database) as it:
        with connected(own_redis) as link:
            link.flushall()
        await it.ends(repeats=True)


async def test_connections_to_redis_are_killed(own_redis: RedisServer, hub_database: HubDatabase) -> None:
    async with play(own_redis.url, hub_database) as it:
        with connected(own_redis) as link:
            for kind in ("normal", "pubsub", "normal", "pubsub"):
                link.client_kill_filter(_type=kind, skipme=True)
                await asyncio.sleep(0.1)  # so that the next one hits what was opened anew
        await it.ends()


@pytest.mark.parametrize("stall_s", [0.7, 3.0], ids=["for a moment", "until another node has the stream"])
async def test_the_link_of_the_driver_stalls(own_redis: RedisServer, hub_database: HubDatabase, stall_s: float) -> None:
    async with CutProxy(("127.0.0.1", own_redis.port)) as proxy:
        urls = [f"redis://127.0.0.1:{proxy.port}/0", own_redis.url]
        async with play(urls, hub_database) as it:
            proxy.stall()
            await asyncio.sleep(stall_s)  # the fault itself
            proxy.resume()
            await it.ends()


async def test_postgres_is_away_while_streams_run_and_when_they_end(redis_url: str) -> None:
    """Away in order first, and then by a crash."""
    with lasting_postgres() as postgres:
        async with migrated_database(postgres) as database, play(redis_url, database) as it:
            await restart_postgres(postgres, crash=False)
            postgres.kill()
            for editors in it.editors:
                for editor in editors:
                    await editor.ended(HEALED_S)
            with contextlib.suppress(Exception):
                await asyncio.to_thread(postgres.stop)
            postgres.start()
            await it.ends()
