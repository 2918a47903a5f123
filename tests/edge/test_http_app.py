"""What goes for every route: problems, health, documents, CORS, and what the log says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog
from litestar import Request, get, post

from hub.edge.authenticate import PUBLIC, HubRequest
from hub.edge.health_routes import Readiness
from hub.embedded import PostgresServer, RedisServer
from hub.errors import ErrorCode, HubError
from tests.edge.http_hub import HttpHub, assert_problem, running_hub
from tests.support.cut_proxy import CutProxy
from tests.support.hub_database import HubDatabase, empty_database
from tests.support.servers import running_redis
from tests.support.waiting import until

SECRET = "do-not-tell-4711"


@get("/v1/test/fault")
async def fault() -> None:
    """A fault of the code."""
    raise RuntimeError(SECRET)


@get("/v1/test/busy")
async def busy() -> None:
    """An error with everything."""
    raise HubError(ErrorCode.RATE_LIMITED, "slow down", retry_after_ms=1200, details={"limit": 5})


@get("/v1/test/whoami")
async def whoami(request: HubRequest) -> dict[str, str]:
    """A route of a service."""
    return {"user": request.user.user, "org": request.user.org}


@get("/v1/test/open", opt={PUBLIC: True})
async def for_everybody() -> str:
    """A route that looks at tickets itself."""
    return "open"


@post("/v1/test/body")
async def body(request: Request[Any, Any, Any]) -> int:
    """A route that says nothing of its limit."""
    return len(await request.body())


@pytest.fixture(scope="module")
async def hub(
    redis_server: RedisServer, postgres_server: PostgresServer, migrated_template: HubDatabase
) -> AsyncIterator[HttpHub]:
    """A node with the routes above."""
    async with empty_database(postgres_server, migrated_template.name) as database:
        settings = database.settings(
            redis_url=redis_server.url,
            database_relay_url="",
            allowed_origins=("https://App.example/",),
            readiness_timeout_s=30.0,
        )
        asked = {
            "answer_headers": {
                "/v1/test": {"X-Branch": "test", "Cache-Control": "no-cache"},
                "OPTIONS /v1/test": {"X-Methods": "many"},
            },
            "cors_request_headers": ["X-Asked"],
            "cors_answer_headers": ["X-Branch"],
        }
        async with running_hub(settings, [fault, busy, whoami, for_everybody, body], **asked) as running:
            yield running


async def test_every_error_is_a_problem(hub: HttpHub) -> None:
    assert_problem(await hub.client.get("/nowhere"), "not_found", says="/openapi.json")
    assert_problem(await hub.client.get("/v1/nowhere"), "not_found")
    assert_problem(await hub.client.get("/openapi.json/nowhere"), "not_found")
    wrong_method = await hub.client.get("/v1/publish")
    assert_problem(wrong_method, "bad_request", 405)
    assert "POST" in wrong_method.headers["allow"]
    assert_problem(await hub.client.request("TRACE", "/v1/stats"), "bad_request", 405)


async def test_a_fault_tells_nothing_and_is_logged(hub: HttpHub) -> None:
    with structlog.testing.capture_logs() as logs:
        answer = await hub.get("/v1/test/fault")
    assert_problem(answer, "internal")
    assert SECRET not in answer.text
    (entry,) = [line for line in logs if line["event"] == "http_handler_failed"]
    assert entry["log_level"] == "error"
    assert SECRET in str(entry["exc_info"])
    assert 'hub_errors_total{code="internal"}' in (await hub.client.get("/metrics")).text


async def test_when_to_come_back(hub: HttpHub) -> None:
    answer = await hub.get("/v1/test/busy")
    problem = assert_problem(answer, "rate_limited", 429)
    assert answer.headers["retry-after"] == "2"
    assert (problem["retry"], problem["retry_after_ms"], problem["details"]) == ("later", 1200, {"limit": 5})


async def test_routes_of_services_are_behind_the_gate(hub: HttpHub) -> None:
    assert (await hub.get("/v1/test/whoami", "anna", "globex")).json() == {"user": "anna", "org": "globex"}
    assert_problem(await hub.client.get("/v1/test/whoami"), "unauthenticated")
    assert (await hub.client.get("/v1/test/open")).text == "open"
    assert (await hub.post("/v1/test/body", content=b"x" * 1000)).json() == 1000
    assert_problem(await hub.post("/v1/test/body", content=b"x" * 1_048_577), "too_large")


async def test_bodies_that_end_early(hub: HttpHub) -> None:
    host, port = hub.base_url.split(":")
    with structlog.testing.capture_logs() as logs:
        _, writer = await asyncio.open_connection(host, int(port))
        head = ["POST /v1/publish HTTP/1.1", "Host: x", f"Authorization: Bearer {hub.token()}", "Content-Length: 100"]
        writer.write("\r\n".join([*head, "", '{"topic"']).encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await until(lambda: [line for line in logs if line.get("route") == "/v1/publish"], what="the answer")
    assert not [line for line in logs if line["log_level"] in {"error", "warning"}]


async def test_hosts_that_are_none(hub: HttpHub) -> None:
    answer = await hub.client.get("/", headers={"Host": "a b"})
    assert answer.status_code == 400
    assert "traceback" not in answer.text.lower()


async def test_what_answers(hub: HttpHub) -> None:
    answer = (await hub.client.get("/")).json()
    assert answer == {"service": "hub", "status": "running", "version": hub.gateway.version}


async def test_metrics(hub: HttpHub) -> None:
    answer = await hub.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "hub_ready 1.0" in answer.text


async def test_logs_hold_no_query_token_or_body(hub: HttpHub) -> None:
    with structlog.testing.capture_logs() as logs:
        await hub.get(f"/v1/topics/events:log/events?ticket={SECRET}&last=0")
        await hub.get(f"/v1/topics/events:log/events?ticket={SECRET}&last=x")
        await hub.get(f"/nowhere/{SECRET}?ticket={SECRET}")
        await hub.post("/v1/publish", json={"topic": "events:log", "name": "n", "data": SECRET})
        await hub.post("/v1/publish", json={"topic": "nosuch:log", "name": SECRET, "data": SECRET})
        await hub.client.get("/v1/stats", headers={"Authorization": f"Bearer {SECRET}"})
    lines = [line for line in logs if line["event"] == "http_request"]
    assert [line["status"] for line in lines] == [200, 400, 404, 200, 404, 401]
    assert [line["route"] for line in lines][:3] == ["/v1/topics/{topic}/events"] * 2 + [None]
    assert lines[0]["ms"] >= 0
    assert SECRET not in str(logs)


async def test_cors(hub: HttpHub) -> None:
    def preflight(origin: str, headers: str = "authorization, content-type") -> Any:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
        return hub.client.options("/v1/publish", headers={"Origin": origin, **asked})

    allowed = await preflight("https://app.example")
    assert allowed.status_code == 204
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in allowed.headers["access-control-allow-headers"].lower()
    assert "access-control-allow-credentials" not in allowed.headers
    assert (await preflight("https://app.example", "cache-control, last-event-id")).status_code == 204
    for foreign in (await preflight("https://evil.example"), await preflight("https://app.example", "x-what")):
        assert_problem(foreign, "bad_request", says="HUB_ALLOWED_ORIGINS")
        assert foreign.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in foreign.headers
    # A page must be able to read errors too.
    refused = await hub.client.get("/v1/stats", headers={"Origin": "https://app.example"})
    assert_problem(refused, "unauthenticated")
    assert refused.headers["access-control-allow-origin"] == "https://app.example"
    assert "Retry-After" in refused.headers["access-control-expose-headers"]
    elsewhere = await hub.client.get("/", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in elsewhere.headers


async def test_headers_that_a_service_asks_for(hub: HttpHub) -> None:
    """Of every answer below its path: errors before the route, unknown paths and methods, OPTIONS and preflights."""
    origin = {"Origin": "https://app.example"}
    asked = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "x-asked"}
    preflight = await hub.client.options("/v1/test/whoami", headers=origin | asked)
    assert preflight.status_code == 204
    fine = await hub.get("/v1/test/whoami")
    for answer in (
        fine,
        preflight,
        await hub.client.get("/v1/test/whoami"),
        await hub.get("/v1/test/nowhere"),
        await hub.post("/v1/test/whoami"),
    ):
        assert answer.headers["x-branch"] == "test", answer.request
        assert ("x-methods" in answer.headers) == (answer is preflight), answer.request
    assert (await hub.client.options("/v1/test/whoami")).headers["x-methods"] == "many"
    elsewhere = await hub.get("/v1/test/whoami", headers=origin)
    assert "X-Branch" in elsewhere.headers["access-control-expose-headers"]
    assert fine.headers["cache-control"] == "no-cache"
    refused = await hub.client.get("/v1/test/busy")
    assert refused.headers["cache-control"] == "no-store", "what an answer says itself goes before"
    assert "x-branch" not in (await hub.get("/v1/testing")).headers


async def test_options_needs_no_token(hub: HttpHub) -> None:
    answer = await hub.client.options("/v1/publish")
    assert answer.status_code == 204
    assert "POST" in answer.headers["allow"]


# --- readiness


async def not_ready(hub: HttpHub) -> list[str]:
    answer = await hub.client.get("/health/ready")
    if answer.status_code == 200:
        assert answer.json() == {"status": "ready"}
        return []
    missing: list[str] = assert_problem(answer, "unavailable")["details"]["not_ready"]
    assert answer.headers["retry-after"] == "1"
    return missing


async def test_readiness_follows_redis_and_the_database(
    postgres_server: PostgresServer, hub_database: HubDatabase
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        link = await stack.enter_async_context(CutProxy(postgres_server.home.sockets / ".s.PGSQL.5432"))
        redis = stack.enter_context(running_redis())
        settings = hub_database.settings(
            redis_url=redis.url,
            database_url=f"postgresql://hub_app@127.0.0.1:{link.port}/{hub_database.name}?sslmode=disable",
            database_relay_url="",
            readiness_timeout_s=0.3,
            probe_interval_s=0.1,
            probe_timeout_s=0.3,
        )
        hub = await stack.enter_async_context(running_hub(settings))
        await until(lambda: _is(hub, []), 30, "the node to be ready")
        link.stall()
        await until(lambda: _is(hub, ["database"]), 30, "the node to notice")
        assert (await hub.client.get("/health/live")).json() == {"status": "alive"}
        link.resume()
        await until(lambda: _is(hub, []), 30, "the node to be ready again")
        redis.stop()
        await until(lambda: _is(hub, ["redis"]), 30, "the node to notice")
        hub.gateway.connections.draining = True
        assert (await not_ready(hub))[0] == "draining"
        assert (await hub.client.get("/")).json()["status"] == "draining"


async def _is(hub: HttpHub, wanted: list[str]) -> bool:
    return await not_ready(hub) == wanted


async def test_a_node_that_never_saw_its_servers_is_alive_and_not_ready(hub_database: HubDatabase) -> None:
    settings = hub_database.settings(
        redis_url="redis://127.0.0.1:1",
        database_url="postgresql://hub_app@127.0.0.1:1/x",
        database_relay_url="",
        redis_timeout_s=0.5,
        redis_connect_timeout_s=0.3,
    )
    async with running_hub(settings, ready=False) as hub:
        assert sorted(await not_ready(hub)) == ["database", "flags", "redis"]
        assert_problem(await hub.post("/v1/publish", json={"topic": "events:x", "name": "n", "data": 1}), "unavailable")
        assert_problem(await hub.get("/v1/topics/events:x/events"), "unavailable")
        assert_problem(await hub.post("/v1/tickets"), "unavailable")
        assert_problem(await hub.post("/v1/admin/kick", json={"user": "x"}), "unavailable")
        answer = await hub.post("/v1/publish", json=[{"topic": "events:x", "name": "n", "data": 1}])
        assert answer.json()[0]["error"]["code"] == "unavailable"


async def test_many_probes_ask_the_database_once(hub: HttpHub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, came, hold, missing = 0, 0, asyncio.Event(), Readiness.missing

    async def probed(readiness: Readiness) -> list[str]:
        nonlocal came
        came += 1
        return await missing(readiness)

    async def ping() -> None:
        nonlocal asked
        asked += 1
        await hold.wait()

    monkeypatch.setattr(hub.gateway.database, "ping", ping)
    monkeypatch.setattr(Readiness, "missing", probed)
    probes = [asyncio.create_task(not_ready(hub)) for _ in range(20)]
    await until(lambda: asked and came == 20, what="all of them")
    hold.set()
    assert await asyncio.gather(*probes) == [[]] * 20
    assert asked == 1
