"""Content streams end to end: from a method to what editors have, over real sockets, Redis and PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hub.client import RequestRefused
from hub.protocol.frames import Error, Reply
from services.content.pipeline import Pipeline, Unit
from tests.services.content.studio import Studio, studio
from tests.support.hub_database import HubDatabase
from tests.support.peers import Peers
from tests.support.waiting import until

PAGE = "<h1>Title</h1>" + "".join(f"<p>Paragraph <b>number</b> {n}, with some words.</p>" for n in range(10))


@pytest.fixture
async def house(redis_url: str, hub_database: HubDatabase) -> AsyncIterator[Studio]:
    async with studio(redis_url, hub_database) as running:
        yield running


def sanitised(source: str, kind: str | None = None) -> str:
    return Pipeline().document(source, kind).document.html


async def test_a_page_unfolds_chunk_by_chunk_and_ends_as_the_sanitised_whole(house: Studio) -> None:
    client = await house.client()
    begun = await client.call(
        "content.start", {"content": PAGE, "content_type": "html", "chunk_by": "sentence", "speed": "superfast"}
    )
    editor = await house.watch(begun["stream"])
    result = await editor.ended()

    assert editor.events[0].name == "stream_start"
    assert editor.named("stream_start")[0] == {
        "stream": begun["stream"],
        "part": 1,
        "run": editor.chunks[0]["run"],
        "kind": "document",
        "content_type": "html",
        "chunk_by": "sentence",
        "speed": "superfast",
        "complexity": "medium",
        "index": 0,
        "block": 0,
    }
    assert [chunk["index"] for chunk in editor.chunks] == list(range(begun["chunks"]))
    assert editor.document.html == sanitised(PAGE, "html")
    assert editor.chunks[-1]["progress"] == 1
    assert begun["topic"] == f"content:{begun['stream']}"
    assert not begun["cached"]
    assert result["chunks"] == begun["chunks"]
    assert result["avg_chunk_size"] == pytest.approx(len(editor.document.html) / begun["chunks"], abs=0.1)
    assert result["processing_ms"] > 0
    assert (result["state"], result["complexity"]) == ("complete", begun["complexity"])
    assert {event.by for event in editor.events} == {"ada"}


@pytest.mark.parametrize("unit", [unit for unit in Unit if unit is not Unit.AUTO])
@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("html", "<ul><li>One <i>two</i></li><li>three</li></ul><script>alert(1)</script><p>four</p>"),
        ("markdown", "# Head\n\nSome **bold** words. And more.\n\n- a\n- b\n"),
        ("text", "One line.\nAnother <b>line</b>.\n\nA paragraph."),
    ],
)
async def test_every_kind_of_content_in_every_cut(house: Studio, unit: Unit, kind: str, source: str) -> None:
    client = await house.client()
    asked = {"content": source, "content_type": kind, "chunk_by": unit, "speed": "superfast"}
    begun = await client.call("content.start", asked)
    editor = await house.watch(begun["stream"])
    await editor.ended()
    assert editor.document.html == sanitised(source, kind)
    assert begun["content_type"] == kind
    assert begun["chunk_by"] == unit


async def test_who_comes_late_gets_the_whole_and_who_was_there_before_the_stream_too(house: Studio) -> None:
    client = await house.client()
    early = await house.watch("report-7")
    begun = await client.call("content.start", {"content": PAGE, "speed": "superfast", "stream": "report-7"})
    assert begun["stream"] == "report-7"
    await early.ended()
    late = await house.watch("report-7")
    await late.ended()
    assert late.chunks == early.chunks
    assert late.document.html == sanitised(PAGE)


async def test_pause_resume_and_speed_on_any_node(redis_url: str, hub_database: HubDatabase) -> None:
    async with studio(redis_url, hub_database, nodes=2) as house:
        here, there = await house.client(), await house.client(node=1)
        begun = await here.call("content.start", {"content": PAGE, "chunk_by": "word", "speed": "slow"})
        stream = begun["stream"]
        editor = await house.watch(stream, node=1)
        await until(lambda: editor.chunks, what="the first chunk")

        told = await there.call("content.pause", {"stream": stream})
        assert told == {"stream": stream, "state": "paused", "speed": "slow"}
        paused = await until(lambda: editor.named("progress"), what="the pause")
        assert paused[0]["state"] == "paused"
        await until(lambda: len(editor.chunks) == paused[0]["chunks"], what="the chunks before it")
        assert (await there.call("content.pause", {"stream": stream}))["state"] == "paused", "asking again is no error"
        # Whoever comes now sees as much, and the stream waits.
        assert (await there.call("content.speed", {"stream": stream, "speed": "superfast"}))["speed"] == "superfast"
        assert (await here.call("content.get", {"stream": stream}))["state"] == "paused"
        seen = len(editor.chunks)

        assert (await there.call("content.resume", {"stream": stream}))["state"] == "running"
        await editor.ended()
        assert len(editor.chunks) > seen
        assert editor.document.html == sanitised(PAGE)
        last = editor.named("progress")[-1]
        assert (last["state"], last["interval_ms"]) == ("running", 30)


async def test_cancel_ends_the_stream_and_what_was_shown_stays(house: Studio) -> None:
    client = await house.client()
    begun = await client.call("content.start", {"content": PAGE, "chunk_by": "word", "speed": "slow"})
    editor = await house.watch(begun["stream"])
    await until(lambda: editor.chunks, what="the first chunk")
    assert (await client.call("content.cancel", {"stream": begun["stream"]}))["state"] == "cancelled"
    result = await editor.ended()
    assert editor.events[-1].name == "stream_error"
    assert (result["code"], result["state"], result["retry"]) == ("cancelled", "cancelled", "never")
    assert result["chunks"] == len(editor.chunks)
    assert result["avg_chunk_size"] == pytest.approx(len(editor.document.html) / len(editor.chunks), rel=0.5)
    await until(lambda: _finished(client, begun["stream"]), what="the end to be stored")
    for method in ("pause", "resume", "speed"):
        with pytest.raises(RequestRefused) as refused:
            await client.call(f"content.{method}", {"stream": begun["stream"], "speed": "fast"})
        assert refused.value.code == "conflict"
        assert refused.value.details == {"state": "cancelled"}


async def _finished(client: Any, stream: str) -> bool:
    return (await client.call("content.get", {"stream": stream}))["finished_ms"] is not None


async def test_pause_of_a_finished_stream_is_a_conflict(house: Studio) -> None:
    client = await house.client()
    begun = await client.call("content.start", {"content": "<p>short</p>", "speed": "superfast"})
    await until(lambda: _finished(client, begun["stream"]), what="the end to be stored")
    for method in ("pause", "resume", "cancel"):
        with pytest.raises(RequestRefused, match="complete") as refused:
            await client.call(f"content.{method}", {"stream": begun["stream"]})
        assert refused.value.code == "conflict"


async def test_what_cannot_be_streamed_is_refused_with_its_code(house: Studio) -> None:
    client = await house.client()
    for params, code in (
        ({"content": "x", "speed": "warp"}, "bad_request"),
        ({"content": "x", "chunk_by": "letter"}, "bad_request"),
        ({"content": "x", "content_type": "pdf"}, "content_type"),
        ({"content": 7}, "bad_request"),
        ({}, "bad_request"),
        ({"content": "   "}, "empty_content"),
        ({"content": "<script>alert(1)</script>", "content_type": "html"}, "empty_content"),
        ({"content": "a" * 102_401}, "too_large"),
        ({"content": "x", "stream": "no spaces"}, "bad_request"),
        ({"content": "x", "stream": ""}, "bad_request"),
    ):
        with pytest.raises(RequestRefused) as refused:
            await client.call("content.start", params)
        assert refused.value.code == code, params
    for method in ("pause", "resume", "cancel", "get", "replay"):
        with pytest.raises(RequestRefused) as refused:
            await client.call(f"content.{method}", {"stream": "nobody-has-it"})
        assert refused.value.code == "not_found", method


async def test_somebody_elses_stream_can_be_watched_but_not_touched(house: Studio) -> None:
    ada, bob, eve = await house.client("ada"), await house.client("bob"), await house.client("eve", org="globex")
    begun = await ada.call("content.start", {"content": PAGE, "chunk_by": "word", "speed": "slow"})
    stream = begun["stream"]
    for method in ("pause", "resume", "cancel", "speed"):
        for other in (bob, eve):
            with pytest.raises(RequestRefused) as refused:
                await other.call(f"content.{method}", {"stream": stream, "speed": "fast"})
            assert refused.value.code == "not_found"
    with pytest.raises(RequestRefused) as refused:
        await bob.call("content.start", {"content": "mine", "stream": stream})
    assert refused.value.code == "conflict"
    with pytest.raises(RequestRefused) as refused:
        await bob.publish(f"content:{stream}", "chunk", {"index": 0})
    assert refused.value.code == "forbidden"
    assert (await bob.call("content.get", {"stream": stream}))["state"] == "running"
    with pytest.raises(RequestRefused) as refused:
        await eve.call("content.get", {"stream": stream})
    assert refused.value.code == "not_found"
    assert (await bob.call("content.list"))["streams"] == []
    # The same name in another organisation is another stream.
    assert (await eve.call("content.start", {"content": "theirs", "stream": stream}))["stream"] == stream


async def test_requests_follow_one_another_in_one_stream_up_to_its_bound(
    redis_url: str, hub_database: HubDatabase
) -> None:
    words = " ".join("abcdefghijklmnopqrstuvwxyzabcd")  # enough of them for a pause before the end
    async with studio(redis_url, hub_database, content_max_stream_bytes=100, content_max_bytes=80) as house:
        client = await house.client()
        editor = await house.watch("letter")
        part = {"stream": "letter", "content_type": "html", "speed": "superfast"}
        slow = {"content": f"<p>{words}</p>", "chunk_by": "word", "speed": "slow"}
        await client.call("content.start", part | slow)
        await client.call("content.pause", {"stream": "letter"})
        with pytest.raises(RequestRefused, match="running") as refused:
            await client.call("content.start", part | {"content": "<p>too early</p>"})
        assert refused.value.code == "conflict"
        await client.call("content.speed", {"stream": "letter", "speed": "superfast"})
        await client.call("content.resume", {"stream": "letter"})
        await until(lambda: _finished(client, "letter"), what="the end to be stored")
        await client.call("content.start", part | {"content": "<p>Four.</p>"})
        await until(lambda: len(editor.named("stream_complete")) == 2, what="both parts")
        assert editor.document.html == f"<p>{words}</p><p>Four.</p>"
        assert editor.named("stream_start")[1]["index"] == editor.named("stream_complete")[0]["chunks"]
        await until(lambda: _finished(client, "letter"), what="the end to be stored")
        with pytest.raises(RequestRefused) as refused:
            await client.call("content.start", part | {"content": "<p>more than there is room for</p>"})
        assert refused.value.code == "too_large"
        row = await client.call("content.get", {"stream": "letter"})
        assert (row["part"], row["html"]) == (2, editor.document.html)


async def test_of_several_who_begin_a_stream_of_one_name_at_once_one_does(
    redis_url: str, hub_database: HubDatabase
) -> None:
    async with studio(redis_url, hub_database, nodes=2) as house:
        clients = [await house.client(node=n % 2) for n in range(6)]
        # Slow: it must not be over when the last of them comes, who would begin its next part.
        asked = {"content": PAGE, "chunk_by": "word", "speed": "slow", "stream": "draft"}
        calls = [client.call("content.start", asked) for client in clients]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, RequestRefused)]
        assert [error.code for error in refused] == ["conflict"] * 5, outcomes
        await clients[0].call("content.speed", {"stream": "draft", "speed": "superfast"})
        editor = await house.watch("draft")
        await editor.ended()
        assert editor.document.html == sanitised(PAGE)
        assert len(editor.named("stream_start")) == len(editor.named("stream_complete")) == 1


async def test_a_session_has_so_many_requests_on_all_nodes_together(redis_url: str, hub_database: HubDatabase) -> None:
    async with studio(redis_url, hub_database, nodes=2, content_session_requests=3) as house:
        clients = [await house.client(node=n) for n in (0, 1)]
        for n in range(3):
            await clients[n % 2].call("content.start", {"content": "x"})
        for client in clients:
            with pytest.raises(RequestRefused) as refused:
                await client.call("content.start", {"content": "x"})
            assert refused.value.code == "rate_limited"
            assert refused.value.retry_after_ms
        await (await house.client("bob")).call("content.start", {"content": "x"})


async def test_so_many_streams_of_one_user_at_once_on_all_nodes(redis_url: str, hub_database: HubDatabase) -> None:
    async with studio(redis_url, hub_database, nodes=2, content_running_per_user=3) as house:
        clients = [await house.client(node=n) for n in range(2)]
        asked = {"content": PAGE, "chunk_by": "word", "speed": "slow"}
        async with contextlib.AsyncExitStack() as stack:
            # Our client would wait and try again, as it is told.
            peers = [await stack.enter_async_context(Peers(node, org="acme")) for node in house.nodes]
            raw = [await one.join("ada") for one in peers]
            for n in range(8):
                await raw[n % 2].send({"type": "call", "id": n, "method": "content.start", "params": asked})
            outcomes = [await raw[n % 2].answer_to(n, 30) for n in range(8)]
        refused = [outcome for outcome in outcomes if isinstance(outcome, Error)]
        assert [(error.code, error.details) for error in refused] == [("rate_limited", {"limit": 3})] * 5
        stream = next(outcome.result["stream"] for outcome in outcomes if isinstance(outcome, Reply))
        await clients[0].call("content.cancel", {"stream": stream})
        await until(lambda: _finished(clients[0], stream), what="the end to be stored")
        assert (await clients[1].call("content.start", asked))["stream"]


async def test_a_name_of_ones_own_needs_the_right_to_watch_it(house: Studio) -> None:
    client = await house.client("eve", scope="subscribe:content:mine-* call:*")
    for name in ("theirs", "mine"):
        with pytest.raises(RequestRefused) as refused:
            await client.call("content.start", {"content": "x", "stream": name})
        assert refused.value.code == "forbidden"
    assert (await client.call("content.start", {"content": "x", "stream": "mine-1"}))["stream"] == "mine-1"


async def test_a_stream_that_nobody_drives_is_found_and_ended(redis_url: str, hub_database: HubDatabase) -> None:
    async with studio(redis_url, hub_database, content_abandoned_s=10) as house:
        client = await house.client()
        begun = await client.call("content.start", {"content": PAGE, "chunk_by": "word", "speed": "superfast"})
        await until(lambda: _finished(client, begun["stream"]), what="the end to be stored")
        # As if PostgreSQL had kept the row of a stream of which Redis knows nothing.
        async with hub_database.connect("postgres") as link:
            await link.execute(
                """
                UPDATE hub.content_streams SET state = 'running', finished_at = NULL, html = '', chunks = 0, blocks = 0,
                  id = 'orphan', run = 'other', source = $1, driven_at = now() - interval '1 minute'
                """,
                PAGE.encode(),
            )
        editor = await house.watch("orphan")
        await editor.ended(40)
        assert editor.document.html == sanitised(PAGE)
        await until(lambda: _finished(client, "orphan"), what="the end to be stored")


async def test_the_same_content_comes_from_the_cache(house: Studio) -> None:
    client = await house.client()
    first = await client.call("content.start", {"content": PAGE, "speed": "superfast"})
    second = await client.call("content.start", {"content": PAGE, "speed": "superfast"})
    assert (first["cached"], second["cached"]) == (False, True)
    assert second["chunks"] == first["chunks"]
    editors = [await house.watch(begun["stream"]) for begun in (first, second)]
    results = [await editor.ended() for editor in editors]
    assert editors[0].document.html == editors[1].document.html
    assert [result["cached"] for result in results] == [False, True]
    stranger = await house.client("eve", org="globex")
    assert not (await stranger.call("content.start", {"content": PAGE}))["cached"], "a cache for each organisation"
    other = await client.call("content.start", {"content": PAGE, "chunk_by": "paragraph"})
    assert not other["cached"], "other options, another entry"
    metrics = house.nodes[0].gateway.metrics.registry
    assert metrics.get_sample_value("hub_content_cache_total", {"outcome": "hit"}) == 1
    assert metrics.get_sample_value("hub_content_cache_total", {"outcome": "miss"}) == 3


async def test_streams_are_listed_and_streamed_again(house: Studio) -> None:
    client = await house.client()
    names = []
    for n in range(3):
        begun = await client.call("content.start", {"content": f"<p>Number {n}.</p>", "speed": "superfast"})
        names.insert(0, begun["stream"])
        await until(lambda stream=begun["stream"]: _finished(client, stream), what="the end to be stored")
    page = await client.call("content.list", {"limit": 2})
    assert [row["stream"] for row in page["streams"]] == names[:2]
    rest = await client.call("content.list", {"limit": 2, "before": page["next"]})
    assert [row["stream"] for row in rest["streams"]] == names[2:]
    assert rest["next"] is None
    assert rest["streams"][0]["result"]["state"] == "complete"

    again = await (await house.client("bob")).call("content.replay", {"stream": names[0], "speed": "superfast"})
    assert again["stream"] not in names
    editor = await house.watch(again["stream"])
    await editor.ended()
    assert editor.document.html == "<p>Number 2.</p>"
    assert len(editor.chunks) == again["chunks"]


async def test_what_has_expired_goes_for_every_organisation(house: Studio, hub_database: HubDatabase) -> None:
    for org in ("acme", "globex"):
        client = await house.client(org=org)
        begun = await client.call("content.start", {"content": "x", "speed": "superfast", "stream": "old"})
        await until(lambda client=client: _finished(client, "old"), what="the end to be stored")
        await client.call("content.start", {"content": "y", "speed": "superfast", "stream": "new"})
        await until(lambda client=client: _finished(client, "new"), what="the end to be stored")
        assert begun["stream"] == "old"
    async with hub_database.connect("postgres") as link:
        await link.execute("UPDATE hub.content_streams SET expires_at = now() - interval '1 second' WHERE id = 'old'")
    database = house.nodes[0].gateway.database

    async def expire() -> int:
        return await database.maintain("SELECT hub.expire_content($1)", 100)

    assert await house.nodes[0].within(expire) == 2
    assert await house.nodes[0].within(expire) == 0
    for org in ("acme", "globex"):
        rows = (await (await house.client(org=org)).call("content.list"))["streams"]
        assert [row["stream"] for row in rows] == ["new"]


async def test_what_could_never_end_well_is_refused_when_it_is_counted(
    redis_url: str, hub_database: HubDatabase
) -> None:
    async with studio(redis_url, hub_database, content_session_s=12, content_max_chunks=100) as house:
        client = await house.client()
        editor = await house.watch("too-slow")
        asked = {"content": PAGE, "chunk_by": "word", "speed": "slow", "stream": "too-slow"}
        with pytest.raises(RequestRefused, match="higher 'speed'") as refused:
            await client.call("content.start", asked)
        assert refused.value.code == "too_large"
        result = await editor.ended()
        assert (result["state"], result["code"], result["retry"]) == ("failed", "too_large", "never")
        assert "higher 'speed'" in result["message"]

        editor = await house.watch("too-long")
        asked = {"content": PAGE * 4, "chunk_by": "word", "speed": "superfast", "stream": "too-long"}
        with pytest.raises(RequestRefused, match="'chunk_by'") as refused:
            await client.call("content.start", asked)
        assert refused.value.code == "too_large"
        assert (await editor.ended())["code"] == "too_large"
        assert len(editor.chunks) < 100
        whole = await client.call("content.start", asked | {"chunk_by": "paragraph", "stream": "whole"})
        assert whole["chunks"] <= 100


async def test_what_comes_from_the_cache_or_is_replayed_is_as_complex_as_its_source(house: Studio) -> None:
    client = await house.client()
    source = "<p>" + "".join(f"<blink><x-y><marquee>{n} words</marquee></x-y></blink> " for n in range(30)) + "</p>"
    asked = {"content": source, "content_type": "html", "speed": "superfast", "chunk_by": "paragraph"}
    first = await client.call("content.start", asked)
    again = await client.call("content.start", asked)
    editor = await house.watch(again["stream"])
    result = await editor.ended()
    assert (first["cached"], again["cached"]) == (False, True)
    assert Pipeline().restore(sanitised(source, "html")).complexity != first["complexity"]
    assert again["complexity"] == result["complexity"] == first["complexity"]

    async def over() -> bool:
        return bool((await client.call("content.get", {"stream": again["stream"]}))["complexity"])

    await until(over, what="the end to be stored")
    replayed = await client.call("content.replay", {"stream": again["stream"], "speed": "superfast"})
    assert replayed["complexity"] == first["complexity"]
