"""A node for the tests of streams and polls, with short waits; and a client of it that sees what is on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec

from tests.support.running_hub import RunningHub, SocketKind, running_hub
from tests.support.waiting import until

ORIGIN = "https://app.example"
SETTINGS: dict[str, Any] = {
    # Nothing in these tests takes that long, but a stall of the machine may take a part of it.
    "poll_wait_s": 20.0,
    "poll_linger_s": 30.0,
    "heartbeat_s": 0.2,
    "sse_keepalive_s": 0.1,
    "sse_position_ms": 5.0,
    "allowed_origins": (ORIGIN,),
    "max_frames_per_request": 10,
    "max_calls_in_flight": 2,
}


class Web:
    """A user of an organisation of the test's own; requests go to one node."""

    def __init__(self, hub: RunningHub, client: httpx.AsyncClient, org: str, user: str = "u1") -> None:
        self.hub = hub
        self.client = client
        self.org = org
        self.user = user

    def headers(self, **more: Any) -> dict[str, str]:
        """A token."""
        return {"Authorization": "Bearer " + self.hub.token(self.org, self.user, **more)}

    def another(self, user: str = "u1", org: str = "") -> Web:
        """Somebody else at the same node."""
        return Web(self.hub, self.client, org or self.org, user)

    async def poll(self, cursor: str = "", wait: float = 20, **more: Any) -> dict[str, Any]:
        """A poll that must be answered with 200."""
        answer = await self.asked(cursor, wait, **more)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"
        return dict(answer.json())

    async def asked(self, cursor: str = "", wait: float = 20, topics: str = "room:a") -> httpx.Response:
        """A poll. With a cursor the topics stand in it."""
        params = {"cursor": cursor, "wait": str(wait)} if cursor else {"topics": topics}
        return await self.client.get("/v1/poll", params=params, headers=self.headers())

    async def until_polled(self, cursor: str, kind: str, count: int = 1) -> tuple[str, list[dict[str, Any]]]:
        """Polls until so many frames of a type have come; all frames."""
        frames: list[dict[str, Any]] = []
        async with asyncio.timeout(30):
            while sum(frame["type"] == kind for frame in frames) < count:
                answer = await self.poll(cursor)
                cursor = answer["cursor"]
                frames += answer["frames"]
        return cursor, frames

    async def say(self, *frames: Any, session: str = "") -> list[dict[str, Any]]:
        """POST /v1/frames."""
        body = {"frames": list(frames)} | ({"session": session} if session else {})
        answer = await self.client.post("/v1/frames", json=body, headers=self.headers())
        assert answer.status_code == 200, answer.text
        return list(answer.json()["frames"])

    async def publish(self, data: Any, topic: str = "room:a") -> dict[str, Any]:
        """Publishes by a frame."""
        (reply,) = await self.say({"type": "publish", "id": 1, "topic": topic, "name": "n", "data": data})
        assert reply["type"] == "reply", reply
        return dict(reply["result"])

    @contextlib.asynccontextmanager
    async def stream(
        self, query: str = "?topics=room:a", headers: dict[str, str] | None = None
    ) -> AsyncIterator[Stream]:
        """An open stream."""
        given = {**self.headers(), **(headers or {})}
        async with self.client.stream("GET", f"/v1/sse{query}", headers=given) as answer:
            if answer.status_code != 200:
                await answer.aread()
            yield Stream(answer)


class Stream:
    """Blocks of server-sent events, one by one."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.last_id = ""
        self.comments = 0
        self._lines = answer.aiter_lines()

    async def frame(self, *kinds: str) -> dict[str, Any]:
        """The next frame, or the next of these types."""
        async with asyncio.timeout(30):
            async for line in self._lines:
                name, _, value = line.partition(":")
                self.comments += line.startswith(":")
                if name == "id":
                    self.last_id = value.strip()
                elif name == "data" and (frame := json.loads(value)) and (not kinds or frame["type"] in kinds):
                    return dict(frame)
        raise EOFError("the stream has ended")

    async def position(self, after: str = "") -> str:
        """The next ``id``, unlike ``after``; frames that come before are dropped."""
        async with asyncio.timeout(30):
            async for line in self._lines:
                if line.startswith("id:"):
                    self.last_id = line[3:].strip()
                    if self.last_id != after:
                        return self.last_id
        raise EOFError("the stream has ended")


@contextlib.asynccontextmanager
async def web_of(hub: RunningHub) -> AsyncIterator[Web]:
    """A client of a node."""
    async with httpx.AsyncClient(base_url=hub.http_url, timeout=30) as client:
        yield Web(hub, client, f"org-{secrets.token_hex(4)}")


@contextlib.asynccontextmanager
async def webs(kind: SocketKind, redis_url: str, **changes: Any) -> AsyncIterator[Web]:
    """A client of a node of its own."""
    async with running_hub(kind, redis_url, **(SETTINGS | changes)) as hub, web_of(hub) as web:
        yield web


@contextlib.asynccontextmanager
async def two_webs(redis_url: str, other: SocketKind = "direct", **changes: Any) -> AsyncIterator[tuple[Web, Web]]:
    """One client of two nodes, as behind a balancer that knows no sessions. ``other``: the second one's kind."""
    async with (
        webs("direct", redis_url, node="n1", **changes) as one,
        webs(other, redis_url, node="n2", **changes) as two,
    ):
        two.org = one.org
        yield one, two


def connections(web: Web) -> list[Any]:
    """Those of its organisation on its node."""
    return [one for one in web.hub.gateway.connections if one.principal and one.principal.org == web.org]


async def expire(web: Web, user: str) -> None:
    """The tokens of a user's connections end now, wherever the test has got to."""

    async def ends() -> None:
        for one in connections(web):
            if one.principal.user == user:
                one.principal = msgspec.structs.replace(one.principal, expires_at=time.time())
                web.hub.gateway.keeper.watch(one)

    await web.hub.within(ends)


async def waiting(web: Web) -> None:
    """Somebody's request waits for something to happen."""
    await until(lambda: any(one.socket._line is not None and one.socket._opened for one in connections(web)))


def data(answer: dict[str, Any]) -> list[Any]:
    """What the events of a poll's answer say."""
    return [frame["data"] for frame in answer["frames"] if frame["type"] == "event"]
