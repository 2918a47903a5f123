"""Who drives a stream when things go wrong: a driver that fails, one that interferes, duties that come and go."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from hub.api import HubError
from hub.nodes.duties import Duties
from hub.orgs import OrgId, duty_text
from services.content.assistant import Prompt
from services.content.assistant.offline import OfflineWriter
from services.content.pipeline import Document, Pipeline
from services.content.store import Store
from tests.services.content.studio import Studio, studio
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

PAGE = "<h1>Title</h1>" + "".join(f"<p>Paragraph <b>number</b> {n}, with some words.</p>" for n in range(10))
CHAT = {"kind": "chat", "messages": [{"role": "user", "content": "Tell me."}], "speed": "superfast"}
ACME = OrgId.from_operator("acme")


@pytest.fixture
async def house(redis_url: str, hub_database: HubDatabase) -> AsyncIterator[Studio]:
    async with studio(
        redis_url, hub_database, allowed_errors=["a stream has failed"], assistant_offline_words_per_s=200.0
    ) as running:
        yield running


async def stored(client: Any, stream: str) -> dict[str, Any]:
    """The stream as it is kept, when its end is."""

    async def row() -> Any:
        found = await client.call("content.get", {"stream": stream})
        return found if found["finished_ms"] else None

    return dict(await until(row, 30, "the end to be stored"))


async def test_a_text_goes_on_although_somebody_else_wrote_into_its_journal(
    house: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that hung has written one more entry when it woke up; this node has the duty, and must not give in."""
    go_on, generate = asyncio.Event(), OfflineWriter.generate

    async def held_up(self: OfflineWriter, prompt: Prompt) -> AsyncGenerator[str, None]:
        """It has not come to its end before the other has written."""
        async with aclosing(generate(self, prompt)) as pieces:
            for count in itertools.count():
                if count == 40:
                    await go_on.wait()
                piece = await anext(pieces, None)
                if piece is None:
                    return
                yield piece

    monkeypatch.setattr(OfflineWriter, "generate", held_up)
    client = await house.client()
    stream = (await client.call("assistant.generate", CHAT))["stream"]
    editor = await house.watch(stream)
    await until(lambda: len(editor.chunks) > 5, what="the middle")
    hub = house.hubs[0]

    async def interfere() -> None:
        while True:
            topic = f"content_dictation:{stream}"
            top = (await hub.read(ACME, topic, last=1)).top
            try:
                await hub.append(ACME, topic, [("text", {"text": "\n\nForeign words.\n\n"})], after=top)
            except HubError:
                continue
            return

    await house.nodes[0].within(interfere)
    house.nodes[0].loop.call_soon_threadsafe(go_on.set)
    await editor.ended()
    assert "Foreign words." in editor.document.html
    assert [chunk["index"] for chunk in editor.chunks] == list(range(len(editor.chunks)))
    row = await stored(client, stream)
    assert (row["state"], row["html"]) == ("complete", editor.document.html)


