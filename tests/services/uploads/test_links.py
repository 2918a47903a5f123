"""Signed links: who has one may read one document for a while, and nothing else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest

from hub.api import ConfigError, HubError, OrgId, Principal
from hub.config import Settings
from services.uploads.links import Links
from tests.edge.http_hub import assert_problem
from tests.services.uploads.depot import Depot, some_text
from tests.services.uploads.shelved import available
from tests.services.uploads.tus_client import TusClient, tus
from tests.support.running_hub import SECRET, hub_settings

MANY = some_text(100_000)
UPLOAD = "01M7WXG57TY007GHZEK5EPMFJC"
ADA = Principal("ada", OrgId.from_claim("acme"), (), 0.0)


def settings(**changes: Any) -> Settings:
    return hub_settings("redis://nowhere", **changes)


def link_of(url: str) -> str:
    (link,) = parse_qs(urlsplit(url).query)["link"]
    return link


def test_a_link_says_what_it_is_for_and_until_when() -> None:
    now = 1_800_000_000.0
    links = Links(settings(uploads_link_s=100, uploads_link_max_s=1000), clock=lambda: now)
    url, expires_at = links.make(ADA, UPLOAD, None)
    assert expires_at == (now + 100) * 1000
    grant = links.read(link_of(url))
    assert (grant.org, grant.user, grant.upload) == ("acme", "ada", UPLOAD)
    assert links.make(ADA, UPLOAD, 5)[1] == (now + 5) * 1000
    assert links.make(ADA, UPLOAD, 10**9)[1] == (now + 1000) * 1000
    now += 99
    links.read(link_of(url))
    now += 1
    with pytest.raises(HubError, match="expired"):
        links.read(link_of(url))


def test_links_that_nobody_made() -> None:
    links, others = Links(settings()), Links(settings(uploads_link_secret="x" * 32))
    good = link_of(links.make(ADA, UPLOAD, None)[0])
    head, body, signature = good.split(".")
    claims = jwt.decode(good, options={"verify_signature": False})
    token = {**claims, "aud": "hub"}
    for bad in (
        "",
        "nonsense",
        f"{head}.{body}.",
        f"{head}.{body[:-4]}AAAA.{signature}",
        good + "x",
        link_of(others.make(ADA, UPLOAD, None)[0]),
        jwt.encode(claims, SECRET, algorithm="HS256"),
        jwt.encode(token, SECRET, algorithm="HS256"),
        jwt.encode(claims, "", algorithm="none"),
        "x" * 100_000,
    ):
        with pytest.raises(HubError, match="not valid") as refused:
            links.read(bad)
        assert refused.value.code == "forbidden"


def test_the_secret() -> None:
    with pytest.raises(ConfigError, match="HUB_UPLOADS_LINK_SECRET"):
        Links(settings(uploads_link_secret="too short"))
    keyless = Links(settings(jwt_secret="", jwks_url="https://issuer.example/keys"))
    with pytest.raises(HubError, match="HUB_UPLOADS_LINK_SECRET"):
        keyless.make(ADA, UPLOAD, None)


@pytest.fixture
async def ada(house: Depot) -> AsyncIterator[TusClient]:
    client = tus(house)
    async with client.http:
        yield client


async def test_a_link_instead_of_a_token(ada: TusClient, house: Depot) -> None:
    url = await available(ada, MANY)
    made = await ada.http.post(url + "/links", json={"expires_s": 60})
    assert made.status_code == 200, made.text
    body = made.json()
    assert abs(body["expires_at"] - (time.time() + 60) * 1000) < 10_000
    by_method = await (await house.person()).call("link", upload=url.rpartition("/")[2])
    async with httpx.AsyncClient(base_url=house.nodes[0].http_url) as nobody:
        for link in (body["url"], by_method["url"]):
            answer = await nobody.get(link, headers={"Range": "bytes=10-19"})
            assert (answer.status_code, answer.content) == (206, MANY[10:20])
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert answer.headers["content-disposition"].startswith("attachment")
        assert (await nobody.head(body["url"])).headers["content-length"] == str(len(MANY))
        assert_problem(await nobody.get("/v1/upload-links/content"), "bad_request")
        token = house.nodes[0].token("acme", "ada")
        assert_problem(await nobody.get("/v1/upload-links/content", params={"link": token}), "forbidden")
        assert_problem(await nobody.get(body["url"][:-2] + "xx"), "forbidden")
        as_token = {"Authorization": f"Bearer {link_of(body['url'])}"}
        assert_problem(await nobody.get(url, headers=as_token), "unauthenticated")
        assert (await ada.ask("DELETE", url)).status_code == 204
        assert_problem(await nobody.get(body["url"]), "conflict")
    assert link_of(body["url"]) not in str(list(house.nodes[0].logs.entries)), "links are not logged"


async def test_who_gets_a_link(ada: TusClient, house: Depot) -> None:
    url = await available(ada, MANY)
    receiving = await ada.create(10)
    stranger, weak = tus(house, "grace"), tus(house, scope="subscribe:* call:upload.status")
    async with stranger.http, weak.http:
        assert_problem(await stranger.http.post(url + "/links"), "not_found")
        assert_problem(await weak.http.post(url + "/links"), "forbidden")
    assert_problem(await ada.http.post(receiving + "/links"), "conflict")
    assert_problem(await ada.http.post(url + "/links", json={"expires_s": 0}), "bad_request")
    assert (await ada.http.post(url + "/links")).status_code == 200
