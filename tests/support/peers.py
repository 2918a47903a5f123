"""Clients of one running hub, closed at the end of a test; each test has an organisation of its own."""

from __future__ import annotations

import contextlib
import secrets
from typing import Any

from hub.protocol.codec import Encoding
from hub.protocol.frames import Welcome
from tests.support.raw_client import RawClient, Transport, raw_client
from tests.support.running_hub import EVERYTHING, RunningHub


class Peers(contextlib.AsyncExitStack):
    """``open`` connects, ``join`` says hello too. Unless told otherwise it is user u1 of this test's organisation."""

    def __init__(
        self, hub: RunningHub, encoding: Encoding = Encoding.JSON, org: str = "", transport: Transport | None = None
    ) -> None:
        super().__init__()
        self.hub = hub
        self.transport = transport or hub.transport
        self.encoding = encoding
        self.org = org or f"org-{secrets.token_hex(4)}"
        self.welcome: Welcome
        """The one that the last ``join`` got."""
        self._allowed: set[str] = set()

    def allow_error(self, event: str) -> None:
        """The hub may log an error with this text: the test provokes it."""
        self._allowed.add(event)

    def token(self, user: str = "u1", *, scope: str | None = EVERYTHING, ttl_s: float = 3600.0, org: str = "") -> str:
        """A token of a user of this test's organisation."""
        return self.hub.token(org or self.org, user, scope=scope, ttl_s=ttl_s)

    async def open(self, token: str = "", **how: Any) -> RawClient:
        """A connection without hello, with whatever ``raw_client`` takes."""
        how = {"encoding": self.encoding, "transport": self.transport, **how}
        return await self.enter_async_context(raw_client(self.hub.url, token, **how))

    async def join(
        self,
        user: str = "u1",
        *,
        scope: str | None = EVERYTHING,
        org: str = "",
        encoding: Encoding | None = None,
        **hello: Any,
    ) -> RawClient:
        """A connection that said hello."""
        token = self.token(user, scope=scope, org=org)
        client = await self.open(token, encoding=encoding or self.encoding)
        self.welcome = await client.hello(**hello)
        return client

    def check_logs(self) -> None:
        """Nothing went wrong in the hub that the test did not provoke; forgets what was logged."""
        bad = [entry for entry in self.hub.logs.errors() if entry["event"] not in self._allowed]
        self.hub.logs.entries.clear()
        assert not bad, f"the hub logged errors: {bad}"
