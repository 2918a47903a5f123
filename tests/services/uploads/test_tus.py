"""tus 1.0.0 by hand: what the specification wants of a server, over real HTTP."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from services.uploads.checker import Checker
from tests.edge.http_hub import assert_problem
from tests.services.uploads.depot import Depot, depot, some_text
from tests.services.uploads.tus_client import BODY, GUESTS, TusClient, encoded, hanging, tus
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

MANY = some_text(600_000)


@pytest.fixture
async def ada(house: Depot) -> AsyncIterator[TusClient]:
    client = tus(house)
    async with client.http:
        yield client


def checksum(algorithm: str, data: bytes) -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, data).digest()).decode()}"


async def state_of(client: TusClient, url: str) -> dict[str, Any]:
    answer = await client.http.get(url)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_an_upload_from_creation_to_the_last_byte(ada: TusClient) -> None:
    metadata = {**GUESTS, "guest_id": "g-7", "filetype": "text/csv"}
    answer = await ada.post(len(MANY), metadata)
    assert answer.status_code == 201
    url = answer.headers["location"]
    assert url.startswith("/v1/uploads/")
    expires = parsedate_to_datetime(answer.headers["upload-expires"])
    first = await ada.patch(url, 0, MANY[:200_000])
    assert (first.status_code, first.headers["upload-offset"]) == (204, "200000")
    assert parsedate_to_datetime(first.headers["upload-expires"]) >= expires
    head = await ada.ask("HEAD", url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["cache-control"] == "no-store"
    assert (head.headers["upload-offset"], head.headers["upload-length"]) == ("200000", str(len(MANY)))
    assert set(head.headers["upload-metadata"].split(",")) == set(encoded(metadata).split(","))
    last = await ada.patch(url, 200_000, MANY[200_000:])
    assert (last.status_code, last.headers["upload-offset"]) == (204, str(len(MANY)))
    assert "upload-expires" not in last.headers
    assert await ada.offset(url) == len(MANY)
    state = await state_of(ada, url)
    assert state["metadata"] == {"guest_id": "g-7", "filetype": "text/csv"}
    assert state["filename"] == "guests.csv"


async def test_creation_with_upload(ada: TusClient) -> None:
    part = await ada.post(len(MANY), content=MANY[:1000], Content_Type=BODY)
    assert (part.status_code, part.headers["upload-offset"]) == (201, "1000")
    whole = await ada.post(len(MANY), content=MANY, Content_Type=BODY, Upload_Checksum=checksum("sha256", MANY))
    assert (whole.status_code, whole.headers["upload-offset"]) == (201, str(len(MANY)))
    wrong = await ada.post(10, content=b"0123456789", Content_Type=BODY, Upload_Checksum=checksum("md5", b"other"))
    assert_problem(wrong, "checksum_mismatch", 460)
    assert_problem(await ada.post(10, content=b"0123456789"), "content_type")
    assert_problem(await ada.post(9, content=b"0123456789", Content_Type=BODY), "too_large")


async def test_options_say_what_is_spoken(ada: TusClient, house: Depot) -> None:
    for path in ("/v1/uploads", "/v1/uploads/whatever"):
        answer = await ada.http.options(path, headers={"Authorization": ""})
        assert answer.status_code == 204
        assert answer.headers["tus-version"] == "1.0.0"
        assert "concatenation" in answer.headers["tus-extension"]
        assert answer.headers["tus-max-size"] == str(house.nodes[0].settings.uploads_max_bytes)
        assert answer.headers["tus-checksum-algorithm"] == "sha256,sha1,md5"


async def test_pages_of_other_origins(redis_url: str, hub_database: HubDatabase, tmp_path: Path) -> None:
    page = {"Origin": "https://app.example"}
    async with depot(redis_url, hub_database, tmp_path, allowed_origins=("https://app.example",)) as house:
        ada = tus(house)
        async with ada.http:
            asked = {"Access-Control-Request-Method": "PATCH", "Authorization": ""}
            names = "authorization,content-type,tus-resumable,upload-offset,upload-checksum,x-requested-with"
            preflight = await ada.http.options(
                "/v1/uploads/any", headers=page | asked | {"Access-Control-Request-Headers": names}
            )
            assert preflight.status_code == 204
            assert preflight.headers["access-control-allow-origin"] == "https://app.example"
            refused = await ada.http.post("/v1/uploads", headers=page)
            assert refused.status_code == 412
            shown = refused.headers["access-control-expose-headers"]
            for name in ("Location", "Upload-Offset", "Tus-Resumable", "ETag", "Content-Range"):
                assert name in shown
            assert (await ada.http.options("/v1/uploads", headers=page)).headers["tus-version"] == "1.0.0"


async def test_every_request_says_the_version(ada: TusClient) -> None:
    url = await ada.create(10)
    for method, path in (("POST", "/v1/uploads"), ("HEAD", url), ("PATCH", url), ("DELETE", url)):
        for version in (None, "0.2.2", "1.0.1", ["1.0.0", "1.0.0"]):
            answer = await ada.ask(method, path, {"Tus-Resumable": version})
            assert answer.status_code == (400 if isinstance(version, list) else 412)
            assert (answer.headers.get("tus-version") == "1.0.0") is (answer.status_code == 412)
    assert await ada.offset(url) == 0, "nothing was done"


CREATIONS: list[tuple[dict[str, Any], str, int]] = [
    ({"Upload-Length": None}, "bad_request", 400),
    ({"Upload-Length": "-1"}, "bad_request", 400),
    ({"Upload-Length": "1e3"}, "bad_request", 400),
    ({"Upload-Length": "+1"}, "bad_request", 400),
    ({"Upload-Length": ["10", "10"]}, "bad_request", 400),
    ({"Upload-Length": "0"}, "empty_content", 400),
    ({"Upload-Length": "9999999999999999"}, "too_large", 413),
    ({"Upload-Length": "10", "Upload-Defer-Length": "1"}, "bad_request", 400),
    ({"Upload-Length": None, "Upload-Defer-Length": "1"}, "bad_request", 400),
    ({"Upload-Metadata": None}, "bad_request", 400),
    ({"Upload-Metadata": "filename"}, "bad_request", 400),
    ({"Upload-Metadata": "filename !!!"}, "bad_request", 400),
    ({"Upload-Metadata": "filename YS5!jc3Y="}, "bad_request", 400),
    ({"Upload-Metadata": "filename /w=="}, "bad_request", 400),
    ({"Upload-Metadata": "filename YQ==,filename YQ=="}, "bad_request", 400),
    ({"Upload-Metadata": ["filename YQ==", "filename YQ=="]}, "bad_request", 400),
    ({"Upload-Metadata": "filename YQ==,,"}, "bad_request", 400),
    ({"Upload-Metadata": encoded({"filename": "../a.csv"})}, "bad_request", 400),
    ({"Upload-Metadata": encoded({**GUESTS, "document_type": "no such"})}, "bad_request", 400),
    ({"Upload-Metadata": encoded({**GUESTS, "sha256": "abc"})}, "bad_request", 400),
    ({"Upload-Metadata": encoded({**GUESTS, "shares": "chat:hall"})}, "bad_request", 400),
    ({"Upload-Concat": "partially"}, "bad_request", 400),
    ({"Upload-Concat": "final;"}, "bad_request", 400),
    ({"Upload-Length": None, "Upload-Concat": "final;" + " ".join(f"/{n}" for n in range(101))}, "bad_request", 400),
    ({"Upload-Length": None, "Upload-Concat": "final;/a /a"}, "bad_request", 400),
    ({"Upload-Concat": "final;/v1/uploads/a"}, "bad_request", 400),
    ({"Upload-Length": None, "Upload-Concat": "final;/v1/uploads/a"}, "not_found", 404),
    ({"X-HTTP-Method-Override": "PATCH"}, "bad_request", 405),
]


async def test_creations_that_are_refused(ada: TusClient, house: Depot) -> None:
    for headers, code, status in CREATIONS:
        asked = {"Upload-Length": "10", "Upload-Metadata": encoded(GUESTS), **headers}
        assert_problem(await ada.ask("POST", "/v1/uploads", asked), code, status)
    deferred = await ada.ask("POST", "/v1/uploads", {"Upload-Defer-Length": "1"})
    assert deferred.json()["detail"] == "the size must be known: send the header Upload-Length"
    assert await house.rows("SELECT id FROM hub.uploads") == []


PATCHES: list[tuple[dict[str, Any], str, int]] = [
    ({"Upload-Offset": None}, "bad_request", 400),
    ({"Upload-Offset": "x"}, "bad_request", 400),
    ({"Upload-Offset": ["4", "4"]}, "bad_request", 400),
    ({"Upload-Offset": "3"}, "offset_mismatch", 409),
    ({"Upload-Offset": "5"}, "offset_mismatch", 409),
    ({"Content-Type": None}, "content_type", 415),
    ({"Content-Type": "application/octet-stream"}, "content_type", 415),
    ({"Upload-Checksum": "sha1"}, "bad_request", 400),
    ({"Upload-Checksum": "sha1 abc"}, "bad_request", 400),
    ({"Upload-Checksum": "crc32 AAAAAA=="}, "bad_request", 400),
    ({"Upload-Checksum": checksum("md5", b"else")}, "checksum_mismatch", 460),
    ({"Upload-Checksum": checksum("sha1", b"else")}, "checksum_mismatch", 460),
]


async def test_patches_that_are_refused_leave_nothing(ada: TusClient, house: Depot) -> None:
    url = await ada.create(10)
    await ada.patch(url, 0, b"0123")
    for headers, code, status in PATCHES:
        asked = {"Upload-Offset": "4", "Content-Type": BODY, **headers}
        body = assert_problem(await ada.ask("PATCH", url, asked, content=b"456789"), code, status)
        if code == "offset_mismatch":
            assert body["details"] == {"offset": 4}
        assert await ada.offset(url) == 4, headers
    assert_problem(await ada.patch(url, 4, b"4567890"), "too_large")
    assert await ada.offset(url) == 4

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"456", b"7890"):
            yield piece

    # Without a length nobody knows before: what fits is kept, and nothing of the rest.
    assert_problem(await ada.patch(url, 4, pieces()), "too_large")
    assert await ada.offset(url) == 10
    upload = url.rpartition("/")[2]
    await until(lambda: f"acme/{upload}/content" in house.stored(), 30.0, "the content to be joined")
    assert house.content(upload) == b"0123456789"


async def test_a_body_counts_when_its_checksum_was_right_and_not_before(ada: TusClient, house: Depot) -> None:
    url = await ada.create(len(MANY))

    async def wrong() -> AsyncIterator[bytes]:
        yield MANY[::-1]  # all of it; that it is, nobody knows before the end

    said = {"Upload-Checksum": checksum("sha1", MANY)}
    assert_problem(await ada.patch(url, 0, wrong(), **said), "checksum_mismatch", 460)
    assert await ada.offset(url) == 0
    async with hanging(house, url, 0, len(MANY), f"Upload-Checksum: {said['Upload-Checksum']}") as request:
        await request.send(MANY[:300_000])
        await until(lambda: bool(house.stored()), 30.0, "some of it to be stored")
        assert await ada.offset(url) == 0  # whoever comes back by HEAD has the body forgotten
    await until(lambda: not house.stored(), 30.0, "what was forgotten to be removed")


async def test_bytes_cost_what_questions_cost(redis_url: str, hub_database: HubDatabase, tmp_path: Path) -> None:
    slow: dict[str, Any] = {"uploads_reads_burst": 2, "uploads_reads_per_second": 0.01}
    async with depot(redis_url, hub_database, tmp_path, **slow) as house, tus(house).http as http:
        ada = TusClient(http)
        url = await ada.create(4)
        answers = [await ada.patch(url, offset, b"0") for offset in range(3)]
        assert [answer.status_code for answer in answers] == [204, 204, 429]


async def test_checksums_of_bodies(ada: TusClient) -> None:
    url = await ada.create(len(MANY))
    offset = 0
    for algorithm in ("sha1", "sha256", "md5"):
        piece = MANY[offset : offset + 100_000]
        answer = await ada.patch(url, offset, piece, Upload_Checksum=checksum(algorithm, piece))
        assert answer.status_code == 204
        offset += len(piece)
    rest = MANY[offset:]
    # The one that would complete it, too.
    refused = await ada.patch(url, offset, rest[:-1] + b"?", Upload_Checksum=checksum("sha1", rest))
    assert_problem(refused, "checksum_mismatch", 460)
    assert await ada.offset(url) == offset
    assert (await state_of(ada, url))["state"] == "receiving"
    assert (await ada.patch(url, offset, rest, Upload_Checksum=checksum("sha1", rest))).status_code == 204


async def acknowledged(house: Depot, offset: int) -> None:
    """Waits until so much of the only upload is."""

    async def is_there() -> bool:
        (row,) = await house.rows("SELECT received::int FROM hub.uploads")
        return bool(row["received"] >= offset)

    await until(is_there, what=f"{offset} bytes to be acknowledged")


async def test_a_cut_connection_keeps_what_has_come(ada: TusClient, house: Depot) -> None:
    url = await ada.create(len(MANY))
    async with hanging(house, url, 0, len(MANY)) as request:
        await request.send(MANY[:50_000])
        await acknowledged(house, 50_000)
        await request.send(MANY[50_000:60_000])
        await request.cut()
        await acknowledged(house, 60_000)

        async def is_free() -> bool:
            return (await house.rows("SELECT writer FROM hub.uploads"))[0]["writer"] is None

        await until(is_free, what="the upload to be let go, so that nobody has to wait for its writer")
    assert await ada.offset(url) == 60_000


async def test_a_cut_connection_with_a_checksum_keeps_nothing(ada: TusClient, house: Depot) -> None:
    url = await ada.create(len(MANY))
    async with hanging(house, url, 0, len(MANY), f"Upload-Checksum: {checksum('md5', MANY)}") as request:
        await request.send(MANY[:-1])
        await until(lambda: house.stored() != [], what="bytes to be in the store")
    assert await ada.offset(url) == 0
    assert (await ada.patch(url, 0, MANY)).status_code == 204
    assert await ada.offset(url) == len(MANY)


async def test_switched_off_is_said_to_a_request_that_is_under_way(ada: TusClient, house: Depot) -> None:
    url = await ada.create(len(MANY))
    async with hanging(house, url, 0, len(MANY)) as request, house.http("olga", scope="flags:write") as operator:
        await request.send(MANY[:50_000])
        await acknowledged(house, 50_000)
        assert (await operator.patch("/v1/flags/uploads", json={"state": "off"})).status_code == 200
        await request.send(MANY[50_000:60_000])
        assert (await request.answer())[0] == 403
        assert (await operator.patch("/v1/flags/uploads", json={"clear": True})).status_code == 200
    assert await ada.offset(url) == 50_000
    assert (await ada.patch(url, 50_000, MANY[50_000:])).status_code == 204


async def test_who_comes_back_takes_over_from_a_request_that_hangs(ada: TusClient, house: Depot) -> None:
    url = await ada.create(len(MANY))
    async with hanging(house, url, 0, len(MANY)) as request:
        await request.send(MANY[:70_000])
        await acknowledged(house, 70_000)
        assert await ada.offset(url) == 70_000, "whose owner asks is about to go on"
        status, _ = await request.answer()
        assert status == 400, "with 409 tus-js-client would take it back"
        async with hanging(house, url, 70_000, len(MANY) - 70_000) as another:
            await another.send(MANY[70_000:80_000])
            await acknowledged(house, 80_000)
            # Beyond what is acknowledged, which may be right while somebody writes.
            wrong = assert_problem(await ada.patch(url, 90_000, MANY[90_000:]), "offset_mismatch")
            assert wrong["details"] == {"offset": 80_000}
            assert (await ada.patch(url, 80_000, MANY[80_000:])).status_code == 204
            assert (await another.answer())[0] == 400


async def test_one_that_sends_nothing_is_ended(redis_url: str, hub_database: HubDatabase, tmp_path: Path) -> None:
    async with depot(redis_url, hub_database, tmp_path, uploads_idle_s=0.2) as house:
        ada = tus(house)
        async with ada.http:
            url = await ada.create(len(MANY))
            async with hanging(house, url, 0, len(MANY), first=MANY[:1000]) as request:
                assert (await request.answer())[0] == 504
                assert await ada.offset(url) == 1000


async def test_a_node_that_leaves_keeps_what_has_come(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path
) -> None:
    async with depot(redis_url, hub_database, tmp_path, nodes=2) as house:
        ada = tus(house, node=1)
        async with ada.http:
            url = await ada.create(len(MANY))
            async with hanging(house, url, 0, len(MANY)) as request:
                await request.send(MANY[:300_000])
                await acknowledged(house, 1)
                await house.person()  # the node waits for whoever is connected
                house.nodes[0].leave()
                status, head = await request.answer()
            offset = await ada.offset(url)
            assert offset > 0
            assert status == 204, "the client is to go on, and not to count this as a failure"
            assert f"upload-offset: {offset}\r\n".encode() in head
            assert b"connection: close" in head
            assert (await ada.patch(url, offset, MANY[offset:])).status_code == 204


async def test_a_token_that_expires_meanwhile(ada: TusClient, house: Depot) -> None:
    url = await ada.create(len(MANY))
    for ttl_s in (1.0, 5.0, 20.0):  # the machine may stand still before the bytes are taken
        async with hanging(house, url, 0, len(MANY), first=MANY[:1000], ttl_s=ttl_s) as request:
            status, head = await request.answer()
        if await ada.offset(url):
            break
    assert status == 204, "the next request has a fresh one"
    assert b"upload-offset: 1000\r\n" in head


async def test_termination(ada: TusClient, house: Depot) -> None:
    url = await ada.create(10)
    await ada.patch(url, 0, b"0123")
    assert (await ada.ask("DELETE", url)).status_code == 204
    assert (await ada.ask("HEAD", url)).status_code == 410
    assert_problem(await ada.patch(url, 4, b"4"), "conflict", 410)
    assert_problem(await ada.ask("DELETE", url), "conflict", 410)
    await until(lambda: house.stored() == [], what="its bytes to be removed")
    assert (await ada.ask("HEAD", "/v1/uploads/nobodys")).status_code == 404


async def test_when_an_upload_expires_is_what_it_says(ada: TusClient, house: Depot) -> None:
    url = await ada.create(10)
    query = "UPDATE hub.uploads SET touched_at = now() - interval '1 hour' WHERE id = $1 RETURNING id"
    await house.rows(query, url.rpartition("/")[2])
    expires = (await state_of(ada, url))["expires_at"] // 1000
    nothing = await ada.patch(url, 0, b"")
    assert parsedate_to_datetime(nothing.headers["upload-expires"]).timestamp() == expires, "nothing has come"
    something = await ada.patch(url, 0, b"x")
    assert parsedate_to_datetime(something.headers["upload-expires"]).timestamp() >= expires + 3599


async def test_concatenation(ada: TusClient, house: Depot) -> None:
    urls = []
    for piece in (MANY[:250_000], MANY[250_000:]):
        url = await ada.create(len(piece), {}, Upload_Concat="partial")
        urls.append(url)
        early = await ada.post(None, Upload_Concat=f"final;{url}")
        assert_problem(early, "conflict")
        assert (await ada.patch(url, 0, piece)).status_code == 204
        assert (await ada.ask("HEAD", url)).headers["upload-concat"] == "partial"
    grace = tus(house, "grace")
    async with grace.http:
        assert_problem(await grace.post(None, Upload_Concat="final;" + " ".join(urls)), "not_found")
    # As tus-js-client writes them: with the host.
    final = await ada.post(None, Upload_Concat="final;" + " ".join(house.nodes[0].http_url + url for url in urls))
    assert final.status_code == 201, final.text
    url = final.headers["location"]
    head = await ada.ask("HEAD", url)
    assert head.headers["upload-offset"] == head.headers["upload-length"] == str(len(MANY))
    assert head.headers["upload-concat"] == "final;" + " ".join(urls)
    for offset, body in ((0, b"xx"), (len(MANY), b""), (len(MANY), b"more")):
        assert_problem(await ada.patch(url, offset, body), "conflict", 403)
    whole = await ada.create(10)
    assert_problem(await ada.post(None, Upload_Concat=f"final;{whole}"), "not_found")
    assert_problem(await ada.post(None, Upload_Concat="final;" + " ".join(urls)), "conflict")


async def test_what_was_joined_is_not_cancelled(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The upload that it was joined to consists of its bytes until it is checked."""
    real = Checker.begin
    monkeypatch.setattr(Checker, "begin", lambda *_: None)
    async with depot(redis_url, hub_database, tmp_path) as house, tus(house).http as http:
        ada = TusClient(http)
        pieces = (MANY[:250_000], MANY[250_000:])
        partials = [await ada.create(len(piece), {}, Upload_Concat="partial") for piece in pieces]
        for url, piece in zip(partials, pieces, strict=True):
            assert (await ada.patch(url, 0, piece)).status_code == 204
        final = await ada.post(None, Upload_Concat="final;" + " ".join(partials))
        owner = await house.person()
        for url in partials:
            upload = url.rpartition("/")[2]
            assert (await owner.refused("cancel", "conflict", upload=upload)).details["state"] == "joined"
            await house.rows("UPDATE hub.uploads SET due_at = now() WHERE id = $1 RETURNING id", upload)
        monkeypatch.setattr(Checker, "begin", real)
        await house.rows("UPDATE hub.uploads SET due_at = now() WHERE NOT partial RETURNING id")
        upload = final.headers["location"].rpartition("/")[2]
        await owner.ended(upload)
        assert house.content(upload) == MANY


