"""The view of who is present: the rule of versions, and that it ends where the truth is whatever is lost on the way."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.client.errors import ProtocolViolation
from hub.client.presence import PresenceView, Present

Data = dict[str, Any]


def change(action: str, version: int, user: str = "u1", status: str = "online", epoch: str = "k") -> Data:
    return {"action": action, "user": user, "name": user.title(), "status": status, "epoch": epoch,
            "version": version, "online": version, "away": 0}  # fmt: skip


def snapshot(version: int, *users: str, epoch: str = "k", listed: bool = True) -> Data:
    members = [{"user": user, "name": user.title(), "status": "online"} for user in users]
    return {"action": "snapshot", "epoch": epoch, "version": version, "online": len(users) if listed else 900,
            "away": 0, "listed": listed, "members": members if listed else []}  # fmt: skip


def test_begins_in_doubt_and_follows() -> None:
    view = PresenceView()
    assert view.doubtful
    assert view.apply(snapshot(5, "ann"))
    assert (view.doubtful, view.online, view.away) == (False, 1, 0)
    assert view.apply(change("join", 6, "ben"))
    assert view.apply(change("update", 7, "ben", "away"))
    assert view.members["ben"] == Present("ben", "Ben", "away")
    assert view.apply(change("leave", 8, "ann", "offline"))
    assert list(view.members) == ["ben"]
    assert view.online == 8, "counts are taken from the events"


def test_what_is_not_newer_is_dropped() -> None:
    view = PresenceView()
    view.apply(snapshot(5, "ann"))
    assert not view.apply(change("leave", 5, "ann", "offline"))
    assert not view.apply(snapshot(4))
    assert not view.apply(snapshot(5, "ann")), "nothing has changed"
    assert list(view.members) == ["ann"]


def test_a_hole_waits_for_the_snapshot_and_what_came_meanwhile_follows_it() -> None:
    view = PresenceView()
    view.apply(snapshot(5, "ann", "ben"))
    assert not view.apply(change("join", 8, "cid"))
    assert view.doubtful
    assert set(view.members) == {"ann", "ben"}
    view.apply(snapshot(7, "ann"))
    assert not view.doubtful
    assert set(view.members) == {"ann", "cid"}
    assert view.version == 8


def test_a_snapshot_that_does_not_close_the_hole() -> None:
    view = PresenceView()
    view.apply(snapshot(5, "ann"))
    view.apply(change("join", 9, "cid"))
    view.apply(snapshot(7, "ann", "ben"))
    assert view.doubtful
    view.apply(change("join", 8, "dan"))
    assert not view.doubtful
    assert set(view.members) == {"ann", "ben", "cid", "dan"}


def test_another_epoch() -> None:
    view = PresenceView()
    view.apply(snapshot(500, "ann"))
    assert not view.apply(change("join", 3, "ben", epoch="l"))
    assert view.doubtful
    view.apply(snapshot(2, "ann", epoch="l"))
    assert (view.doubtful, view.version, set(view.members)) == (False, 3, {"ann", "ben"})
    assert view.apply(snapshot(1, epoch="m")), "what the hub sends by itself is in order"
    assert view.members == {}


def test_an_answer_counts_only_in_doubt() -> None:
    view = PresenceView()
    view.apply(snapshot(5, "ann"))
    assert not view.answer({"epoch": "j", "version": 99, "online": 0, "away": 0, "listed": True, "members": []})
    view.apply(change("join", 2, "ben", epoch="l"))
    old = snapshot(6, epoch="k")
    assert view.answer(old)
    assert view.doubtful, "the answer was of the epoch before"
    view.answer(snapshot(4, "ben", epoch="l"))
    assert not view.doubtful


def test_too_many_to_list() -> None:
    view = PresenceView()
    view.apply(snapshot(5, "ann"))
    assert view.apply({"action": "count", "epoch": "k", "version": 40, "online": 900, "away": 20})
    assert (view.listed, view.members, view.online, view.away, view.doubtful) == (False, {}, 900, 20, False)
    assert not view.apply({"action": "count", "epoch": "k", "version": 39, "online": 1, "away": 0})
    assert not view.apply(change("leave", 41, "ann", "offline"))
    assert view.doubtful, "small enough again, but who is there is not known"
    view.apply(snapshot(41, "ben"))
    assert (view.listed, list(view.members), view.doubtful) == (True, ["ben"], False)
    assert view.apply(snapshot(42, listed=False))
    assert (view.listed, view.online, view.members) == (False, 900, {})


def test_when_to_ask() -> None:
    view = PresenceView()
    assert view.due_in_s(100.0, 2.0) == 2.0
    assert view.due_in_s(103.0, 2.0) == 0.0
    view.apply(snapshot(1), 103.0)
    assert view.due_in_s(200.0, 2.0) is None
    view.apply(change("join", 5), 201.0)
    view.apply(change("join", 6), 202.5)
    assert view.due_in_s(202.5, 2.0) == 0.5
    view.asked(203.0)
    assert view.due_in_s(203.0, 2.0) == 2.0


def test_what_it_does_not_know_is_ignored_and_nonsense_is_not() -> None:
    view = PresenceView()
    view.apply(snapshot(1, "ann"))
    assert not view.apply({"action": "dance", "epoch": "k", "version": 2})
    assert view.version == 1
    with pytest.raises(ProtocolViolation, match="malformed presence"):
        view.apply({"action": "join", "epoch": "k", "version": "2"})


def test_what_waits_is_bounded() -> None:
    view = PresenceView(max_waiting=3)
    view.apply(snapshot(1))
    for version in range(3, 10):
        view.apply(change("join", version, f"u{version}"))
    view.apply(snapshot(5))
    assert view.doubtful, "6 was let go"
    view.apply(snapshot(6))
    assert not view.doubtful
    assert set(view.members) == {"u7", "u8", "u9"}


USERS = ("ann", "ben", "cid")
STEPS = st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from(("online", "away", "offline"))), max_size=12)


class Truth:
    """The table in Redis: counts versions up, and remembers every state."""

    def __init__(self, steps: list[tuple[str, str]]) -> None:
        self.states: list[dict[str, str]] = [{}]
        self.events: list[Data] = []
        for user, status in steps:
            state = dict(self.states[-1])
            before = state.pop(user, "offline")
            if before == status:
                continue
            if status != "offline":
                state[user] = status
            self.states.append(state)
            action = "leave" if status == "offline" else "join" if before == "offline" else "update"
            self.events.append({"action": action, "user": user, "name": user, "status": status, **self._at(-1)})

    def _at(self, index: int) -> Data:
        state = self.states[index]
        version = index % len(self.states)
        online = sum(status == "online" for status in state.values())
        return {"epoch": "k", "version": version, "online": online, "away": len(state) - online}

    def snapshot(self, version: int) -> Data:
        members = [{"user": user, "name": user, "status": status} for user, status in self.states[version].items()]
        return {"action": "snapshot", "listed": True, "members": members, **self._at(version)}


@given(STEPS, st.data())
def test_any_losses_and_snapshots(steps: list[tuple[str, str]], data: st.DataObject) -> None:
    """Events are lost, repeated, overtaken by snapshots: outside of doubt, the view is a state that was true."""
    truth = Truth(steps)
    view = PresenceView()
    for position, event in enumerate(truth.events):
        act = data.draw(st.sampled_from(("apply", "lose", "twice", "snapshot first", "answer late")))
        if act == "snapshot first":
            view.apply(truth.snapshot(data.draw(st.integers(0, position))))
        if act == "answer late":
            view.answer(truth.snapshot(data.draw(st.integers(0, position + 1))))
        for _ in range({"lose": 0, "twice": 2}.get(act, 1)):
            view.apply(event)
        if not view.doubtful:
            assert {user: present.status for user, present in view.members.items()} == truth.states[view.version]
            assert view.online == sum(status == "online" for status in truth.states[view.version].values())
    view.apply(truth.snapshot(len(truth.states) - 1))
    assert not view.doubtful
    assert {user: present.status for user, present in view.members.items()} == truth.states[-1]
