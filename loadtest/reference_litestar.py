"""Litestar's channels plugin with its Redis backend, as its documentation sets it up, on uvicorn with uvloop.

``python -m loadtest.reference_litestar PORT REDIS_SOCKET``
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn
from litestar import Litestar, post
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.redis import RedisChannelsPubSubBackend
from msgspec import Struct
from redis.asyncio import Redis

TOPIC = "bench"


class Event(Struct):
    """What the hub's route takes too."""

    topic: str
    name: str
    data: Any


class Accepted(Struct):
    """What the hub's route answers."""

    epoch: str
    seq: int
    duplicate: bool


@post("/v1/publish", status_code=200)
async def publish(data: Event) -> Accepted:
    """Publishes nothing: what a route alone costs."""
    return Accepted("0", 1, False)


def app(redis_socket: str) -> Litestar:
    """A route ``/ws/bench`` that forwards what is published to the channel."""
    backend = RedisChannelsPubSubBackend(redis=Redis(unix_socket_path=redis_socket))
    plugin = ChannelsPlugin(backend, channels=[TOPIC], create_ws_route_handlers=True, ws_handler_base_path="/ws")
    return Litestar([publish], plugins=[plugin])


if __name__ == "__main__":
    uvicorn.run(
        app(sys.argv[2]),
        port=int(sys.argv[1]),
        ws="websockets-sansio",
        loop="uvloop",
        log_level="warning",
        backlog=4096,
    )
