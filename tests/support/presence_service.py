"""A service for tests of presence: topics with and without history, and one that is somebody's."""

from __future__ import annotations

from typing import Any

from hub.api import History, Hub, Principal, Service, SlowPolicy, TopicKind, bad_request

PLENTY = History(count=10_000, bytes=64 * 1024 * 1024, age_s=3600)


def presence_service(_: Hub) -> Service:
    """What the hub is given."""
    return Service(
        name="presence-test",
        kinds=[
            TopicKind(name="party", history=PLENTY, presence=True, may_subscribe=_invited),
            TopicKind(name="lobby", history=None, slow=SlowPolicy.GAP, presence=True),
            TopicKind(name="plain", history=PLENTY),
        ],
        methods={"party.wave": _wave},
    )


async def _wave(_: Principal, params: dict[str, Any]) -> dict[str, Any]:
    if not params.get("hand"):
        raise bad_request("with which hand?")
    return {}


async def _invited(principal: Principal, key: str) -> bool:
    return not key.startswith("private-") or key == f"private-{principal.user}"


SERVICES = (presence_service,)
