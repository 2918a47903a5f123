"""``web/chat.js`` against ``hub.client``: the same pages and events, in any order that can be, show the same."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from hub.client import PresenceView, RoomView
from tests.browser.chromium import Chromium, Page

USERS = ("ann", "ben", "cem", "dee")
ME = "ann"
KINDS = (*["created"] * 3, *["reaction"] * 2, "edited", "deleted", "read", "member")
SEEDS = 60
STEPS = 120

ROOMS = """async (scripts) => {
  const { RoomView } = await import("/chat.js");
  const shown = ({ number, author, text, reactions, deleted, edited_at }) =>
    [number, author, deleted ? null : text, reactions, deleted, edited_at ?? null];
  return scripts.map((steps) => {
    const view = new RoomView("ann");
    const seen = [];
    for (const [what, given, more] of steps) {
      if (what === "start") view.start(given, more);
      if (what === "load") seen.push(view.load(given, more));
      if (what === "apply") seen.push(view.apply(given, more));
      if (what === "look") seen.push({
        messages: view.messages.map(shown),
        reads: Object.fromEntries(view.reads),
        unread: view.unread,
        before: view.moreBefore,
        typing: view.typing(given).sort(),
        room: { ...view.room },
      });
    }
    return seen;
  });
}"""
PRESENCES = """async (scripts) => {
  const { PresenceView } = await import("/chat.js");
  return scripts.map((steps) => {
    const view = new PresenceView();
    return steps.map(([what, event]) => {
      if (what === "event") view.apply(event); else view.answer(event);
      const members = [...view.members.values()].map(({ user, name, status }) => [user, name, status]).sort();
      return [view.epoch, view.version, view.online, view.away, view.listed, view.doubtful, members];
    });
  });
}"""


@pytest.fixture
async def page(chromium: Chromium, address: str) -> AsyncIterator[Page]:
    page = await chromium.page()
    await page.visit(address)
    yield page
    await page.close()


class House:
    """A room as the hub has it: events, and pages as of any of them."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.number = 0
        self.events: list[dict[str, Any]] = []
        self.messages: dict[int, dict[str, Any]] = {}
        self.reads: dict[str, int] = {}
        self.members = {ME}

    def happen(self) -> None:
        """Something, with the next number."""
        chance = self.chance
        self.number += 1
        number, user = self.number, chance.choice(USERS)
        there = [one for one in self.messages.values() if not one["deleted"]]
        kind = chance.choice(
            ("created", "created", "created", "edited", "deleted", "reaction", "reaction", "read", "member")
        )
        if kind == "member":
            self._member(user)
        elif kind == "created" or not there:
            message = {"number": number, "author": user, "name": user, "text": f"t{number}", "created_at": number}
            self.messages[number] = {**message, "reply_to": None, "reactions": {}, "deleted": False, "edited_at": None}
            self.reads[user] = number
            self._tell("message.created", message=self.messages[number])
        else:
            self._change(kind, user, chance.choice(there))

    def _change(self, kind: str, user: str, message: dict[str, Any]) -> None:
        number, target = self.number, message["number"]
        if kind == "edited":
            self.messages[target] = {**message, "text": f"e{number}", "edited_at": number}
            told = (
                {**self.messages[target], "superseded": True, "text": ""} if number % 5 == 0 else self.messages[target]
            )
            if told is not self.messages[target]:  # a later event brings what it says
                self._tell("message.edited", message=told)
                self.number += 1
            edited = {field: value for field, value in self.messages[target].items() if field != "reactions"}
            self._tell("message.edited", message=edited)
        elif kind == "deleted":
            gone = {key: message[key] for key in ("number", "author", "name", "created_at", "reply_to")}
            self.messages[target] = {**gone, "reactions": {}, "deleted": True, "deleted_at": number, "reason": "author"}
            self._tell("message.deleted", messages=[target], reason="author", by=user, at=number)
        elif kind == "reaction":
            emoji, reactions = self.chance.choice("👍🎉"), dict(message["reactions"])
            users = set(reactions.pop(emoji, ()))
            on = user not in users
            users ^= {user}
            if users:
                reactions[emoji] = sorted(users)
            self.messages[target] = {**message, "reactions": reactions}
            self._tell("reaction", message=target, user=user, emoji=emoji, on=on)
        else:
            self.reads[user] = max(target, self.reads.get(user, 0))
            self._tell("read", readers={user: target})

    def _member(self, user: str) -> None:
        if user in self.members:
            self.members.discard(user)
            self.reads.pop(user, None)
            self._tell("member.left", user=user, by=user)
        else:
            self.members.add(user)
            if self.messages:
                self.reads[user] = max(self.messages)
            self._tell("member.joined", user=user, name=user, role="member")

    def _tell(self, event: str, /, **data: Any) -> None:
        self.events.append({"name": event, "data": {"number": self.number, **data}})

    def page(self, before: int | None = None, limit: int = 7) -> dict[str, Any]:
        wanted = [number for number in self.messages if before is None or number < before]
        return {
            "messages": [self.messages[number] for number in wanted[-limit:]],
            "as_of": self.number,
            "position": {"epoch": "e", "seq": self.number},
            "more_before": len(wanted) > limit,
            "more_after": before is not None,
            "reads": dict(self.reads),
        }

    def room(self) -> dict[str, Any]:
        return {
            "room": "r",
            "name": "R",
            "role": "member" if ME in self.members else None,
            "read": self.reads.get(ME, 0),
        }