async def test_partial_uploads_count_until_they_are_joined(
    redis_url: str, hub_database: HubDatabase, tmp_path: Path
) -> None:
    async with depot(redis_url, hub_database, tmp_path, uploads_open_per_user=2) as house, tus(house).http as http:
        ada = TusClient(http)
        partials = [await ada.create(1, Upload_Concat="partial") for _ in range(2)]
        for url in partials:
            assert (await ada.patch(url, 0, b"x")).status_code == 204
        assert_problem(await ada.post(1, Upload_Concat="partial"), "quota_exceeded")
        assert (await ada.ask("DELETE", partials[0])).status_code == 204, "complete, and of no use to anybody"
        await ada.create(1)


async def test_methods_by_another_name(ada: TusClient) -> None:
    url = await ada.create(4)
    sent = {"X-HTTP-Method-Override": "PATCH", "Upload-Offset": "0", "Content-Type": BODY}
    assert (await ada.ask("POST", url, sent, content=b"01")).status_code == 204
    head = await ada.ask("POST", url, {"X-HTTP-Method-Override": "HEAD"})
    assert head.headers["upload-offset"] == "2"
    assert (await ada.ask("POST", url)).status_code == 405
    assert (await ada.ask("POST", url, {"X-HTTP-Method-Override": "DELETE"})).status_code == 204
    assert (await ada.ask("HEAD", url)).status_code == 410


