"""Which part of the program a file belongs to. Measuring itself needs a C compiler and is left to whoever measures."""

from __future__ import annotations

import pytest

from hub import auth
from hub.edge import connection, keeper
from hub.fanout import membership, reader
from hub.topics import subscriptions
from loadtest.composition import OTHER, PARTS, part_of


@pytest.mark.parametrize(
    ("module", "part"),
    [
        (connection, "socket, connection, session"),
        (keeper, "deadlines"),
        (membership, "subscriptions and topics"),
        (subscriptions, "subscriptions and topics"),
        (reader, "the link to Redis: what is subscribed there"),
        (auth, "who it is: principal, lease, budget, ids"),
    ],
)
def test_where_a_module_allocates(module: object, part: str) -> None:
    assert part_of(str(module.__file__)) == part  # type: ignore[attr-defined]


def test_what_fits_nowhere_is_said_so() -> None:
    assert part_of("/somewhere/json/decoder.py") == OTHER
    assert OTHER not in dict(PARTS)