async def test_a_pipeline_that_fails_in_the_middle_ends_the_stream(
    house: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = Document.chunks

    def failing(self: Document) -> Iterator[Any]:
        for chunk in chunks(self):
            if chunk.index == 5 and asyncio.current_task().get_name() == "content-stream":  # type: ignore[union-attr]
                raise RuntimeError("a fault of the pipeline, on purpose")
            yield chunk

    monkeypatch.setattr(Document, "chunks", failing)
    client = await house.client()
    stream = (await client.call("content.start", {"content": PAGE, "chunk_by": "word", "speed": "superfast"}))["stream"]
    editor = await house.watch(stream)
    result = await editor.ended()
    assert (result["state"], result["code"]) == ("failed", "internal")
    assert [chunk["index"] for chunk in editor.chunks] == list(range(4)), "all but the one that was looked at ahead"
    assert (await stored(client, stream))["state"] == "failed"


async def test_the_next_part_may_begin_as_soon_as_the_last_one_has_ended(
    redis_url: str, hub_database: HubDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Store.finish

    async def slowly(self: Store, *what: Any) -> None:
        await asyncio.sleep(0.6)  # a database that is busy
        await finish(self, *what)

    monkeypatch.setattr(Store, "finish", slowly)
    async with studio(redis_url, hub_database, nodes=2) as house:
        clients = [await house.client(node=n) for n in (0, 1)]
        editor = await house.watch("serial")
        source = ""
        for n in range(3):
            source += f"<p>Part {n} of several.</p>"
            part = {"stream": "serial", "content": f"<p>Part {n} of several.</p>", "speed": "superfast"}
            await clients[n % 2].call("content.start", part)
            await until(lambda n=n: len(editor.named("stream_complete")) == n + 1, what="the end of the part")
        assert editor.document.html == Pipeline().document(source, "html").document.html
        assert (await stored(clients[0], "serial"))["part"] == 3


async def test_a_duty_that_is_lost_and_comes_back_is_done_again(house: Studio) -> None:
    """The cancelled driver may still be about to end when its node adopts the stream again."""
    client = await house.client()
    streams = [
        (await client.call("content.start", {"content": PAGE, "chunk_by": "word", "speed": "normal"}))["stream"],
        (await client.call("assistant.generate", CHAT))["stream"],
    ]
    editors = [await house.watch(stream) for stream in streams]
    await until(lambda: all(len(editor.chunks) > 5 for editor in editors), what="the middle")
    duties = house.hubs[0].duties.of("content")

    async def lose_and_adopt() -> None:
        for stream in streams:
            duties._lost(ACME, stream)
            duties._adopt(ACME, stream)

    await house.nodes[0].within(lose_and_adopt)
    await client.call("content.speed", {"stream": streams[0], "speed": "superfast"})
    for editor, stream in zip(editors, streams, strict=True):
        await editor.ended()
        assert [chunk["index"] for chunk in editor.chunks] == list(range(len(editor.chunks)))
        assert (await stored(client, stream))["html"] == editor.document.html


async def test_a_driver_that_has_lost_its_duty_stops_in_the_middle(house: Studio) -> None:
    client = await house.client()
    asked = {"content": PAGE, "chunk_by": "word", "speed": "normal"}
    stream = (await client.call("content.start", asked))["stream"]
    editor = await house.watch(stream)
    await until(lambda: len(editor.chunks) > 5, what="the middle")
    duties, duty = house.hubs[0].duties.of("content"), duty_text(ACME, stream)
    registry = house.nodes[0].gateway.metrics.registry

    async def lose() -> None:
        duties._drop(duty)
        duties._call(duties._lost, duty)
        # On this loop: when its lease is over, it is adopted again.
        await until(lambda: registry.get_sample_value("hub_content_streams") == 0, what="the driver to stop")

    await house.nodes[0].within(lose)
    assert editor.result is None
    # Nobody has it. Whoever is asked to change it takes it over.
    await client.call("content.speed", {"stream": stream, "speed": "superfast"})
    await editor.ended()
    assert [chunk["index"] for chunk in editor.chunks] == list(range(len(editor.chunks)))
    assert (await stored(client, stream))["html"] == editor.document.html


async def test_a_wish_that_was_lost_on_its_way_is_found(
    redis_url: str, hub_database: HubDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any) -> None:
        """Nobody hears it."""

    monkeypatch.setattr(Duties, "signal", lost)
    async with studio(redis_url, hub_database, nodes=2, content_check_s=0.1) as house:
        here, there = await house.client(), await house.client(node=1)
        asked = {"content": PAGE, "chunk_by": "word", "speed": "normal"}
        stream = (await here.call("content.start", asked))["stream"]
        editor = await house.watch(stream)
        await there.call("content.pause", {"stream": stream})
        told = await until(lambda: editor.named("progress"), what="the pause")
        assert told[0]["state"] == "paused"
        await there.call("content.cancel", {"stream": stream})
        assert (await editor.ended())["code"] == "cancelled"
