"""The whole hub under load: tokens, organisations, numbers, history and flow control on, as ``hub serve`` runs it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hiredis
import httpx
import msgspec
import redis

from hub.auth.tokens import mint_token
from hub.config import Settings, load_settings
from hub.fanout.bodies import encode_body
from hub.fanout.broker import Draft
from hub.fanout.publisher import event_id
from hub.fanout.scripts import PUBLISH, publish_call
from hub.orgs import OrgId
from hub.topics.topic import Topic
from loadtest.generators import Clients, Publication
from loadtest.servers import EVENT_BYTES, Server, payload, python
from loadtest.service import HISTORY, KIND

ORG = "acme"
SCOPE = "subscribe:* publish:* call:*"
SHARED = "00000"
_SECRET = "a-secret-of-the-bench-that-is-none"
_AROUND_DATA = 135  # what the hub puts around `data` in an event of KIND


class HubServer(Server):
    """One node over ``redis_url``."""

    name = "hub"

    def __init__(self, folder: Path, redis_url: str, **changes: Any) -> None:
        super().__init__(folder)
        self._redis_url = redis_url
        self._changes = changes

    def twin(self, folder: Path) -> HubServer:
        """Another node of the same deployment; not started yet."""
        return HubServer(folder, self._redis_url, **self._changes)

    @property
    def settings(self) -> Settings:
        """The settings that the node reads from its environment."""
        return load_settings(self.environment())

    def command(self) -> Sequence[str]:
        return python("hub.cli", "serve")

    def environment(self) -> Mapping[str, str]:
        own = {
            "PORT": self.port,
            "LOG_LEVEL": "warning",
            "HUB_REDIS_URL": self._redis_url,
            "HUB_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",  # nothing of what is measured asks it
            "HUB_JWT_SECRET": _SECRET,
            "HUB_SERVICES": "loadtest.service:SERVICES",
            "HUB_MAX_CONNECTIONS_PER_ORG": 100_000,
            "HUB_MAX_CONNECTIONS_PER_USER": 100_000,
            **{f"HUB_{name.upper()}": value for name, value in self._changes.items()},
        }
        return {name: str(value) for name, value in own.items()}

    def ready(self) -> bool:
        try:
            return self.metric("hub_ready") == 1
        except httpx.HTTPError:
            return False

    def start(self) -> None:
        super().start()
        with redis.Redis.from_url(self._redis_url, protocol=3) as link:
            link.script_load(PUBLISH.text)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        return sum(float(line.rsplit(" ", 1)[1]) for line in self._metrics(name))

    def buckets(self, name: str) -> dict[float, float]:
        """A histogram without further labels: how many were up to each limit."""
        pairs = (line.split('"')[1::2] + line.rsplit(" ", 1)[1:] for line in self._metrics(f"{name}_bucket"))
        return {float(limit): float(count) for limit, count in pairs}

    def _metrics(self, name: str) -> list[str]:
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=30).text
        return [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]

    # --- what clients say

    def tokens(self, count: int, org: str = ORG) -> list[str]:
        """Authorization headers of ``count`` different users."""
        settings = self.settings
        return [
            f"Authorization: Bearer {mint_token(settings, org, f'u{number}', scope=SCOPE)}" for number in range(count)
        ]

    def clients(self, connections: int, *, own_topics: bool = False) -> Clients:
        hello = self.hello([{"topic": f"{KIND}:{SHARED}"}])
        hellos = [self.hello([{"topic": f"{KIND}:{n:05d}"}]) for n in range(connections)] if own_topics else [hello]
        return self.saying(hellos, connections)

    def saying(self, hellos: Sequence[str], connections: int, org: str = ORG) -> Clients:
        """Clients that say these."""
        return Clients(port=self.port, headers=self.tokens(connections, org), hellos=hellos)

    @staticmethod
    def hello(subscribe: Sequence[Mapping[str, Any]]) -> str:
        """A ``hello`` frame."""
        return json.dumps({"type": "hello", "id": 1, "subscribe": list(subscribe)}, separators=(",", ":"))

    # --- how one publishes

    def publication(self) -> Publication:
        return self.publication_of("~~~~~")

    def publication_of(self, key: str, org: str = ORG, size: int = EVENT_BYTES) -> Publication:
        """The hub's own script, as a service in a process of its own would call it."""
        topic = Topic(OrgId.from_operator(org), KIND, key)
        body = encode_body(event_id(), "bench", msgspec.Raw(payload(size - _AROUND_DATA)), None, None)
        call = publish_call(Draft(topic, HISTORY, body), self.settings, sharded=False)
        return Publication(to=self._redis_path, message=call.packed(), answer="*4\r\n")

    def publish_many(self, topics: int, events: int) -> dict[str, tuple[str, int]]:
        """Writes to the topics 0, 1, 2 …; returns where each stands (epoch, seq)."""
        message = self.publication().message
        positions = {}
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(self._redis_path)
            reader = hiredis.Reader()
            for number in range(topics):
                key = f"{number:05d}"
                link.sendall(message.replace(b"~~~~~", key.encode()) * events)
                for _ in range(events):
                    while (reply := reader.gets()) is False:
                        reader.feed(link.recv(65536))
                    positions[key] = (reply[0].decode(), reply[1])
        return positions

    def http_publication(self, token: str, events: int = 1, key: str = SHARED) -> Publication:
        """``POST /v1/publish`` with one event, or with a list."""
        data = payload(EVENT_BYTES - _AROUND_DATA).decode()
        event = f'{{"topic":"{KIND}:{key}","name":"bench","data":{data}}}'
        body = event if events == 1 else "[" + ",".join([event] * events) + "]"
        head = f"POST /v1/publish HTTP/1.1\r\nHost: hub\r\n{token}\r\nContent-Type: application/json\r\n"
        message = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        return Publication(to=f"127.0.0.1:{self.port}", message=message, answer="HTTP/1.1 200")

    @property
    def _redis_path(self) -> str:
        return self._redis_url.removeprefix("unix://")

    def wait_until_empty(self, limit_s: float = 20.0) -> None:
        """Waits until nobody is connected, so that one measurement does not pay for the clients of the one before."""
        deadline = time.monotonic() + limit_s
        while self.metric("hub_connections") > 0 and time.monotonic() < deadline:
            time.sleep(0.1)
