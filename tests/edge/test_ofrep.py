"""The OpenFeature Remote Evaluation Protocol, driven as a browser's provider drives it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from hub.embedded import PostgresServer, RedisServer
from hub.nodes.flags.store import Change
from tests.edge.http_hub import HttpHub, running_hub
from tests.support.hub_database import HubDatabase, empty_database
from tests.support.waiting import until

BULK = "/ofrep/v1/evaluate/flags"
FILE = """
flags:
  chat: {rollout: 0, allow: {users: [ann], orgs: [globex]}, owner: chat, description: Rooms., expires: 2099-01-01}
  colour:
    state: ENABLED
    variants: {red: "#f00", blue: "#00f"}
    defaultVariant: red
    targeting: {if: [{"==": [{var: plan}, "gold"]}, blue, null]}
  limits: {state: ENABLED, variants: {few: {rooms: 3}}, defaultVariant: few}
  rule: {rollout: 0, targeting: {if: [{">": [{"/": [{var: part}, {var: of}]}, 1]}, "on", "off"]}}
  undecided: {state: ENABLED, variants: {a: 1, b: 2}, defaultVariant: null}
"""


@pytest.fixture(scope="module")
def flags_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("flags") / "flags.yaml"
    file.write_text(FILE)
    return file


@pytest.fixture(scope="module")
async def ofrep_hub(
    redis_server: RedisServer, postgres_server: PostgresServer, migrated_template: HubDatabase, flags_file: Path
) -> AsyncIterator[HttpHub]:
    async with empty_database(postgres_server, migrated_template.name) as database:
        settings = database.settings(redis_url=redis_server.url, database_relay_url="", flags_file=str(flags_file))
        async with running_hub(settings) as hub:
            yield hub


class Provider:
    """What a browser's provider keeps: the flags by key, and the tag of the answer."""

    def __init__(self, hub: HttpHub, user: str, org: str = "acme") -> None:
        self._client = hub.client
        self._headers = hub.headers(user, org, scope="")
        self._tag = ""
        self.flags: dict[str, dict[str, Any]] = {}

    async def poll(self, **context: Any) -> int:
        """One look; answers with the status."""
        headers = self._headers | ({"If-None-Match": self._tag} if self._tag else {})
        answer = await self._client.post(BULK, headers=headers, json={"context": context})
        if answer.status_code == 304:
            assert answer.content == b""
            assert answer.headers["etag"] == self._tag
        else:
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == "application/json"
            self._tag = answer.headers["etag"]
            self.flags = {flag["key"]: flag for flag in answer.json()["flags"]}
        return answer.status_code

    async def one(self, key: str, body: Any = None, **how: Any) -> httpx.Response:
        """A single flag, as a server's provider asks."""
        if body is not None:
            how["json"] = body
        return await self._client.post(f"{BULK}/{key}", headers=self._headers | how.pop("headers", {}), **how)


async def test_a_provider_polls(ofrep_hub: HttpHub) -> None:
    page = Provider(ofrep_hub, "bob")
    assert await page.poll(targetingKey="bob") == 200
    assert set(page.flags) == {"chat", "colour", "limits", "rule", "undecided"}
    assert (page.flags["chat"]["value"], page.flags["chat"]["variant"], page.flags["chat"]["reason"]) == (
        False,
        "off",
        "DEFAULT",
    )
    assert page.flags["colour"]["value"] == "#f00"
    assert page.flags["limits"]["value"] == {"rooms": 3}
    assert "value" not in page.flags["undecided"], "the default of whoever asks counts"
    assert await page.poll(targetingKey="bob") == 304
    assert await page.poll(targetingKey="bob", plan="gold") == 200
    assert (page.flags["colour"]["value"], page.flags["colour"]["reason"]) == ("#00f", "TARGETING_MATCH")
    assert await page.poll(targetingKey="bob", plan="gold") == 304
    await ofrep_hub.gateway.board.change([Change("chat", state="on")], "acme/olga", "")
    assert await page.poll(targetingKey="bob", plan="gold") == 200
    assert page.flags["chat"]["value"] is True
    await ofrep_hub.gateway.board.change([Change("chat", clear=True)], "acme/olga", "")


@pytest.mark.parametrize("tag", ["*", "W/{}", '"other", {}', '"other",W/{} , "more"'])
async def test_every_form_of_if_none_match(ofrep_hub: HttpHub, tag: str) -> None:
    headers = ofrep_hub.headers()
    there = (await ofrep_hub.client.post(BULK, headers=headers)).headers["etag"]
    answer = await ofrep_hub.client.post(BULK, headers={**headers, "If-None-Match": tag.format(there)})
    assert answer.status_code == 304


