"""What other nodes ask of this one's connections."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hub.edge.takeover import close_taken_over
from hub.fanout.control import TakeOver
from hub.protocol.codes import CloseCode


class Link:
    """Of a connection, as much as is needed here."""

    def __init__(self, name: str, session: str) -> None:
        self.id = name
        self.session_id = session
        self.socket = SimpleNamespace(transport="websocket")
        self.closed: list[CloseCode] = []

    def close(self, code: CloseCode) -> None:
        self.closed.append(code)


def test_a_late_take_over_spares_whoever_has_the_session_by_now() -> None:
    older, newest, other = Link("c1", "s_1"), Link("c3", "s_1"), Link("c4", "s_2")
    links = {link.id: link for link in (older, newest, other)}
    gateway: Any = SimpleNamespace(connections=SimpleNamespace(of_id=links.get))
    close_taken_over(gateway, TakeOver("s_1", "c1"))  # c2 has sent it, and is gone again
    close_taken_over(gateway, TakeOver("s_1", "c4"))
    close_taken_over(gateway, TakeOver("s_1", "long gone"))
    assert older.closed == [CloseCode.TAKEN_OVER]
    assert newest.closed == other.closed == []
