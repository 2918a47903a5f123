"""What operators and probes ask: who is there, is it alive, is it ready, how is it doing."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Literal

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import SkipValidation
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST

from hub.edge.gateway import Gateway
from hub.edge.openapi import problem_responses
from hub.errors import ConfigError, ErrorCode, HubError

_RETRY_MS: Final = 1000


class About(Struct):
    """What answers here."""

    service: str
    status: Literal["running", "draining"]
    version: str


class Alive(Struct):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(Struct):
    """Everything that a client needs is there."""

    status: Literal["ready"] = "ready"


class Stats(Struct, rename="camel"):
    """A summary of this node since its start; latencies are from Redis to the write, in milliseconds."""

    active_connections: int
    events_delivered: int
    events_by_service: dict[str, int]
    avg_latency_ms: float
    p99_latency_ms: float


class Readiness:
    """Asks the parts. However many ask at a time, the database is asked once."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._under_way: asyncio.Task[bool] | None = None

    async def missing(self) -> list[str]:
        """The parts that are not there: ``redis``, ``database``, ``flags`` (what was switched off is not known yet); or
        ``draining``."""
        gateway = self._gateway
        draining = gateway.connections.draining
        database = await self._database_answers()
        if database:
            gateway.board.look_again()
        # Who was given other flags has no need of the board's.
        flags = gateway.flags is not gateway.board or gateway.board.known
        parts = {"draining": not draining, "redis": gateway.broker.ready, "database": database, "flags": flags}
        return [name for name, fine in parts.items() if not fine]

    async def _database_answers(self) -> bool:
        task = self._under_way
        if task is None or task.done():
            task = self._under_way = asyncio.create_task(self._ping(), name="readiness-database")
        return await asyncio.shield(task)

    async def _ping(self) -> bool:
        try:
            async with asyncio.timeout(self._gateway.settings.readiness_timeout_s):
                await self._gateway.database.ping()
        except (HubError, ConfigError, TimeoutError):
            return False
        return True


@get("/", summary="What answers here")
async def about(gateway: NamedDependency[SkipValidation[Gateway]]) -> About:
    """Service, status and version."""
    return About("hub", "draining" if gateway.connections.draining else "running", gateway.version)


@get("/health/live", summary="Is the process alive")
async def live() -> Alive:
    """Always 200 while the process answers at all; restart it when this does not."""
    return Alive()


@get("/health/ready", summary="Should clients be sent here", responses=problem_responses(503))
async def ready(readiness: NamedDependency[SkipValidation[Readiness]]) -> Ready:
    """200 while Redis brings the node's own probe back, the database answers and the node is not leaving.

    A node that has just started is ready when it has read which flags were changed at run time.
    """
    missing = await readiness.missing()
    if missing:
        text = f"not ready: {', '.join(missing)}"
        raise HubError(ErrorCode.UNAVAILABLE, text, retry_after_ms=_RETRY_MS, details={"not_ready": missing})
    return Ready()


@get("/metrics", summary="Prometheus metrics", media_type=CONTENT_TYPE_LATEST)
async def metrics(gateway: NamedDependency[SkipValidation[Gateway]]) -> Response[bytes]:
    """The text exposition format."""
    return Response(gateway.metrics.prometheus(), media_type=CONTENT_TYPE_LATEST)


@get("/v1/stats", summary="A summary of this node", responses=problem_responses(401))
async def stats(gateway: NamedDependency[SkipValidation[Gateway]]) -> Stats:
    """Open connections, events delivered, latencies. Needs a valid token, of whatever scope."""
    numbers: dict[str, Any] = gateway.metrics.stats()
    return Stats(
        active_connections=len(gateway.connections),
        events_delivered=numbers["eventsDelivered"],
        events_by_service=numbers["eventsByService"],
        avg_latency_ms=numbers["avgLatencyMs"],
        p99_latency_ms=numbers["p99LatencyMs"],
    )
