"""A service for tests: a topic kind for every rule and policy of the hub, and methods that behave and misbehave."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from hub.api import (
    ErrorCode,
    History,
    Hub,
    HubError,
    Principal,
    Service,
    SlowPolicy,
    Switch,
    TopicKind,
)
from tests.support.intakes import Intakes

SERVICES = ("finance", "guest", "staff")
SMALL = 5
"""Events that the kind ``small`` keeps."""


class TestService:
    """Registers everything; ``slow`` methods wait until the test releases them."""

    __test__ = False

    def __init__(self) -> None:
        self.hub: Hub
        self.released = asyncio.Event()
        self.running = 0
        self.callers: list[tuple[str, str]] = []
        self.params: list[dict[str, Any]] = []
        self.intakes = Intakes()

    def release(self, loop: asyncio.AbstractEventLoop) -> None:
        """Lets all calls of ``test.slow`` end; may be called from another thread."""
        loop.call_soon_threadsafe(self.released.set)

    def beside_others(self, hub: Hub) -> Service:
        """The same without the kind ``events``, which a service that ships registers."""
        service = self.factory(hub)
        return dataclasses.replace(service, kinds=[kind for kind in service.kinds if kind.name != "events"])

    def factory(self, hub: Hub) -> Service:
        """What the hub is given."""
        self.hub = hub
        plenty = History(count=10_000, bytes=64 * 1024 * 1024, age_s=3600)
        return Service(
            name="test",
            kinds=[
                TopicKind(name="events", exists=lambda key: key in SERVICES),
                TopicKind(name="room", history=plenty, may_subscribe=_member, may_publish=_member),
                TopicKind(name="small", history=History(count=SMALL, bytes=1_000_000, age_s=3600)),
                TopicKind(name="big", history=plenty),
                TopicKind(name="typing", history=None, slow=SlowPolicy.GAP),
                TopicKind(name="feed", history=plenty, slow=SlowPolicy.GAP),
                TopicKind(name="price", history=plenty, slow=SlowPolicy.LATEST, latest_tag="symbol"),
                TopicKind(name="paced", history=plenty, paced=True),
                TopicKind(name="late", history_from=_from_third),
            ],
            methods={
                "test.echo": self._echo,
                "test.refuse": _refuse,
                "test.crash": _crash,
                "test.unencodable": _unencodable,
                "test.slow": self._slow,
            },
            switches=[
                Switch("finance_realtime_v2", ("events:finance",), socket_only=True),
                Switch("rooms", ("room:", "test.echo", "test.intake")),
            ],
            caller_methods={
                "test.intake": self.intakes.open,
                "test.credit": self.intakes.credit,
                "test.close": self.intakes.close,
            },
        )

    async def _echo(self, principal: Principal, params: dict[str, Any]) -> Any:
        self.callers.append((str(principal.org), principal.user))
        self.params.append(params)
        return params

    async def _slow(self, principal: Principal, params: dict[str, Any]) -> Any:
        self.running += 1
        try:
            await self.released.wait()
        finally:
            self.running -= 1
        return "at last"


async def _member(principal: Principal, key: str) -> bool:
    """Rooms called ``private-…`` are for the user whose name ends them."""
    return not key.startswith("private-") or key == f"private-{principal.user}"


async def _from_third(principal: Principal, key: str) -> int:
    return 3


async def _refuse(principal: Principal, params: dict[str, Any]) -> Any:
    raise HubError(ErrorCode.CONFLICT, "it has changed", details={"version": 7})


async def _crash(principal: Principal, params: dict[str, Any]) -> Any:
    raise RuntimeError("a fault of the method, on purpose")


async def _unencodable(principal: Principal, params: dict[str, Any]) -> Any:
    return object()