class Story:
    """What one client gets, and what Python's view makes of it: pages older and newer than the events that it has,
    events that come again, gaps.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.house = House(self.chance)
        self.view = RoomView(ME, limit=10_000)
        self.steps: list[list[Any]] = []
        self.expected: list[Any] = []
        self.sent = 0
        self.pages: list[tuple[dict[str, Any], int]] = []
        for _ in range(self.chance.randrange(40)):
            self.house.happen()
        self._start()
        for now in range(STEPS):
            self._step(now)
            self._look(now)
        while self.sent < len(self.house.events):
            self._apply(self.house.events[self.sent], STEPS)
            self.sent += 1
        self._look(STEPS)

    def _step(self, now: int) -> None:
        chance, house = self.chance, self.house
        what = chance.randrange(12)
        if what < 4:
            house.happen()
        elif what < 7 and self.sent < len(house.events):
            self._apply(house.events[self.sent], now)
            self.sent += 1
        elif what == 7 and self.sent:
            self._apply(house.events[max(0, self.sent - 1 - chance.randrange(3))], now)
        elif what == 8:
            typing = {"user": chance.choice(USERS), "name": "", "on": chance.random() < 0.8, "expires_in_ms": 6000}
            self._apply({"name": "typing", "data": typing}, now)
        elif what == 9 and self.view.oldest:
            self.pages.append((house.page(self.view.oldest), self.view.oldest))
        elif what == 10 and self.pages:
            page, before = self.pages.pop(chance.randrange(len(self.pages)))
            if before == self.view.oldest:  # Python's view takes a page twice
                self.steps.append(["load", page, before])
                self.expected.append(self.view.load(page, before=before))
        elif what == 11 and chance.random() < 0.2:
            self._start()

    def _start(self) -> None:
        page, room = self.house.page(), self.house.room()
        self.sent = len(self.house.events) - self.chance.randrange(3) if self.house.events else 0
        self.sent = max(0, self.sent)
        self.steps.append(["start", page, room])
        self.view.start(page, room)

    def _apply(self, event: dict[str, Any], now: int) -> None:
        self.steps.append(["apply", event, now * 1000])
        self.expected.append(self.view.apply(SimpleNamespace(**event), now))

    def _look(self, now: int) -> None:
        self.steps.append(["look", now * 1000, None])
        view = self.view
        shown = [
            [one.number, one.author, None if one.deleted else one.text, one.reactions, one.deleted, one.edited_at]
            for one in view.messages
        ]
        typing = sorted(view.typing(now).values())
        seen = {"messages": shown, "reads": dict(view.reads), "unread": view.unread, "before": view.more_before}
        seen |= {"typing": typing, "room": dict(view.room)}
        self.expected.append(json.loads(json.dumps(seen)))


async def test_a_room_is_shown_as_pythons_view_shows_it(page: Page) -> None:
    stories = [Story(seed) for seed in range(SEEDS)]
    results = await page.run(ROOMS, [story.steps for story in stories])
    for story, seen in zip(stories, results, strict=True):
        for number, (one, expected) in enumerate(zip(seen, story.expected, strict=True)):
            assert one == expected, number
        (*_, last) = seen
        numbers = [message[0] for message in last["messages"]]
        assert numbers == [number for number in story.house.messages if number >= min(numbers, default=0)]
    assert any(True in [step for step in story.expected if step is True] for story in stories)
    assert any("load" in [step[0] for step in story.steps] for story in stories)


async def test_the_oldest_messages_go_when_there_are_too_many(page: Page) -> None:
    seen = await page.run(
        """async () => {
          const { RoomView } = await import("/chat.js");
          const view = new RoomView("ann", { most: 60 });
          view.start({ messages: [], as_of: 0, more_before: false, reads: {} }, { role: "member" });
          const message = (number) => ({ number, author: "ben", reactions: {}, deleted: false });
          const created = (number) => ({ name: "message.created", data: { number, message: message(number) } });
          for (let number = 1; number <= 100; number += 1) view.apply(created(number), 0);
          return [view.messages.map(({ number }) => number), view.moreBefore, view.full, view.unread, view.newest];
        }"""
    )
    assert seen == [list(range(41, 101)), True, True, 60, 100]


class Door:
    """Presence of a topic as the hub has it."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.members: dict[str, dict[str, str]] = {}
        self.epoch, self.version = 0, 0
        self.sent: list[dict[str, Any]] = []

    def counts(self) -> dict[str, Any]:
        online = sum(one["status"] == "online" for one in self.members.values())
        numbers = {"online": online, "away": len(self.members) - online}
        return {"epoch": f"e{self.epoch}", "version": self.version, **numbers}

    def snapshot(self) -> dict[str, Any]:
        listed = len(self.members) < len(USERS)
        members = list(self.members.values()) if listed else []
        return {**self.counts(), "action": "snapshot", "listed": listed, "members": members}

    def happen(self) -> None:
        if self.chance.random() < 0.05:
            self.epoch, self.version = self.epoch + 1, 0
            self.members.clear()
        user = self.chance.choice(USERS)
        self.version += 1
        status, action = self.chance.choice(["online", "away"]), "update" if user in self.members else "join"
        if user in self.members and self.chance.random() < 0.5:
            del self.members[user]
            action, status = "leave", "offline"
        else:
            self.members[user] = {"user": user, "name": user, "status": status}
        change = {"action": action, "user": user, "name": user, "status": status}
        self.sent.append({**self.counts(), **(change if self.chance.random() > 0.1 else {"action": "count"})})


