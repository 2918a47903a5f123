"""GET /v1/topics/{topic}/events: pages, gaps, permission, and bad questions."""

from __future__ import annotations

from typing import Any

import pytest

from hub.fanout.broker import HistoryPage, TopicState
from hub.orgs import OrgId
from hub.topics.topic import Topic, user_key
from tests.edge.http_hub import HttpHub, assert_problem


async def fill(hub: HttpHub, topic: str, count: int) -> str:
    """Publishes 0, 1, 2 …; returns the epoch."""
    epoch = ""
    for start in range(0, count, 50):
        numbers = range(start, min(count, start + 50))
        answer = await hub.post("/v1/publish", json=[{"topic": topic, "name": "n", "data": i} for i in numbers])
        epoch = answer.json()[-1]["epoch"]
    return epoch


def numbers(page: dict[str, Any]) -> list[int]:
    return [event["seq"] for event in page["events"]]


async def test_a_page_at_a_time(http_hub: HttpHub) -> None:
    epoch = await fill(http_hub, "events:h1", 45)
    seen: list[Any] = []
    since, pages = "start", 0
    while True:
        page = await http_hub.events("events:h1", since=since)
        assert (page["topic"], page["epoch"], page["seq"], page["recovered"]) == ("events:h1", epoch, 45, True)
        assert "gaps" not in page
        seen += page["events"]
        since, pages = page["next"], pages + 1
        if not page["more"]:
            break
    assert pages == 3
    assert [event["seq"] for event in seen] == list(range(1, 46))
    assert [event["data"] for event in seen] == list(range(45))
    first = seen[0]
    assert {"type", "topic", "seq", "ts", "id", "name", "data", "by"} == set(first)
    assert (first["type"], first["topic"]) == ("event", "events:h1")
    last = await http_hub.events("events:h1", since=since)
    assert (numbers(last), last["more"], last["next"]) == ([], False, f"{epoch}:45")


async def test_last_and_limit(http_hub: HttpHub) -> None:
    epoch = await fill(http_hub, "events:h2", 10)
    assert numbers(await http_hub.events("events:h2", last=3)) == [8, 9, 10]
    assert numbers(await http_hub.events("events:h2", last=0)) == []
    assert numbers(await http_hub.events("events:h2", last=10**15)) == list(range(1, 11))
    page = await http_hub.events("events:h2", last=5, limit=2)
    assert (numbers(page), page["more"], page["next"]) == ([6, 7], True, f"{epoch}:7")
    assert numbers(await http_hub.events("events:h2", since=f"{epoch}:8", limit=1)) == [9]


async def test_what_is_no_longer_kept_is_told(http_hub: HttpHub) -> None:
    epoch = await fill(http_hub, "short:h3", 8)
    page = await http_hub.events("short:h3", since=f"{epoch}:2")
    kept = numbers(page)
    assert kept
    assert kept[0] > 3
    gap = {"type": "gap", "topic": "short:h3", "epoch": epoch, "reason": "expired", "from": 3, "to": kept[0] - 1}
    assert page["gaps"] == [gap]
    assert page["recovered"] is False
    assert "gaps" not in await http_hub.events("short:h3"), "from the start nothing is missing"


async def test_another_epoch(http_hub: HttpHub) -> None:
    epoch = await fill(http_hub, "events:h4", 3)
    for since in ("other:2", f"{epoch}:4", ":1"):
        page = await http_hub.events("events:h4", since=since)
        assert page["gaps"] == [{"type": "gap", "topic": "events:h4", "epoch": epoch, "reason": "epoch_changed"}]
        assert (numbers(page), page["recovered"]) == ([1, 2, 3], False)


async def test_a_topic_that_never_had_an_event_has_an_epoch(http_hub: HttpHub) -> None:
    page = await http_hub.events("events:h5")
    assert (page["events"], page["seq"], page["recovered"], page["more"]) == ([], 0, True, False)
    assert page["epoch"] == (await http_hub.publish("events:h5"))["epoch"]
    assert numbers(await http_hub.events("events:h5", since=page["next"])) == [1]


async def test_a_kind_without_history_is_empty(http_hub: HttpHub) -> None:
    await http_hub.publish("clicks:h6")
    page = await http_hub.events("clicks:h6", since="k:3")
    wanted = {"topic": "clicks:h6", "epoch": "", "seq": 0, "events": [], "recovered": True, "more": False, "next": ":0"}
    assert page == wanted
    assert await http_hub.events("clicks:h6", since=page["next"]) == wanted


