"""/v1/flags: for operators alone, strict about what it is sent, and honest about what is there."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.edge.http_hub import HttpHub, assert_problem

SCOPE = "flags:write"
_users = itertools.count(1)


@pytest.fixture
async def operator(http_hub: HttpHub) -> AsyncIterator[Operator]:
    made = Operator(http_hub)
    yield made
    changed = [flag["flag"] for flag in (await made.get("")).json()["flags"] if "override" in flag]
    if changed:
        await made.patch("", {"changes": [{"flag": flag, "clear": True} for flag in changed]})


class Operator:
    """Somebody with the scope, in an organisation like any other."""

    def __init__(self, hub: HttpHub) -> None:
        self.user = f"olga{next(_users)}"
        self._client = hub.client
        self._headers = hub.headers(self.user, "acme", SCOPE)

    async def get(self, path: str, **params: Any) -> httpx.Response:
        return await self._client.get(f"/v1/flags{path}", headers=self._headers, params=params)

    async def patch(self, path: str, body: Any) -> httpx.Response:
        return await self._client.patch(f"/v1/flags{path}", headers=self._headers, json=body)


async def test_only_for_the_scope(http_hub: HttpHub) -> None:
    for scope in (None, "", "subscribe:* publish:* call:* admin", "flags:read"):
        headers = http_hub.headers("u1", "acme", scope)
        for path in ("", "/chat", "/no-such-flag", "/audit"):
            answer = await http_hub.client.get(f"/v1/flags{path}", headers=headers)
            assert_problem(answer, "forbidden", says="flags:write")
        for path in ("", "/chat", "/no-such-flag"):
            answer = await http_hub.client.patch(f"/v1/flags{path}", headers=headers, json={"state": "off"})
            assert_problem(answer, "forbidden", says="flags:write")


@pytest.mark.parametrize("why", ["\x1b[2J", "a\nb", "\x9b", "\x7f"])
async def test_a_reason_is_one_line_that_can_be_read(operator: Operator, why: str) -> None:
    assert_problem(await operator.patch("/chat", {"state": "off", "why": why}), "bad_request", says="why")


async def test_steps_of_a_percentage(operator: Operator) -> None:
    for percent in (1e-10, 12.34567, 0.0005):
        assert_problem(await operator.patch("/chat", {"percent": percent}), "bad_request", says="3 decimals")
    for percent in (0.001, 12.345, 99.999, 33.333):
        changed = (await operator.patch("/chat", {"percent": percent})).json()
        assert changed["changes"][0]["override"]["percent"] == percent


async def test_what_the_file_says_beside_the_value(operator: Operator) -> None:
    explained = (await operator.get("/chat")).json()
    assert explained["metadata"]["owner"] == explained["flag"]["owner"]


async def test_all_flags(operator: Operator) -> None:
    answer = (await operator.get("")).json()
    flags = {flag["flag"]: flag for flag in answer["flags"]}
    assert {"realtime_v2", "chat", "uploads"} <= set(flags)
    assert flags["chat"]["now"] == {"by": "file", "percent": 100.0}
    assert flags["chat"]["owner"]
    assert answer["orphans"] == []
    assert "problem" not in answer["file"]


async def test_a_change_and_its_record(operator: Operator) -> None:
    changed = await operator.patch("/chat", {"percent": 12.5, "why": "a try"})
    assert changed.status_code == 200
    override = changed.json()["changes"][0]["override"]
    assert (override["percent"], override["who"], override["why"]) == (12.5, f"acme/{operator.user}", "a try")
    explained = (await operator.get("/chat", user="ann", org="acme")).json()
    assert explained["flag"]["now"] == {"by": "override", "percent": 12.5}
    assert (explained["rule"], explained["reason"], explained["version"]) == (
        "rollout",
        "SPLIT",
        changed.json()["version"],
    )
    rows = (await operator.get("/audit", flag="chat", limit=1)).json()
    (row,) = rows["changes"]
    assert (row["from"], row["to"], row["kind"], row["version"]) == (
        None,
        {"percent": 12.5},
        "override",
        override["version"],
    )
    assert rows["next"] == row["version"]
    assert (await operator.patch("/chat", {"clear": True})).json()["changes"] == [{"flag": "chat", "override": None}]
    both = (await operator.get("/audit", flag="chat", limit=2)).json()["changes"]
    assert [row["kind"] for row in both] == ["clear", "override"]
    older = (await operator.get("/audit", flag="chat", before=row["version"])).json()
    assert all(one["version"] < row["version"] for one in older["changes"])


async def test_a_list_is_all_or_nothing(operator: Operator) -> None:
    changes = [{"flag": "uploads", "state": "off"}, {"flag": "no-such-flag", "state": "off"}]
    answer = await operator.patch("", {"changes": changes})
    body = assert_problem(answer, "not_found", says="no flag 'no-such-flag'; there are analytics_realtime_v2")
    assert "chat" in body["detail"]
    assert "override" not in (await operator.get("/uploads")).json()["flag"]
    answer = await operator.patch(
        "", {"changes": [{"flag": "uploads", "state": "off"}, {"flag": "chat", "percent": 0}]}
    )
    assert [one["flag"] for one in answer.json()["changes"]] == ["uploads", "chat"]
    assert (await operator.get("/uploads")).json()["value"] is False


async def test_of_two_who_have_seen_the_same_one_wins(operator: Operator) -> None:
    answers = await asyncio.gather(*(operator.patch("/chat", {"percent": n, "if_version": 0}) for n in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    version = (await operator.get("/chat")).json()["flag"]["override"]["version"]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert assert_problem(refused, "conflict")["details"] == {"versions": {"chat": version}}
    assert (await operator.patch("/chat", {"state": "on", "if_version": version})).status_code == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"changes": []}, "length >= 1"),
        ({"changes": [{"flag": "chat", "state": "off"}] * 101}, "length <= 100"),
        ({"changes": [{"flag": "chat", "state": "off"}, {"flag": "chat", "state": "on"}]}, "names a flag twice"),
        ({"changes": [{"flag": "chat"}]}, "needs one of 'state'"),
        ({"changes": [{"flag": "chat", "state": "on", "percent": 1}]}, "needs one of 'state'"),
        ({"changes": [{"flag": "chat", "state": "maybe"}]}, "Invalid enum value 'maybe'"),
        ({"changes": [{"flag": "chat", "percent": 101}]}, "<= 100"),
        ({"changes": [{"flag": "chat", "percent": -0.001}]}, ">= 0"),
        ({"changes": [{"flag": "chat", "percent": 0.0001}]}, "more than 3 decimals"),
        ({"changes": [{"flag": "chat", "state": "off", "if_versoin": 1}]}, "unknown field `if_versoin`"),
        ({"changes": [{"flag": "chat", "state": "off"}], "why": "x" * 501}, "length <= 500"),
        ({"changes": [{"flag": "chat", "state": "off"}], "why": "\x00"}, "regex"),
        ([], "Expected `object`"),
    ],
)
async def test_bad_input(operator: Operator, body: Any, says: str) -> None:
    assert_problem(await operator.patch("", body), "bad_request", says=says)
    assert "override" not in (await operator.get("/chat")).json()["flag"]


async def test_bad_questions(operator: Operator) -> None:
    assert_problem(await operator.get("/audit", limit=1001), "bad_request")
    assert_problem(await operator.get("/audit", limit=0), "bad_request")
    assert_problem(await operator.get("/audit", before="x"), "bad_request")
    assert_problem(await operator.get("/audit", flag="a\x00b"), "bad_request")
    assert (await operator.get("/audit", flag="no-such-flag")).json() == {"changes": [], "next": None}
    assert_problem(await operator.get("/a%00b"), "not_found")
    assert_problem(await operator.get("/" + "x" * 5000), "not_found")
    assert_problem(await operator.patch("/a%00b", {"clear": True}), "not_found")


async def test_a_page_may_send_and_read_what_it_needs(http_hub: HttpHub) -> None:
    origin = {"Origin": "https://app.example"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,if-none-match"}
    answer = await http_hub.client.options("/ofrep/v1/evaluate/flags", headers=origin | asked)
    assert answer.status_code == 204
    assert "if-none-match" in answer.headers["access-control-allow-headers"].lower()
    answer = await http_hub.client.post("/ofrep/v1/evaluate/flags", headers=http_hub.headers() | origin)
    assert "etag" in answer.headers["access-control-expose-headers"].lower()