async def test_who_it_is_says_the_token(ofrep_hub: HttpHub) -> None:
    bob, ann, carol = Provider(ofrep_hub, "bob"), Provider(ofrep_hub, "ann"), Provider(ofrep_hub, "carol", "globex")
    claims = {"targetingKey": "ann", "user": "ann", "org": "globex", "sub": "ann", "$flagd": {"flagKey": "x"}}
    for provider, on in ((bob, False), (ann, True), (carol, True)):
        await provider.poll(**claims)
        assert provider.flags["chat"]["value"] is on
        single = (await provider.one("chat", {"context": claims})).json()
        assert single == provider.flags["chat"]


async def test_single_flags(ofrep_hub: HttpHub) -> None:
    bob = Provider(ofrep_hub, "bob")
    answer = await bob.one("colour")
    assert (answer.status_code, answer.json()["key"], answer.json()["value"]) == (200, "colour", "#f00")
    assert answer.json()["metadata"]["version"] == ofrep_hub.gateway.board.version
    assert (await bob.one("chat")).json()["metadata"] == {
        "owner": "chat",
        "description": "Rooms.",
        "expires": "2099-01-01",
        "version": ofrep_hub.gateway.board.version,
    }
    missing = await bob.one("no-such-flag", {})
    assert (missing.status_code, missing.json()) == (
        404,
        {"errorCode": "FLAG_NOT_FOUND", "key": "no-such-flag", "errorDetails": "no such flag"},
    )


async def test_a_rule_that_fails_tells_clients_no_more_than_that(ofrep_hub: HttpHub) -> None:
    failed = await Provider(ofrep_hub, "bob").one("rule", {"context": {"part": 1, "of": 0}})
    assert (failed.status_code, failed.json()) == (
        400,
        {"errorCode": "GENERAL", "key": "rule", "errorDetails": "the rule failed"},
    )


@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        (b"{", "PARSE_ERROR", 400),
        (b"\xff", "PARSE_ERROR", 400),
        (b'{"context": ' + b"[" * 5000, "PARSE_ERROR", 400),
        (b"[]", "INVALID_CONTEXT", 400),
        (b'{"context": 5}', "INVALID_CONTEXT", 400),
        (b'{"context": {%s}}' % b",".join(b'"a%d": 1' % n for n in range(101)), "INVALID_CONTEXT", 400),
        (b'{"context": {"a": "%s"}}' % (b"x" * 20_000), "GENERAL", 413),
    ],
)
async def test_bad_bodies(ofrep_hub: HttpHub, body: bytes, code: str, status: int) -> None:
    for path in (BULK, f"{BULK}/chat"):
        headers = ofrep_hub.headers() | {"Content-Type": "application/json"}
        answer = await ofrep_hub.client.post(path, headers=headers, content=body)
        assert (answer.status_code, answer.json()["errorCode"]) == (status, code), answer.text
        assert answer.json().get("key") == ("chat" if path.endswith("chat") else None)


async def test_what_no_rule_looks_into_is_left_out(ofrep_hub: HttpHub) -> None:
    bob = Provider(ofrep_hub, "bob")
    strange = {"plan": {"==": ["gold"]}, "list": [1, {"a": None}], "none": None, "big": 10**30, "😀": "😀", "": ""}
    assert await bob.poll(**strange) == 200
    assert bob.flags["colour"]["value"] == "#f00"


async def test_strangers(ofrep_hub: HttpHub) -> None:
    for path in (BULK, f"{BULK}/chat"):
        answer = await ofrep_hub.client.post(path)
        assert (answer.status_code, answer.json()["errorCode"]) == (401, "GENERAL")
        assert answer.headers["www-authenticate"] == 'Bearer realm="hub"'
        assert "Authorization: Bearer" in answer.json()["errorDetails"]
    listed = await ofrep_hub.client.get("/v1/flags", headers=ofrep_hub.headers(scope=""))
    assert listed.status_code == 403, "to have one's own decided is no right to see them all"


async def test_who_asks_too_often_is_told_when_to_come_back(
    ofrep_hub: HttpHub, redis_server: RedisServer, flags_file: Path
) -> None:
    settings = ofrep_hub.gateway.settings
    few = msgspec.structs.replace(settings, node="few", messages_per_second=1, messages_burst=2)
    async with running_hub(few) as hub:
        for path, key in ((BULK, None), (f"{BULK}/chat", "chat")):

            async def too_often(path: str = path) -> httpx.Response | None:
                answer = await hub.client.post(path, headers=hub.headers("bob"))
                return answer if answer.status_code == 429 else None

            refused = await until(too_often, what="to be refused")
            assert refused.headers["retry-after"] == "1"
            assert (refused.json()["errorCode"], refused.json().get("key")) == ("GENERAL", key)
        assert await Provider(hub, "ann").poll() == 200
