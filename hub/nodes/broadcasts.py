"""What a service tells the same service on all nodes: at most once, to whoever is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from hub.fanout.control import Broadcast, Control
from hub.orgs import OrgId, parse_duty

OnBroadcast = Callable[[OrgId, str, dict[str, Any]], None]

_log = structlog.get_logger(__name__)


class Broadcasts:
    """Those of one node."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._receivers: dict[str, OnBroadcast] = {}
        control.on(Broadcast, self._receive)

    def on(self, purpose: str, receive: OnBroadcast) -> None:
        """Names who hears what is sent for ``purpose``: (organisation, name, message). Called on the event loop, must
        not block. Raises ``ValueError`` when somebody does already."""
        if purpose in self._receivers:
            raise ValueError(f"broadcasts for {purpose!r} are heard already")
        self._receivers[purpose] = receive

    async def send(self, purpose: str, org: OrgId, name: str, message: dict[str, Any]) -> None:
        """Tells all nodes, this one too. ``message`` is in the JSON model, and small.

        Nobody learns whether it has arrived. Raises ``unavailable``.
        """
        await self._control.send(Broadcast(purpose, str(org), name, message))

    def _receive(self, told: Broadcast) -> None:
        receive = self._receivers.get(told.purpose)
        if receive is None:
            return
        try:
            receive(*parse_duty(f"{told.org}/{told.name}"), told.message)
        except Exception:
            _log.exception("broadcast_failed", purpose=told.purpose)
