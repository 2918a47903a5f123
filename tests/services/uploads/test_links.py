"""Signed links: who has one may read one document for a while, and nothing else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import msgspec
import pytest

from hub.api import ConfigError, HubError, OrgId, Principal
from hub.config import Settings
from services.uploads.links import Links
from services.uploads.shapes import State, Upload
from tests.edge.http_hub import assert_problem
from tests.services.uploads.depot import Depot, depot, some_text
from tests.services.uploads.shelved import available, checked
from tests.services.uploads.tus_client import GUESTS, TusClient, tus
from tests.support.hub_database import HubDatabase
from tests.support.running_hub import SECRET, hub_settings
from tests.support.waiting import until

MANY = some_text(100_000)
UPLOAD = "01M7WXG57TY007GHZEK5EPMFJC"
ADA = Principal("ada", OrgId.from_claim("acme"), (), 0.0, 1_700_000_000.5)


def settings(**changes: Any) -> Settings:
    return hub_settings("redis://nowhere", **changes)


def uploaded(owner: str = "ada") -> Upload:
    return Upload(
        id=UPLOAD, org=ADA.org, owner=owner, owner_name="", state=State.AVAILABLE, filename="a.csv",
        document_type="csv", size=1, offset=1, paused=False, partial=False, writer=None, metadata={}, shares=(),
        sha256_wanted=None, sha256=None, media_type=None, facts=None, error_code=None, error_message=None, attempts=0,
        created_at=0, expires_at=None, finished_at=None,
    )  # fmt: skip


def link_of(url: str) -> str:
    (link,) = parse_qs(urlsplit(url).query)["link"]
    return link


def forged(url: str) -> str:
    """With one bit of its signature changed. Not at its end, where some bits of the last letter mean nothing."""
    return url[:-10] + ("x" if url[-10] != "x" else "y") + url[-9:]


def anybody(house: Depot) -> httpx.AsyncClient:
    """Without a token; to be entered."""
    return httpx.AsyncClient(base_url=house.nodes[0].http_url, timeout=30.0)


def test_a_link_says_what_it_is_for_and_until_when() -> None:
    now = 1_800_000_000.0
    links = Links(settings(uploads_link_s=100, uploads_link_max_s=1000, uploads_link_reader_s=50), clock=lambda: now)
    url, expires_at = links.make(ADA, uploaded(), None)
    assert expires_at == (now + 100) * 1000
    grant = links.read(link_of(url))
    assert (grant.maker, grant.upload) == (msgspec.structs.replace(ADA, expires_at=now + 100), UPLOAD)
    assert links.make(ADA, uploaded(), 5)[1] == (now + 5) * 1000
    assert links.make(ADA, uploaded(), 10**9)[1] == (now + 1000) * 1000
    assert links.make(ADA, uploaded("grace"), 900)[1] == (now + 50) * 1000
    brief = Links(settings(token_max_life_s=60), clock=lambda: now)
    assert brief.make(ADA, uploaded(), 900)[1] == (now + 60) * 1000, "then it is forgotten who was thrown out"
    now += 99
    links.read(link_of(url))
    now += 1
    with pytest.raises(HubError, match="expired"):
        links.read(link_of(url))


def test_links_that_nobody_made() -> None:
    links, others = Links(settings()), Links(settings(uploads_link_secret="x" * 32))
    good = link_of(links.make(ADA, uploaded(), None)[0])
    head, body, signature = good.split(".")
    claims = jwt.decode(good, options={"verify_signature": False})
    token = {**claims, "aud": "hub"}
    for bad in (
        "",
        "nonsense",
        f"{head}.{body}.",
        f"{head}.{body[:-4]}AAAA.{signature}",
        good + "x",
        link_of(others.make(ADA, uploaded(), None)[0]),
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
        keyless.make(ADA, uploaded(), None)


@pytest.fixture
async def ada(house: Depot) -> AsyncIterator[TusClient]:
    client = tus(house)
    async with client.http:
        yield client


async def test_a_link_instead_of_a_token(ada: TusClient, house: Depot) -> None:
    url = await available(ada, MANY)
    before = int(time.time())
    made = await ada.http.post(url + "/links", json={"expires_s": 60})
    assert made.status_code == 200, made.text
    body = made.json()
    assert before + 60 <= body["expires_at"] / 1000 <= time.time() + 60
    by_method = await (await house.person()).call("link", upload=url.rpartition("/")[2])
    async with anybody(house) as nobody:
        for link in (body["url"], by_method["url"]):
            answer = await nobody.get(link, headers={"Range": "bytes=10-19"})
            assert (answer.status_code, answer.content) == (206, MANY[10:20])
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        assert answer.headers["content-disposition"].startswith("attachment")
        assert (await nobody.head(body["url"])).headers["content-length"] == str(len(MANY))
        assert_problem(await nobody.get("/v1/upload-links/content"), "bad_request")
        token = house.nodes[0].token("acme", "ada")
        assert_problem(await nobody.get("/v1/upload-links/content", params={"link": token}), "forbidden")
        assert_problem(await nobody.get(forged(body["url"])), "forbidden")
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


async def test_a_link_ends_with_what_its_maker_may(ada: TusClient, house: Depot) -> None:
    url = await ada.create(len(MANY), GUESTS | {"shares": "events:guest"})
    assert (await ada.patch(url, 0, MANY)).status_code == 204
    await checked(ada, url)
    reader, auditor, admin = (
        tus(house, "grace"),
        tus(house, "eve", scope="uploads:read subscribe:upload:* call:*"),
        house.http("admin", scope="admin"),
    )
    links = {}
    async with reader.http, auditor.http, admin, anybody(house) as nobody:
        for maker, who in (("owner", ada), ("reader", reader), ("auditor", auditor)):
            links[maker] = (await who.http.post(url + "/links", json={"expires_s": 600})).json()["url"]

        async def good() -> list[str]:
            return [maker for maker, link in links.items() if (await nobody.head(link)).status_code == 200]

        assert await good() == ["owner", "reader", "auditor"]
        upload = url.rpartition("/")[2]
        await (await house.person()).call("unshare", upload=upload, topics=["events:guest"])
        assert await good() == ["owner", "auditor"]
        for user in ("ada", "eve"):
            assert (await admin.post("/v1/admin/kick", json={"user": user})).status_code == 200

        async def none_is_good() -> bool:
            return await good() == []

        await until(none_is_good, what="all nodes to hear of the kick")
        assert_problem(await nobody.get(links["owner"]), "forbidden")
        again = tus(house)
        async with again.http:
            links["fresh"] = (await again.http.post(url + "/links")).json()["url"]
        assert await good() == ["fresh"]


async def test_who_reads_by_links_too_often_waits(redis_url: str, hub_database: HubDatabase, tmp_path: Path) -> None:
    slow = {"uploads_link_reads_burst": 2, "uploads_link_reads_per_second": 0.01}
    async with depot(redis_url, hub_database, tmp_path, **slow) as house:
        client = tus(house)
        async with client.http, anybody(house) as nobody:
            often, seldom = [await available(client, MANY) for _ in range(2)]
            links = [(await client.http.post(url + "/links")).json()["url"] for url in (often, often, seldom)]
            for link in links[:2]:
                assert (await nobody.head(link)).status_code == 200
            assert_problem(await nobody.get(links[0]), "rate_limited")
            assert (await nobody.head(links[2])).status_code == 200
