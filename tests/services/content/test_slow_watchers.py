"""A stream waits for whoever reads it attentively, on whatever node, and for nobody else; nothing is dropped."""

from __future__ import annotations

from typing import Any

from hub.client.content import ContentAssembler
from hub.protocol.frames import Event
from services.content.pipeline import Pipeline
from tests.services.content.studio import Editor, Studio, studio
from tests.support.hub_database import HubDatabase
from tests.support.peers import Peers
from tests.support.waiting import until

PAGE = "".join(f"<p>Paragraph {number} with a few words.</p>" for number in range(48))
MANY = 120
"""Events that somebody is behind: enough for the slowest pace, one chunk a second."""


def slowed(house: Studio) -> float:
    """How often the driver's node has slowed a stream down."""
    return house.nodes[0].gateway.metrics.registry.get_sample_value("hub_content_slowed_total") or 0.0


def took_s(editor: Editor, after: int, count: int) -> float | None:
    """Seconds of the hub's for the newest ``count`` chunks, when there are as many behind the first ``after``."""
    at = [event.ts for event in editor.events if event.name == "chunk"][after:]
    return (at[-1] - at[-1 - count]) / 1000 if len(at) > count else None


async def test_who_acknowledges_and_lags_slows_the_stream_and_who_does_not_acknowledge_does_not(
    redis_url: str, hub_database: HubDatabase
) -> None:
    async with studio(redis_url, hub_database, nodes=2) as house, Peers(house.nodes[1], org="acme") as peers:
        client = await house.client()
        asked = {"content": PAGE, "chunk_by": "word", "speed": "superfast"}
        stream = (await client.call("content.start", asked))["stream"]
        topic = f"content:{stream}"
        editor = await house.watch(stream)
        idle = await peers.join("idle")
        await idle.joined({"topic": topic, "since": "start"})
        await until(lambda: len(editor.chunks) >= MANY, 30, "a part of it")
        assert slowed(house) == 0

        lagging = await peers.join("lagging")
        (verdict,) = await lagging.joined({"topic": topic, "since": "start", "ack": True})
        epoch = str(verdict.epoch)
        await until(lambda: slowed(house) >= 1, what="the stream to be slowed down")
        have = len(editor.chunks)
        await until(lambda: (took_s(editor, have, 3) or 0.0) > 1.5, 30, "a chunk a second")

        received: list[Any] = []
        while len(received) < MANY:
            received.append(await lagging.await_kind(Event))
        await lagging.ack(topic, epoch, received[-1].seq)
        have = len(editor.chunks)
        await until(lambda: (took_s(editor, have, 20) or 60.0) < 15, 60, "the stream to recover")

        while received[-1].name != "stream_complete":
            received.append(await lagging.await_kind(Event, 30))
            if received[-1].seq is not None and received[-1].seq % 20 == 0:
                await lagging.ack(topic, epoch, received[-1].seq)
        await editor.ended()
        document = ContentAssembler()
        for event in received:
            if event.name == "chunk":
                document.apply(event.data)
        assert document.html == editor.document.html == Pipeline().document(PAGE, "html").document.html
        chunks = [event.data for event in received if event.name == "chunk"]
        assert chunks == editor.chunks