def presence_story(seed: int) -> tuple[list[list[Any]], list[Any]]:
    """Events of several epochs, lost, late and out of order, with snapshots and answers between them."""
    chance = random.Random(seed)
    door, view = Door(chance), PresenceView()
    steps: list[list[Any]] = []
    expected: list[Any] = []
    old = door.snapshot()
    for _ in range(2 * STEPS):
        if chance.random() < 0.5:
            door.happen()
        if chance.random() < 0.15:
            old = door.snapshot()
        if door.sent and chance.random() < 0.6:
            steps.append(["event", door.sent.pop(0 if chance.random() < 0.9 else -1)])
        elif chance.random() < 0.3:
            steps.append([chance.choice(["event", "answer"]), chance.choice([old, door.snapshot()])])
        else:
            continue
        what, event = steps[-1]
        if what == "event":
            view.apply(event)
        else:
            view.answer(event)
        shown = sorted([one.user, one.name, one.status] for one in view.members.values())
        expected.append([view.epoch, view.version, view.online, view.away, view.listed, view.doubtful, shown])
    return steps, expected


async def test_who_is_here_is_shown_as_pythons_view_shows_it(page: Page) -> None:
    stories = [presence_story(seed) for seed in range(SEEDS)]
    results = await page.run(PRESENCES, [steps for steps, _ in stories])
    for seed, ((steps, expected), seen) in enumerate(zip(stories, results, strict=True)):
        for number, (one, wanted) in enumerate(zip(seen, expected, strict=True)):
            assert one == wanted, (seed, number, steps[: number + 1][-3:])
    assert {one[5] for _, expected in stories for one in expected} == {True, False}
