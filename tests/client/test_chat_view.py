"""The view of a room: pages and events in any interleaving lead to what the room's database holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.client.chat import RoomView
from hub.client.errors import ProtocolViolation
from hub.client.messages import Message
from tests.client.chat_store import Data, Happened, Store, as_message


def room_of(count: int, *, limit: int = 500, page: int = 3) -> tuple[Store, RoomView]:
    store = Store()
    for _ in range(count):
        store.create("ann")
    view = RoomView("me", limit=limit)
    view.start(store.page(page), {"room": "r", "name": "R", "role": "member", "read": 0})
    return store, view


def deliver(store: Store, view: RoomView, since: int = 0) -> None:
    for event in store.events[since:]:
        view.apply(event)


def shown(view: RoomView) -> dict[int, str]:
    return {message.number: "gone" if message.deleted else message.text for message in view.messages}


def test_a_page_and_what_follows_make_no_seam() -> None:
    store, view = room_of(5)
    assert shown(view) == {3: "t3", 4: "t4", 5: "t5"}
    store.edit(4)
    store.create("ben")
    store.delete([3])
    deliver(store, view)
    assert shown(view) == {3: "gone", 4: "e6", 5: "t5", 7: "t7"}
    assert view.number == 8
    assert (view.more_before, view.more_after, view.oldest, view.newest) == (True, False, 3, 7)
    tombstone = view.get(3)
    assert tombstone is not None
    assert (tombstone.text, tombstone.reason, tombstone.deleted_at, tombstone.author) == ("", "owner", 7, "ann")


def test_older_pages_know_more_or_less_than_the_events_so_far() -> None:
    store, view = room_of(6, page=2)
    store.edit(6)
    ahead = store.page(2, before=5)
    store.edit(3)
    behind_view = RoomView("me")
    behind_view.start(store.page(2))
    assert view.load(ahead, before=5)
    deliver(store, view)
    assert shown(view)[3] == "e8"
    assert shown(view)[6] == "e7"

    # The page was read, then events came before it was here.
    early = store.page(2, before=3)
    store.delete([1])
    store.react(2, "ben", "👍", on=True)
    deliver(store, view)
    assert view.load(early, before=3)
    assert shown(view) == {1: "gone", 2: "t2", 3: "e8", 4: "t4", 5: "t5", 6: "e7"}
    assert view.messages[1].reactions == {"👍": ("ben",)}
    assert not view.more_before


def test_a_page_that_is_too_old_or_does_not_fit_any_more_is_refused() -> None:
    store = Store()
    for _ in range(8):
        store.create("ann")
    view = RoomView(limit=4, log_events=2)
    view.start(store.page(2))
    early = store.page(2, before=7)
    for _ in range(3):
        store.edit(1)
    deliver(store, view)
    assert not view.load(early, before=7)
    assert view.load(store.page(2, before=7), before=7)
    for _ in range(3):
        store.create("ann")
    page = store.page(2, before=5)
    deliver(store, view)
    assert view.oldest == 8, "the window moved on"
    assert not view.load(page, before=5)


def test_the_window_is_bounded_at_the_end_that_is_not_looked_at() -> None:
    store, view = room_of(10, limit=4, page=4)
    store.create("ann")
    deliver(store, view)
    assert list(shown(view)) == [8, 9, 10, 11]
    assert view.load(store.page(3, before=8), before=8)
    assert list(shown(view)) == [5, 6, 7, 8]
    assert view.more_after
    number = store.create("ann")
    deliver(store, view)
    assert list(shown(view)) == [5, 6, 7, 8], "what is new does not follow 8"
    store.edit(6)
    store.edit(number)
    deliver(store, view)
    assert shown(view)[6].startswith("e")
    assert view.load(store.page(9, after=8), after=8)
    assert (list(shown(view)), view.more_before, view.more_after) == ([9, 10, 11, 12], True, False)


def test_around_a_message_and_back() -> None:
    store, view = room_of(20)
    assert view.load(store.page(4, around=5))
    assert (list(shown(view)), view.more_after, view.more_before) == ([3, 4, 5, 6], True, True)
    back = store.page(3)
    store.create("ann")
    deliver(store, view)
    assert view.load(back)
    assert list(shown(view)) == [18, 19, 20, 21], "what came after the page was read is there too"


def test_no_message_goes_back_to_what_it_was() -> None:
    store, view = room_of(2, page=1)
    store.edit(1)
    store.edit(1)
    view.load(store.page(1, before=2), before=2)
    assert shown(view)[1] == "e4"
    for event in store.events[2:]:
        view.apply(event)
        assert shown(view)[1] == "e4"


def test_a_page_of_the_end_that_is_ahead_of_the_events() -> None:
    store, view = room_of(9)
    view.load(store.page(4, around=5))
    for _ in range(5):
        store.create("ann")
    assert view.load(store.page(3))
    deliver(store, view)
    assert list(shown(view)) == [12, 13, 14], "10 and 11 came later than the page, and are before it"


def test_an_empty_room_and_pages_without_messages() -> None:
    store, view = room_of(0)
    assert (view.messages, view.more_before, view.more_after, view.oldest, view.newest) == (
        [],
        False,
        False,
        None,
        None,
    )
    store.create("ann")
    deliver(store, view)
    assert view.load(store.page(5, before=1), before=1)
    assert view.load(store.page(5, after=1), after=1)
    assert (list(shown(view)), view.more_before, view.more_after) == ([1], False, False)


def test_after_a_gap_nothing_of_before_counts() -> None:
    store, view = room_of(4)
    store.join("ben", "member")
    deliver(store, view)
    lost = len(store.events)
    store.edit(3)
    store.leave("ben")
    store.create("ann")
    view.start(store.page(2))
    assert shown(view) == {4: "t4", 8: "t8"}
    assert view.members == {}
    assert view.room["name"] == "R"
    deliver(store, view, lost)
    assert shown(view) == {4: "t4", 8: "t8"}


def test_members_and_the_room() -> None:
    store, view = room_of(1)
    store.join("ben", "member")
    asked_at = view.number
    listed = store.member_list()
    store.join("ben", "owner")
    store.join("me", "reader")
    deliver(store, view)
    view.load_members(listed, asked_at)
    assert view.members["ben"].role == "owner", "an event that is newer than the list"
    assert view.members["me"].name == "Me"
    assert view.room["role"] == "reader"
    store.leave("ben")
    store.leave("me")
    deliver(store, view)
    assert view.members == {}
    assert view.room["role"] is None
    view.load_members(listed, asked_at)
    assert view.members == {}
    view.apply(Happened("room.changed", {"number": 99, "room": {"name": "S", "public": True, "archived": True}}))
    assert (view.room["name"], view.room["archived"], view.room["room"]) == ("S", True, "r")


def test_reads() -> None:
    store, view = room_of(3)
    assert view.reads == {"ann": 3, "me": 0}, "who writes has read"
    store.join("ben", "member")
    assert store.reads["ben"] == 3
    deliver(store, view)
    assert (view.readers(2), view.readers(3)) == (["ben"], ["ben"])
    store.create("ann")
    deliver(store, view)
    assert (view.readers(5), view.reads["ann"]) == ([], 5)
    view.apply(Happened("read", {"number": 90, "readers": {"ben": 1, "me": 2}}))
    assert view.reads == {"ann": 5, "ben": 3, "me": 2}, "monotone"
    assert (view.unread, view.unread_elsewhere) == (2, False)
    view.own_read(5)
    view.own_read(1)
    assert (view.read, view.unread) == (5, 0)
    view.apply(Happened("member.left", {"number": 91, "user": "ben", "by": "ben"}))
    view.apply(Happened("read", {"number": 92, "readers": {"ben": 3}}))
    assert view.reads == {"ann": 5, "me": 5}, "who has left"
    view.apply(Happened("member.joined", {"number": 93, "user": "ben", "name": "Ben", "role": "member"}))
    assert view.reads == {"ann": 5, "me": 5, "ben": 5}, "what was said before is not new"


def test_unread_counts_what_is_in_the_window_and_says_when_there_may_be_more() -> None:
    store, view = room_of(5, page=2)
    store.create("ann")
    store.delete([5])
    deliver(store, view)
    assert (view.unread, view.unread_elsewhere) == (3, True)
    view.own_read(4)
    assert (view.unread, view.unread_elsewhere) == (2, False)
    store.create("me")
    store.create("ann")
    deliver(store, view)
    assert view.unread == 1
    view.apply(Happened("member.left", {"number": 90, "user": "me", "by": "me"}))
    assert view.unread == 0, "who is no member has nothing to read"


def test_a_text_that_was_superseded_comes_with_a_later_event() -> None:
    store, view = room_of(1)
    store.create("ann", "first")
    store.edit(1, "once")
    store.edit(1, "twice")
    store.edit(2, "second")
    events = [store.event(index, redacted=True) for index in range(1, 5)]
    view.apply(events[0])
    (_, created) = view.messages
    assert (created.superseded, created.text) == (True, "")
    view.apply(events[1])
    assert shown(view)[1] == "t1", "not yet"
    for event in events[2:]:
        view.apply(event)
    assert shown(view) == {1: "twice", 2: "second"}
    assert not view.messages[1].superseded


def test_typing_expires_and_ends_with_the_message() -> None:
    store, view = room_of(1)
    typing = {"user": "ann", "name": "Ann", "on": True, "expires_in_ms": 6000}
    assert view.apply(Happened("typing", typing), 10.0)
    view.apply(Happened("typing", {**typing, "user": "ben", "name": "Ben"}), 12.0)
    view.apply(Happened("typing", {**typing, "user": "me"}), 12.0)
    assert view.typing(15.9) == {"ann": "Ann", "ben": "Ben"}
    assert view.typing(16.0) == {"ben": "Ben"}
    view.apply(Happened("typing", typing), 16.0)
    store.create("ann")
    deliver(store, view)
    assert view.typing(16.5) == {"ben": "Ben"}
    view.apply(Happened("typing", {**typing, "user": "ben", "on": False}), 16.5)
    assert view.typing(16.5) == {}
    view.apply(Happened("typing", {**typing, "expires_in_ms": 10**12}), 20.0)
    assert view.typing(81.0) == {}


def test_reactions() -> None:
    store, view = room_of(1)
    for user, emoji, on in (
        ("a", "👍", True),
        ("b", "👍", True),
        ("a", "🎉", True),
        ("a", "👍", False),
        ("a", "🎉", False),
    ):
        store.react(1, user, emoji, on)
    deliver(store, view)
    assert view.messages[0].reactions == {"👍": ("b",)}
    again = {"number": 50, "message": 1, "user": "b", "emoji": "👍", "on": True}
    assert view.apply(Happened("reaction", again))
    assert view.messages[0].reactions == {"👍": ("b",)}


def test_what_it_does_not_know_is_ignored_and_nonsense_is_not() -> None:
    _, view = room_of(2)
    assert not view.apply(Happened("presence", {"action": "join"}))
    assert not view.apply(Happened("invented.later", {"number": 50}))
    assert view.apply(Happened("message.edited", {"number": 60, "message": {"number": 40, "author": "x", "new": 1}}))
    assert view.apply(Happened("message.deleted", {"number": 61, "messages": [41]}))
    assert view.apply(Happened("reaction", {"number": 62, "message": 42, "user": "x", "emoji": "y", "on": True}))
    assert not view.apply(Happened("message.deleted", {"number": 62, "messages": [1]})), "it was there before"
    assert shown(view) == {1: "t1", 2: "t2"}
    for name, data in (("message.created", {"number": 70}), ("reaction", {"number": 71}), ("read", {"number": "x"})):
        with pytest.raises(ProtocolViolation, match="malformed"):
            view.apply(Happened(name, data))


class Interleaving:
    """A store, a view, events and pages on their way between them; hypothesis says what happens next."""

    USERS = ("ann", "ben", "me")
    ACTS = ("create", "create", "create", "edit", "delete", "react", "read", "join", "leave", "event", "event", "event",
            "ask", "answer", "answer")  # fmt: skip

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self.draw = draw
        self.redacts = draw(st.booleans())
        self.store = Store()
        for _ in range(draw(st.integers(0, 6))):
            self.create()
        self.limit = draw(st.sampled_from((3, 500)))
        self.view = RoomView("me", limit=self.limit, log_events=draw(st.sampled_from((2, 500))))
        self.view.start(self.store.page(3))
        self.delivered = draw(st.integers(0, self.store.number))  # some come again
        self.asked: list[tuple[Data, dict[str, int]]] = []

    def message(self) -> int:
        return int(self.draw(st.sampled_from(list(self.store.messages))))

    def user(self) -> str:
        return str(self.draw(st.sampled_from(self.USERS)))

    def act(self, name: str) -> None:
        if self.store.messages or name not in ("edit", "delete", "react", "read"):
            getattr(self, name)()

    def create(self) -> None:
        author = self.user()
        if author not in self.store.members:
            self.store.join(author, "member")
        self.store.create(author)

    def edit(self) -> None:
        self.store.edit(self.message())

    def delete(self) -> None:
        self.store.delete(list({self.message(), self.message()}))

    def react(self) -> None:
        self.store.react(self.message(), self.user(), "👍", self.draw(st.booleans()))

    def read(self) -> None:
        self.store.read(self.user(), self.message())

    def join(self) -> None:
        self.store.join(self.user(), self.draw(st.sampled_from(("member", "owner"))))

    def leave(self) -> None:
        self.store.leave(self.user())

    def event(self) -> None:
        if self.delivered < len(self.store.events):
            self.view.apply(self.store.event(self.delivered, redacted=self.redacts and self.draw(st.booleans())))
            self.delivered += 1

    def ask(self) -> None:
        anchor: dict[str, int] = {}
        if self.view.oldest is not None and self.view.newest is not None:
            anchors = ({}, {"before": self.view.oldest}, {"after": self.view.newest}, {"around": self.message()})
            anchor = self.draw(st.sampled_from(anchors))
        page = self.store.page(self.draw(st.integers(1, 4)), **anchor)
        anchor.pop("around", None)
        self.asked.append((page, anchor))

    def answer(self) -> None:
        if self.asked:
            page, anchor = self.asked.pop(0)
            self.view.load(page, **anchor)

    def check(self) -> None:
        """The window has no hole, and each message is what it was at the number up to which it is known."""
        view, numbers = self.view, list(self.store.messages)
        if view.oldest is None or view.newest is None:
            assert view.more_after or view.more_before or not [number for number in numbers if number <= view.number]
            return
        assert list(shown(view)) == [number for number in numbers if view.oldest <= number <= view.newest]
        assert len(view.messages) <= max(self.limit, 4)
        if not view.more_before:
            assert view.oldest == numbers[0]
        if not view.more_after:
            assert [number for number in numbers if view.newest < number <= view.number] == []
        if not self.redacts:
            for message in view.messages:
                assert unordered(message) == unordered(self.store.states[view._known[message.number]][message.number])


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_interleaving_of_pages_and_events(data: st.DataObject) -> None:
    it = Interleaving(data.draw)
    for name in data.draw(st.lists(st.sampled_from(Interleaving.ACTS), max_size=40)):
        it.act(name)
        it.check()
    while it.asked:
        it.answer()
    while it.delivered < len(it.store.events):
        it.event()
    it.check()
    for message in it.view.messages:
        assert unordered(message) == unordered(as_message(it.store.messages[message.number]))
    assert it.view.reads == it.store.reads
    if not it.view.more_after:
        assert it.view.newest == (max(it.store.messages) if it.store.messages else None)
    it.view.load_members(it.store.member_list(), it.view.number)
    assert {user: member.role for user, member in it.view.members.items()} == it.store.members


def unordered(message: Message) -> Any:
    """Who reacted first is nobody's business."""
    reactions = {emoji: frozenset(users) for emoji, users in message.reactions.items()}
    return {name: getattr(message, name) for name in Message.__struct_fields__ if name != "reactions"} | reactions