@pytest.mark.parametrize("limit", [1, 20])
async def test_nobody_sees_what_was_before_their_time(http_hub: HttpHub, limit: int) -> None:
    topic = f"late:h7-{limit}-30"
    epoch = await fill(http_hub, topic, 35)
    from_start = await http_hub.events(topic, limit=limit)
    assert numbers(from_start) == list(range(30, 36))[:limit]
    assert from_start["recovered"] is True
    since = await http_hub.events(topic, since=f"{epoch}:10", limit=limit)
    # The page that was read may begin before what may be seen, and is then shorter.
    assert numbers(since)[0] == 30
    assert since["more"] is True
    assert since["gaps"] == [
        {"type": "gap", "topic": topic, "epoch": epoch, "reason": "not_permitted", "from": 11, "to": 29}
    ]
    assert numbers(await http_hub.events(topic, since=since["next"], limit=1)) == [numbers(since)[-1] + 1]
    assert numbers(await http_hub.events(topic, last=30, limit=limit)) == list(range(30, 36))[:limit]
    assert numbers(await http_hub.events(topic, since="other:1", limit=limit)) == list(range(30, 36))[:limit]


async def test_permitted_only_from_the_future_on(http_hub: HttpHub) -> None:
    epoch = await fill(http_hub, "late:h8-100", 5)
    page = await http_hub.events("late:h8-100")
    assert (numbers(page), page["more"], page["next"]) == ([], False, f"{epoch}:5")


async def test_ones_own_inbox(http_hub: HttpHub) -> None:
    strange = "anna@example.com"
    await http_hub.publish(f"user:{user_key(strange)}", data="for anna")
    page = (await http_hub.get("/v1/topics/user:me/events", strange)).json()
    assert page["topic"] == "user:me"
    assert [(event["topic"], event["data"]) for event in page["events"]] == [("user:me", "for anna")]
    assert (await http_hub.events("user:me"))["events"] == []
    own_name = await http_hub.get(f"/v1/topics/user:{user_key(strange)}/events", strange)
    assert_problem(own_name, "not_found")


async def test_foreign_hidden_and_missing_give_the_same_answer(http_hub: HttpHub) -> None:
    await http_hub.publish("room:u1-u2", data="secret")
    answers = [
        await http_hub.get("/v1/topics/room:u1-u2/events", "stranger"),
        await http_hub.get("/v1/topics/room:none-such/events", "stranger"),
        await http_hub.get("/v1/topics/nosuch:u1/events", "stranger"),
        await http_hub.get("/v1/topics/user:u1/events", "stranger"),
        await http_hub.get("/v1/topics/not%20a%20topic/events", "stranger"),
        await http_hub.get("/v1/topics/events:%FF/events", "stranger"),
        await http_hub.client.get("/v1/topics/events:x/events", headers=http_hub.headers(scope="publish:*")),
    ]
    for answer in answers:
        assert_problem(answer, "not_found")
        assert answer.content == answers[0].content
    other_org = await http_hub.get("/v1/topics/room:u1-u2/events", "u1", "globex")
    assert other_org.json()["events"] == []


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("since=x", "'since'"),
        ("since=k:-1", "'since'"),
        ("since=k:1:2", "'since'"),
        ("since=k:9999999999999999", "'since'"),
        ("since=k:1%0A", "'since'"),
        ("since=%FF:1", ""),
        ("since=", "'since'"),
        ("since=start&last=1", "not both"),
        ("last=-1", "last"),
        ("last=x", "last"),
        ("last=1.5", "last"),
        ("limit=0", "limit"),
        ("limit=21", "'limit' may be 20 at most"),
        ("limit=x", "limit"),
        ("limit=", "limit"),
    ],
)
async def test_bad_questions(http_hub: HttpHub, query: str, says: str) -> None:
    answer = await http_hub.get(f"/v1/topics/events:h9/events?{query}")
    if query == "since=%FF:1":
        assert answer.json()["recovered"] is False, "an epoch like any other that is not the topic's"
        return
    body = assert_problem(answer, "bad_request", says=says)
    assert "127.0.0.1" not in answer.text
    if "fields" in body.get("details", {}):
        assert body["details"]["fields"][0]["in"] == "query"


async def test_the_second_read_is_judged_anew(http_hub: HttpHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """History went on between the two reads of a page that begins beyond what was read first."""
    topic = "late:h10-30"
    await fill(http_hub, topic, 35)
    real, reads = http_hub.gateway.broker.read, []

    async def trimmed_meanwhile(requests: Any) -> Any:
        (page,) = await real(requests)
        reads.append(page)
        if len(reads) == 1 or not isinstance(page, HistoryPage):
            return [page]
        state = page.state
        state = TopicState(state.epoch, state.top, 33, state.previous_epoch, state.base, state.server)
        return [HistoryPage(state, tuple(item for item in page.publications if item.seq >= 33), page.more)]

    monkeypatch.setattr(http_hub.gateway.broker, "read", trimmed_meanwhile)
    page = await http_hub.events(topic, limit=20)
    assert len(reads) == 2
    assert numbers(page) == [33, 34, 35]
    assert [(gap["reason"], gap["from"], gap["to"]) for gap in page["gaps"]] == [("expired", 30, 32)]
    assert page["recovered"] is False


def test_the_inbox_of_a_plain_name_is_that_name() -> None:
    assert Topic(OrgId.from_claim("acme"), "user", user_key("u1")).text == "user:u1"
