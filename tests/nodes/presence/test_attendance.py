"""Attendance: what several connections make of a user, grace, idleness, and what there is to tell of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from hub.config import Settings
from hub.errors import HubError
from hub.nodes.presence import attendance as module
from hub.nodes.presence.attendance import Attendance, Attendant
from hub.nodes.presence.place import Place
from hub.nodes.presence.table import Change, Status
from hub.orgs import OrgId
from hub.telemetry import PresenceMetrics
from hub.topics.topic import Topic
from tests.support.clock import Clock
from tests.support.virtual_loop import run_virtually

ONLINE, AWAY, OFFLINE = Status.ONLINE, Status.AWAY, Status.OFFLINE
ROOM = Topic(OrgId.from_claim("acme"), "party", "a")
OTHER = Topic(OrgId.from_claim("acme"), "party", "b")


class Book:
    """An attendance by a clock that is moved by hand; ``tell`` is the registrar."""

    def __init__(self, **changes: Any) -> None:
        self.clock = Clock()
        self.registry = CollectorRegistry()
        settings = Settings(redis_url="x", database_url="x", **({"presence_grace_s": 5.0} | changes))
        self.due: list[Place] = []
        self.attendance = Attendance(settings, PresenceMetrics(self.registry), self.due.append, self.clock)

    def connection(self, user: str, *topics: Topic, name: str = "") -> Attendant:
        attendant = self.attendance.attendant(user, name)
        for topic in topics:
            self.attendance.enter(attendant, topic)
        return attendant

    def tell(self, arrived: bool = True, topic: Topic = ROOM) -> list[Change]:
        """Tells what is due, and returns it."""
        self.due.clear()
        place = self.place(topic)
        told = self.attendance.take(place, place.instance)
        self.attendance.settle(place, told, arrived=arrived)
        if not place.due:
            self.attendance.drop(place)
        return told.changes

    def place(self, topic: Topic = ROOM) -> Place:
        return next(place for place in self.attendance if place.topic == topic)

    @property
    def members(self) -> float | None:
        return self.registry.get_sample_value("hub_presence_members", {"kind": "party"})


def test_a_user_is_what_the_liveliest_connection_is() -> None:
    book = Book()
    phone = book.connection("ann", ROOM)
    assert book.tell() == [Change("ann", "", ONLINE)]
    laptop = book.connection("ann", ROOM)
    book.attendance.say(phone, AWAY)
    assert book.tell() == []
    book.attendance.say(laptop, AWAY)
    assert book.tell() == [Change("ann", "", AWAY)]
    book.attendance.say(phone, OFFLINE)
    book.attendance.say(laptop, ONLINE)
    assert book.tell() == [Change("ann", "", ONLINE)]
    book.attendance.leave(phone, ROOM)
    assert book.tell() == []
    book.attendance.leave(laptop, ROOM)
    assert book.members == 1
    assert book.tell() == [Change("ann", "", OFFLINE)]
    assert (len(book.attendance), book.members) == (0, 0)


def test_who_comes_and_goes_before_it_is_told_was_never_there() -> None:
    book = Book()
    book.attendance.leave(book.connection("ann", ROOM), ROOM)
    assert book.tell() == []
    assert (len(book.attendance), book.members) == (0, 0)


def test_topics_are_told_apart() -> None:
    book = Book()
    ann = book.connection("ann", ROOM, OTHER)
    book.tell()
    book.tell(topic=OTHER)
    book.attendance.leave(ann, ROOM)
    book.attendance.say(ann, AWAY)
    assert book.tell() == [Change("ann", "", OFFLINE)]
    assert book.tell(topic=OTHER) == [Change("ann", "", AWAY)]


def test_to_leave_what_one_is_not_in_changes_nothing() -> None:
    book = Book()
    ann = book.connection("ann", ROOM)
    book.attendance.leave(ann, OTHER)
    book.attendance.leave(book.connection("bob", OTHER), ROOM)
    assert book.tell() == [Change("ann", "", ONLINE)]


def test_who_is_offline_may_come_back_however_much_later() -> None:
    book = Book()
    ann = book.connection("ann", ROOM)
    book.tell()
    book.attendance.say(ann, OFFLINE)
    assert book.tell() == [Change("ann", "", OFFLINE)]
    assert len(book.attendance) == 1
    book.attendance.say(ann, ONLINE)
    assert book.tell() == [Change("ann", "", ONLINE)]
    book.attendance.say(ann, OFFLINE)
    book.attendance.leave(ann, ROOM)
    assert book.tell() == [Change("ann", "", OFFLINE)]
    assert len(book.attendance) == 0


def test_who_says_offline_before_he_comes_is_not_there() -> None:
    book = Book()
    ann = book.connection("ann")
    book.attendance.say(ann, OFFLINE)
    book.attendance.enter(ann, ROOM)
    assert (book.tell(), book.members) == ([], None)


def test_what_has_not_arrived_is_told_again_as_it_is_then() -> None:
    book = Book()
    ann = book.connection("ann", ROOM)
    assert book.tell(arrived=False) == [Change("ann", "", ONLINE)]
    book.attendance.say(ann, AWAY)
    assert book.tell(arrived=False) == [Change("ann", "", AWAY)]
    assert book.tell() == [Change("ann", "", AWAY)]
    book.attendance.leave(ann, ROOM)
    assert book.tell(arrived=False) == [Change("ann", "", OFFLINE)]
    book.attendance.enter(ann, ROOM)
    # It may have arrived: to be quiet because he was away before would be wrong.
    assert book.tell() == [Change("ann", "", AWAY)]


def test_what_changes_while_it_is_told_is_told_next() -> None:
    book = Book()
    ann = book.connection("ann", ROOM)
    place = book.place()
    told = book.attendance.take(place, place.instance)
    book.attendance.leave(ann, ROOM)
    book.attendance.settle(place, told, arrived=True)
    assert place.due
    assert book.tell() == [Change("ann", "", OFFLINE)]
    assert len(book.attendance) == 0


def test_everybody_is_told_anew_when_in_doubt() -> None:
    book = Book()
    for user in ("ann", "bob", "eve"):
        book.connection(user, ROOM)
    book.tell()
    gone = book.connection("zoe", ROOM)
    book.tell()
    book.attendance.leave(gone, ROOM)
    book.attendance.resync(ROOM)
    place = book.place()
    told = book.attendance.take(place, place.instance)
    assert told.whole
    assert [change.user for change in told.changes] == ["ann", "bob", "eve"]
    book.attendance.settle(place, told, arrived=False)
    assert place.whole
    told = book.attendance.take(place, place.instance)
    assert len(told.changes) == 3
    book.attendance.settle(place, told, arrived=True)
    assert not place.due
    assert book.members == 3


def test_a_new_name_is_told() -> None:
    book = Book()
    book.connection("ann", ROOM)
    book.tell()
    book.connection("ann", ROOM, name="Ann")
    assert book.tell() == [Change("ann", "Ann", ONLINE)]


def test_idle_is_away_until_something_is_done() -> None:
    book = Book(presence_away_s=60.0)
    ann = book.connection("ann", ROOM)
    book.tell()
    assert ann.look(book.clock.now) == book.clock.now + 60
    book.clock.now += 59
    assert ann.look(book.clock.now) == book.clock.now + 1
    assert not ann.acted()
    book.clock.now += 59
    assert ann.look(book.clock.now) == book.clock.now + 1
    assert book.tell() == []
    book.clock.now += 1
    assert ann.look(book.clock.now) > book.clock.now
    assert book.tell() == [Change("ann", "", AWAY)]
    assert ann.acted()
    assert book.tell() == [Change("ann", "", ONLINE)]


def test_what_a_client_says_sticks_and_online_is_no_promise() -> None:
    book = Book(presence_away_s=60.0)
    ann = book.connection("ann", ROOM)
    book.attendance.say(ann, AWAY)
    ann.acted()
    assert book.tell() == [Change("ann", "", AWAY)]
    book.attendance.say(ann, ONLINE)
    assert book.tell() == [Change("ann", "", ONLINE)]
    book.clock.now += 60
    ann.look(book.clock.now)
    assert book.tell() == [Change("ann", "", AWAY)]


def test_who_says_too_much_is_refused_until_later() -> None:
    book = Book(presence_set_s=2.0, presence_set_burst=3)
    ann = book.connection("ann", ROOM)
    for status in (AWAY, ONLINE, AWAY):
        book.attendance.say(ann, status)
    with pytest.raises(HubError) as refused:
        book.attendance.say(ann, ONLINE)
    assert (refused.value.code, refused.value.retry_after_ms) == ("rate_limited", 2000)
    assert book.tell() == [Change("ann", "", AWAY)]
    book.clock.now += 2
    book.attendance.say(ann, ONLINE)
    book.clock.now += 1
    with pytest.raises(HubError):
        book.attendance.say(ann, AWAY)
    book.clock.now += 1000
    for status in (AWAY, ONLINE, AWAY):
        book.attendance.say(ann, status)
    with pytest.raises(HubError):
        book.attendance.say(ann, ONLINE)


def test_nobody_is_away_by_himself_when_that_is_switched_off() -> None:
    book = Book(presence_away_s=0.0)
    ann = book.connection("ann", ROOM)
    book.clock.now += 1e6
    ann.look(book.clock.now)
    assert book.tell() == [Change("ann", "", ONLINE)]


def test_grace() -> None:
    async def play() -> None:
        book = Book(presence_grace_s=5.0)
        book.attendance.clock = book.clock = asyncio.get_running_loop().time  # type: ignore[assignment]
        ann, bob = book.connection("ann", ROOM), book.connection("bob", ROOM)
        book.tell()
        book.attendance.lost(ann)
        await asyncio.sleep(4)
        book.attendance.lost(bob)
        book.connection("ann", ROOM)
        assert not book.due
        await asyncio.sleep(4.9)
        assert book.tell() == []
        await asyncio.sleep(0.2)
        assert book.tell() == [Change("bob", "", OFFLINE)]
        book.attendance.close()

    run_virtually(play())


def test_who_was_away_is_so_in_his_grace() -> None:
    async def play() -> None:
        book = Book(presence_grace_s=5.0)
        ann = book.connection("ann", ROOM)
        book.attendance.say(ann, AWAY)
        book.tell()
        book.attendance.lost(ann)
        assert book.tell() == []
        book.attendance.close()

    run_virtually(play())


def test_when_it_closes_nobody_leaves() -> None:
    async def play() -> None:
        book = Book(presence_grace_s=1.0)
        ann, bob = book.connection("ann", ROOM), book.connection("bob", ROOM)
        book.tell()
        book.attendance.lost(ann)
        book.attendance.close()
        book.attendance.lost(bob)
        book.clock.now += 10
        await asyncio.sleep(10)
        assert book.tell() == []

    run_virtually(play())


@pytest.mark.parametrize("holding", [False, True])
def test_who_may_not_stay_has_no_grace(holding: bool) -> None:
    async def play() -> None:
        book = Book(presence_grace_s=5.0)
        ann, bob, eve = (book.connection(user, ROOM, OTHER) for user in ("ann", "bob", "eve"))
        book.tell()
        book.tell(topic=OTHER)
        if holding:
            book.attendance.hold()
        for attendant in (ann, bob):
            book.attendance.lost(attendant)
        book.attendance.expel(ROOM.channel, {"ann", "eve"})
        assert book.tell() == [Change("ann", "", OFFLINE)]
        assert book.tell(topic=OTHER) == []
        book.attendance.expel(ROOM.channel, None)
        assert book.tell() == [Change("bob", "", OFFLINE)]
        book.attendance.expel(b"nowhere", None)
        assert [place.topic for place in eve.places] == [ROOM, OTHER]
        book.attendance.close()

    run_virtually(play())


def test_whose_tokens_are_revoked_has_no_grace() -> None:
    async def play() -> None:
        book = Book(presence_grace_s=5.0)
        old, fresh, other = (book.connection(user, ROOM, OTHER) for user in ("ann", "ann", "bob"))
        old.issued_at, fresh.issued_at = 100.0, 200.0
        book.tell()
        book.tell(topic=OTHER)
        for attendant in (old, fresh, other):
            book.attendance.lost(attendant)
        book.attendance.dismiss("other", "ann", 1e9)
        book.attendance.dismiss("acme", "ann", 100.0)
        assert book.tell() == []
        assert (old.places, len(fresh.places)) == ([], 2)
        book.attendance.dismiss("acme", "ann", 200.0)
        assert book.tell() == book.tell(topic=OTHER) == [Change("ann", "", OFFLINE)]
        book.attendance.close()

    run_virtually(play())


def test_a_user_is_renamed_where_others_see_him() -> None:
    book = Book()
    ann = book.connection("ann", ROOM, OTHER, name="Ann")
    book.connection("bob", ROOM)
    book.tell()
    book.tell(topic=OTHER)
    book.attendance.rename(ann, "Anna")
    assert book.tell() == book.tell(topic=OTHER) == [Change("ann", "Anna", ONLINE)]
    book.attendance.say(ann, OFFLINE)
    book.tell()
    book.attendance.rename(ann, "Annie")
    assert book.tell() == []
    book.attendance.say(ann, ONLINE)
    assert book.tell() == [Change("ann", "Annie", ONLINE)]


def test_what_many_topics_are_told_costs_more() -> None:
    book = Book(presence_set_s=1.0, presence_set_burst=10)
    topics = [Topic(ROOM.org, "party", f"t{number}") for number in range(900)]
    ann = book.connection("ann", *topics)
    book.attendance.say(ann, AWAY)
    with pytest.raises(HubError) as refused:
        book.attendance.say(ann, ONLINE)
    assert refused.value.retry_after_ms == 10_000
    bob = book.connection("bob", *topics[:99])
    for status in (AWAY, ONLINE) * 5:
        book.attendance.say(bob, status)


def test_when_a_node_leaves_only_those_leave_who_say_so() -> None:
    async def play() -> None:
        book = Book(presence_grace_s=1.0, max_connections=2)
        names = ("ann", "bob", "eve", "joe", "zoe")
        ann, bob, eve, joe, zoe = (book.connection(user, ROOM) for user in names)
        book.tell()
        book.attendance.lost(ann)
        book.attendance.hold()
        for attendant in (bob, eve, joe):
            book.attendance.lost(attendant)
        await asyncio.sleep(10)
        book.attendance.leave(zoe, ROOM)
        assert book.tell() == [Change("zoe", "", OFFLINE)]
        book.attendance.close()

    run_virtually(play())


@pytest.mark.parametrize("status", [ONLINE, AWAY, OFFLINE])
def test_who_follows_a_connection_begins_as_that_was(status: Status) -> None:
    book = Book()
    first = book.connection("ann")
    assert first.kept == ""
    book.attendance.say(first, status)
    second = book.attendance.attendant("ann", "", first.kept)
    assert (second.status, second.said) == (status, first.said)
    assert not second.acted()
    assert second.kept == first.kept


def test_who_follows_an_idle_connection_is_away_until_he_does_something() -> None:
    book = Book(presence_away_s=60.0)
    first = book.connection("ann")
    book.clock.now += 60
    first.look(book.clock.now)
    second = book.attendance.attendant("ann", "", first.kept)
    book.attendance.enter(second, ROOM)
    assert book.tell() == [Change("ann", "", AWAY)]
    assert second.acted()
    assert book.tell() == [Change("ann", "", ONLINE)]
    assert second.kept == ""


async def test_many_whose_grace_ends_leave_a_few_at_a_time() -> None:
    book = Book(presence_grace_s=0.0)
    many = [book.connection(f"u{number}", ROOM) for number in range(3 * module.LEAVES_AT_ONCE)]
    book.tell()
    for attendant in many:
        book.attendance.lost(attendant)
    left: list[int] = []
    async with asyncio.timeout(15):
        while len(book.attendance):
            await asyncio.sleep(0)
            left.append(len(book.tell()))
    assert sum(left) == len(many)
    assert max(left) == module.LEAVES_AT_ONCE


async def test_more_in_grace_than_there_may_be_connections_leave_early() -> None:
    book = Book(presence_grace_s=60.0, max_connections=2)
    for user in ("ann", "bob", "eve"):
        connection = book.connection(user, ROOM)
        book.tell()
        book.attendance.lost(connection)
    assert book.tell() == [Change("ann", "", OFFLINE)]
    book.attendance.close()


def test_a_change_costs_the_same_however_many_are_here() -> None:
    book = Book()
    for number in range(10_000):
        book.connection(f"u{number}", ROOM)
    book.tell()
    book.connection("ann", ROOM)
    place = book.place()
    assert list(place.dirty) == ["ann"]
    assert book.tell() == [Change("ann", "", ONLINE)]
