"""Which transport comes next. No clock but the numbers given."""

from __future__ import annotations

from typing import Any

import pytest

from hub.client import ClientOptions
from hub.client.ladder import Ladder
from hub.client.transport import ABNORMAL, Ended

BARRED = Ended(ABNORMAL, "HTTP 403", 403, in_the_way=True)
SILENT = Ended(ABNORMAL, "timed out", in_the_way=True)
UNREACHED = Ended(ABNORMAL, "connection refused")
OFF = Ended(4403, "off", disabled=True, fallback=("sse", "poll"))


def ladder(*names: Any) -> Ladder:
    return Ladder(ClientOptions(transports=names or ("websocket", "sse", "poll"), upgrade_after_s=10, upgrade_max_s=50))


def test_what_something_is_in_the_way_of_comes_in_turn() -> None:
    it, seen = ladder(), []
    for _ in range(4):
        seen.append(it.current)
        assert it.failed(SILENT, 0.0) is None
    assert seen == ["websocket", "sse", "poll", "websocket"]


def test_the_hubs_word_and_an_unreachable_hub_count_where_they_are() -> None:
    it = ladder()
    for ended in (UNREACHED, Ended(4401, "no"), Ended(ABNORMAL, "", 503)):
        assert it.failed(ended, 0.0) is ended
        assert it.current == "websocket"


def test_refused_everywhere_is_the_best_ones_refusal() -> None:
    it, first = ladder(), Ended(ABNORMAL, "first", 403, in_the_way=True)
    assert it.failed(first, 0.0) is None
    assert it.failed(BARRED, 0.0) is None
    assert it.failed(BARRED, 0.0) is first
    # One that only passes in between begins the count anew.
    it = ladder()
    for ended in (BARRED, BARRED, SILENT, BARRED, BARRED):
        assert it.failed(ended, 0.0) is None


def test_once_one_has_worked_nobody_on_the_way_refuses_for_good() -> None:
    for it in (ladder("websocket"), ladder("websocket", "sse")):
        it.welcomed("websocket", 0.0)
        for _ in range(10):
            ended = it.failed(BARRED, 1.0, 1.0)
            assert ended is None or ended.http_status is None


def test_a_single_one_has_nowhere_to_go() -> None:
    it = ladder("websocket")
    assert it.failed(SILENT, 0.0) is SILENT
    assert it.failed(OFF, 0.0) is OFF
    assert it.fall_to(("sse",), 0.0) is None
    assert it.climb_at is None


def test_proven_ones_get_another_chance_unless_they_were_open() -> None:
    it = ladder()
    it.welcomed("websocket", 0.0)
    it.failed(SILENT, 1.0)
    assert it.current == "websocket"
    it.failed(SILENT, 1.0)
    assert it.current == "sse"
    it.welcomed("sse", 2.0)
    it.failed(BARRED, 3.0, 1.0)
    assert it.current == "poll"


def test_falling_where_the_hub_says() -> None:
    it = ladder("websocket", "poll")
    assert it.failed(OFF, 0.0) is None
    assert it.current == "poll"
    assert it.fall_to(("poll",), 0.0) is None
    assert list(it.above) == ["websocket"]


def test_pauses_grow_and_a_short_stay_above_is_as_good_as_none() -> None:
    it, now, pauses = ladder(), 0.0, []
    it.welcomed("websocket", now)
    now = 100.0  # a long stay
    for _ in range(4):
        it.failed(BARRED, now, 1.0)
        it.welcomed("sse", now)
        assert it.climb_at is not None
        pauses.append(it.climb_at - now)
        now = it.climb_at
        it.welcomed("websocket", now)
        assert it.climb_at is None
        now += 1.0
    for pause, bound in zip(pauses, (10, 20, 40, 50), strict=True):
        assert bound * 0.75 <= pause <= bound
    now += 10.0
    it.fall_to(("sse",), now)
    it.welcomed("sse", now)
    assert it.climb_at is not None
    assert it.climb_at - now <= 10


def test_connections_that_are_cut_again_and_again() -> None:
    it, cut = ladder(), Ended(ABNORMAL, "")
    it.welcomed("websocket", 0.0)
    for lived_s in (5.0, 5.0, 600.0, 5.0, 5.0):
        assert it.failed(cut, 0.0, lived_s) is cut
    assert it.failed(Ended(4504, "draining"), 0.0, 5.0) is not None
    assert it.failed(cut, 0.0) is cut, "never welcomed: nobody was reached"
    assert it.failed(cut, 0.0, 5.0) is None
    assert it.current == "sse"
    it.welcomed("sse", 1.0)
    assert it.climb_at is not None
    it.welcomed("websocket", it.climb_at)
    assert it.failed(cut, 0.0, 5.0) is None, "it is known for that"
    it.welcomed("websocket", 2.0)
    it.lasted("websocket", 600.0)
    assert it.failed(cut, 0.0, 5.0) is cut
    only = ladder("poll")
    only.welcomed("poll", 0.0)
    assert {only.failed(cut, 0.0, 1.0) for _ in range(5)} == {cut}


def test_moves_that_the_hub_asks_for_are_not_in_vain() -> None:
    it, now = ladder(), 100.0
    for _ in range(5):
        it.welcomed("websocket", now)
        assert it.fall_to(("sse",), now + 0.1) == "sse"
        it.welcomed("sse", now)
        it.not_climbed(now, in_vain=False)
        assert it.climb_at is not None
        assert it.climb_at - now <= 10


def test_lost_connections_do_not_put_the_climb_off() -> None:
    it = ladder()
    it.fall_to(("sse",), 0.0)
    it.welcomed("sse", 0.0)
    due = it.climb_at
    it.welcomed("sse", 5.0)
    assert it.climb_at == due
    it.not_climbed(10.0, in_vain=True)
    assert it.climb_at is not None
    assert it.climb_at > 24.0
    it.climb_soon(11.0)
    assert 11.0 <= it.climb_at <= 11.5


@pytest.mark.parametrize("names", [(), ("carrier pigeon",), ("sse", "sse")])
def test_transports_there_are_not(names: Any) -> None:
    with pytest.raises(ValueError, match="name some of websocket, sse, poll"):
        ClientOptions(transports=names)


def test_what_came_too_early_is_tried_again_soon_for_a_while() -> None:
    it = ladder()
    it.welcomed("poll", 0.0)
    it.too_early = True
    it.climb_soon(10.0)
    for now in (10.0, 12.0, 14.9):
        it.not_climbed(now, in_vain=True)
        assert it.climb_at is not None
        assert now < it.climb_at <= now + 0.5
    it.not_climbed(15.0, in_vain=True)
    assert it.climb_at is not None
    assert it.climb_at > 20.0
