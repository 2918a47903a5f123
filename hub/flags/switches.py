"""What each flag covers: topics, methods and paths. A service declares its switches; the edge asks them.

Pure: a name in, a switch out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

SOCKET: Final = "websocket"
REALTIME: Final = "realtime_v2"
"""Whether somebody is to have the socket at all."""
COMPRESSION: Final = "compression"
"""Whether a socket may compress."""
PRESENCE: Final = "presence"
"""Whether somebody is shown as present."""
FALLBACK: Final = ("sse", "poll")
"""Transports by which a client gets the same frames when the socket is not for it, the better one first."""


class Switch(Struct, frozen=True):
    """One flag and what it covers.

    ``covers``: ``chat:`` (all topics of a kind), ``events:finance`` (one topic), ``chat.`` (methods), ``/v1/uploads``
    (a path and everything below). ``socket_only``: the flag is about the WebSocket; other transports have it always.
    """

    flag: str
    covers: tuple[str, ...]
    socket_only: bool = False


class Switches:
    """All switches of a deployment, found by what they cover; the longest match counts."""

    def __init__(self, switches: Iterable[Switch] = ()) -> None:
        self._exact: dict[str, Switch] = {}
        self._paths: list[tuple[str, Switch]] = []
        for switch in switches:
            for covered in switch.covers:
                if covered.startswith("/"):
                    self._paths.append((covered, switch))
                elif self._exact.setdefault(covered, switch).flag != switch.flag:
                    raise ValueError(f"{covered} is covered by two flags: {self._exact[covered].flag}, {switch.flag}")
        self._paths.sort(key=lambda item: len(item[0]), reverse=True)

    @property
    def flags(self) -> frozenset[str]:
        """Every flag that the code asks: what covers something, and the hub's own."""
        covering = {switch.flag for switch in (*self._exact.values(), *(one for _, one in self._paths))}
        return frozenset({REALTIME, COMPRESSION, PRESENCE, *covering})

    def of_topic(self, text: str) -> Switch | None:
        """The switch of a topic, as clients write it."""
        return self._exact.get(text) or self._exact.get(text.partition(":")[0] + ":")

    def of_method(self, name: str) -> Switch | None:
        """The switch of a method."""
        return self._exact.get(name) or self._exact.get(name.partition(".")[0] + ".")

    def of_path(self, path: str) -> Switch | None:
        """The switch of a path."""
        for branch, switch in self._paths:
            if path == branch or path.startswith(f"{branch}/"):
                return switch
        return None


HUB_SWITCHES: Final = (Switch(PRESENCE, ("presence.",)),)
"""What the hub itself has behind a flag."""