async def test_nobody_else_sees_or_changes_it(ada: TusClient, house: Depot) -> None:
    url = await ada.create(10)
    stranger, foreigner = tus(house, "grace"), tus(house, "ada", org="other")
    weak = tus(house, scope="subscribe:*")
    async with stranger.http, foreigner.http, weak.http:
        for client, status in ((stranger, 404), (foreigner, 404), (weak, 403)):
            assert (await client.ask("HEAD", url)).status_code == status
            assert (await client.patch(url, 0, b"0")).status_code == status
            assert (await client.ask("DELETE", url)).status_code == status
            assert (await client.http.get(url)).status_code == status
        assert_problem(await weak.post(10), "forbidden")
        refused = await weak.ask("POST", "/v1/uploads", {"Authorization": "Bearer nonsense"})
        assert refused.status_code == 401
    assert await ada.offset(url) == 0


async def test_begun_on_the_socket_and_finished_by_tus_and_the_other_way(house: Depot, ada: TusClient) -> None:
    person = await house.person()
    opened = await person.create(MANY)
    await person.send(opened, MANY, until=100_000)
    await person.acknowledged(opened, 100_000)
    url = f"/v1/uploads/{opened['upload']}"
    assert await ada.offset(url) == 100_000
    assert (await ada.patch(url, 100_000, MANY[100_000:200_000])).status_code == 204
    resumed = await person.call("resume", upload=opened["upload"])
    assert resumed["offset"] == 200_000
    await person.send(resumed, MANY)
    await person.taken(opened)  # whoever asks by HEAD has its writer finish
    assert await ada.offset(url) == len(MANY)
