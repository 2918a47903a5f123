"""A chat room in memory: counts, pages and events as the hub has them, and what the room was at every number."""

from __future__ import annotations

from typing import Any, NamedTuple

from hub.client.messages import Message

Data = dict[str, Any]


class Happened(NamedTuple):
    """An event as ``apply`` sees it."""

    name: str
    data: Any


class Store:
    """A room's database: counts, and remembers what it was at every number."""

    def __init__(self) -> None:
        self.number = 0
        self.messages: dict[int, Data] = {}
        self.reads: dict[str, int] = {}
        self.members: dict[str, str] = {}
        self.events: list[Happened] = []
        self.states: list[dict[int, Message]] = [{}]

    def _happens(self, kind: str, **data: Any) -> None:
        self.events.append(Happened(kind, {"number": self.number, **data}))
        self.states.append({number: as_message(message) for number, message in self.messages.items()})

    def create(self, author: str, text: str = "", **more: Any) -> int:
        self.number += 1
        message = {"number": self.number, "author": author, "name": author.title(), "text": text or f"t{self.number}",
                   "reactions": {}, "deleted": False, "created_at": self.number, **more}  # fmt: skip
        self.messages[self.number] = message
        self.reads[author] = self.number
        self._happens("message.created", message=dict(message))
        return self.number

    def edit(self, target: int, text: str = "") -> None:
        message = self.messages[target]
        if message["deleted"]:
            return
        self.number += 1
        self.messages[target] = {**message, "text": text or f"e{self.number}", "edited_at": self.number}
        edited = {field: value for field, value in self.messages[target].items() if field != "reactions"}
        self._happens("message.edited", message=edited)

    def delete(self, targets: list[int]) -> None:
        targets = [target for target in targets if not self.messages[target]["deleted"]]
        if not targets:
            return
        self.number += 1
        for target in targets:
            old = self.messages[target]
            kept = {name: old[name] for name in ("number", "author", "name", "created_at")}
            self.messages[target] = {**kept, "deleted": True, "deleted_at": 7, "reason": "owner"}
        self._happens("message.deleted", messages=targets, reason="owner", by="ann", at=7)

    def react(self, target: int, user: str, emoji: str, on: bool) -> None:
        message = self.messages[target]
        users = message.get("reactions", {}).get(emoji, [])
        if message["deleted"] or (user in users) == on:
            return
        self.number += 1
        users = sorted([*users, user]) if on else [one for one in users if one != user]
        reactions = {**message["reactions"], emoji: users}
        self.messages[target] = {**message, "reactions": {key: value for key, value in reactions.items() if value}}
        self._happens("reaction", message=target, user=user, emoji=emoji, on=on)

    def read(self, user: str, target: int) -> None:
        if user not in self.members:
            self.join(user, "member")
        if self.reads.get(user, 0) >= target:
            return
        self.number += 1
        self.reads[user] = target
        self._happens("read", readers={user: target})

    def join(self, user: str, role: str) -> None:
        self.number += 1
        name = "member.changed" if user in self.members else "member.joined"
        self.members[user] = role
        if name == "member.joined" and self.messages:
            self.reads[user] = max(self.messages)
        self._happens(name, user=user, name=user.title(), role=role, muted_until=None)

    def leave(self, user: str) -> None:
        if user not in self.members:
            return
        self.number += 1
        del self.members[user]
        self.reads.pop(user, None)
        self._happens("member.left", user=user, by=user)

    def rename(self, name: str) -> None:
        self.number += 1
        self._happens("room.changed", room={"name": name})

    def event(self, index: int, *, redacted: bool) -> Happened:
        """An event as the history of the topic has it: what was erased since is erased there."""
        event = self.events[index]
        if not redacted or "message" not in event.data or event.name == "reaction":
            return event
        message = self.messages[event.data["message"]["number"]]
        if message.get("text") == event.data["message"].get("text"):
            return event
        gone = {} if message["deleted"] else {"text": "", "superseded": True, "reactions": {}}
        return Happened(event.name, {**event.data, "message": {**message, **gone}})

    def page(self, limit: int, before: int | None = None, after: int | None = None, around: int | None = None) -> Data:
        numbers = list(self.messages)
        start, end = max(0, len(numbers) - limit), len(numbers)
        if before is not None:
            end = numbers.index(before)
            start = max(0, end - limit)
        elif after is not None:
            start = numbers.index(after) + 1
            end = start + limit
        elif around is not None:
            start = max(0, numbers.index(around) - limit // 2)
            end = start + limit
        return {
            "messages": [self.messages[number] for number in numbers[start:end]],
            "as_of": self.number,
            "position": {"epoch": "e", "seq": self.number},
            "more_before": start > 0,
            "more_after": end < len(numbers),
            "reads": dict(self.reads),
        }

    def member_list(self) -> list[Data]:
        return [{"user": user, "name": user.title(), "role": role} for user, role in self.members.items()]


def as_message(data: Data) -> Message:
    fields = {key: value for key, value in data.items() if key != "reactions"}
    reactions = {emoji: tuple(users) for emoji, users in data.get("reactions", {}).items()}
    return Message(**fields, reactions=reactions)
