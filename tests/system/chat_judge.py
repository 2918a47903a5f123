"""The verdict on a chat: what every device shows of every room, held against the database, message by message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hub.client.chat import Message, RoomView
from hub.client.presence import PresenceView
from tests.system.chat_truth import Membership, RoomTruth, Written

Presences = Mapping[str, Mapping[str, str]]
"""Of each room: status by user."""


def same_room(view: RoomView, truth: RoomTruth, me: str) -> list[str]:
    """What differs between a device's view and the database. All messages of the room must have been loaded."""
    faults = _same_messages(view, truth) + _same_members(view, truth.members)
    if view.number != truth.top:
        faults.append(f"stands at event {view.number}, the newest is {truth.top}")
    mine = truth.members.get(me)
    facts: dict[str, Any] = {"name": truth.name, "public": truth.public, "archived": truth.archived}
    facts["role"] = mine.role if mine else None
    shown = {name: view.room.get(name) for name in facts}
    if shown != facts:
        faults.append(f"the room is shown with {_difference(shown, facts)}")
    if mine is not None and view.unread != truth.unread(me):
        faults.append(f"shows {view.unread} unread messages, there are {truth.unread(me)}")
    return faults


def _same_messages(view: RoomView, truth: RoomTruth) -> list[str]:
    faults = []
    shown = {message.number: message for message in view.messages}
    if list(shown) != sorted(shown):
        faults.append(f"messages stand in the order {list(shown)}")
    if view.more_before or view.more_after:
        faults.append("not all messages are loaded")
    if missing := sorted(set(truth.messages) - set(shown)):
        faults.append(f"messages {missing[:10]} are missing")
    if invented := sorted(set(shown) - set(truth.messages)):
        faults.append(f"messages {invented[:10]} are not in the database")
    for number in sorted(set(shown) & set(truth.messages)):
        faults += [f"message {number}: {text}" for text in _same_message(shown[number], truth.messages[number])]
    return faults


def _same_message(shown: Message, stored: Written) -> list[str]:
    pairs: list[tuple[str, Any, Any]] = [
        ("author", shown.author, stored.author),
        ("deleted", shown.deleted, stored.text is None),
        ("reply_to", shown.reply_to, stored.reply_to),
    ]
    if stored.text is None:
        pairs += [("text", (shown.text, shown.html), ("", "")), ("reason", shown.reason, stored.reason)]
        pairs += [("reactions", dict(shown.reactions), {})]
    else:
        reactions = {emoji: set(users) for emoji, users in shown.reactions.items()}
        pairs += [
            ("text", shown.text, stored.text),
            ("html", shown.html, stored.html),
            ("edited", shown.edited_at is not None, stored.edited),
            ("mentions", list(shown.mentions), stored.mentions),
            ("reactions", reactions, stored.reactions),
        ]
    return [f"{name} is shown as {has!r}, and is {wants!r}" for name, has, wants in pairs if has != wants]


def _same_members(view: RoomView, members: Mapping[str, Membership]) -> list[str]:
    faults = []
    shown = {user: member.role for user, member in view.members.items()}
    stored = {user: member.role for user, member in members.items()}
    if shown != stored:
        faults.append(f"members are shown as {_difference(shown, stored)}")
    reads = {user: number for user, number in view.reads.items() if number}
    wanted = {user: member.read for user, member in members.items() if member.read}
    if reads != wanted:
        faults.append(f"read cursors are shown as {_difference(reads, wanted)}")
    return faults


def same_presence(view: PresenceView, wanted: Mapping[str, str]) -> list[str]:
    """What differs between who is shown to be there and who really is."""
    shown = {user: present.status for user, present in view.members.items()}
    faults = [] if shown == wanted else [f"presence is shown as {_difference(shown, wanted)}"]
    counts = (
        sum(status == "online" for status in wanted.values()),
        sum(status == "away" for status in wanted.values()),
    )
    if (view.online, view.away) != counts:
        faults.append(f"(online, away) is counted as {(view.online, view.away)}, and is {counts}")
    if view.doubtful:
        faults.append("a snapshot of who is there is still awaited")
    return faults


def merged_status(statuses: Iterable[str]) -> str:
    """Of a user, from those of his connections."""
    return "online" if "online" in set(statuses) else "away"


def same_rooms(user: str, listed: Sequence[Mapping[str, Any]], rooms: Mapping[str, RoomTruth]) -> list[str]:
    """What differs between a user's ``chat.rooms`` and the database."""
    faults = []
    wanted = {room for room, truth in rooms.items() if user in truth.members}
    if {row["room"] for row in listed} != wanted:
        faults.append(f"chat.rooms lists {sorted(row['room'] for row in listed)}, a member of {sorted(wanted)}")
    for row in listed:
        truth = rooms.get(row["room"])
        if truth is None or user not in truth.members:
            continue
        mine = truth.members[user]
        has = (row["role"], row["read"], row["unread"], row["last_number"])
        wants = (mine.role, mine.read, truth.unread(user), max(truth.messages, default=0))
        if has != wants:
            faults.append(f"chat.rooms says of {row['room']} (role, read, unread, last) {has}, the database {wants}")
        if wants[3] and row["last"]["number"] != wants[3]:
            faults.append(f"chat.rooms has {row['last']} as last message of {row['room']}, it is {wants[3]}")
    return faults


def same_mentions(user: str, told: Iterable[tuple[str, int]], rooms: Mapping[str, RoomTruth]) -> list[str]:
    """Mentions of which a user was not told, or told although there are none. Of tombstones nobody knows any more."""
    faults = []
    stored = {(room, number): one for room, truth in rooms.items() for number, one in truth.messages.items()}
    wanted = {place for place, one in stored.items() if user in one.mentions}
    deleted = {place for place, one in stored.items() if one.text is None}
    if missing := wanted - set(told):
        faults.append(f"was not told of being mentioned in {sorted(missing)}")
    if invented := set(told) - wanted - deleted:
        faults.append(f"was told of being mentioned in {sorted(invented)}")
    return faults


def _difference(shown: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    keys = [key for key in sorted({*shown, *wanted}) if shown.get(key) != wanted.get(key)]
    return ", ".join(f"{key}: {shown.get(key)!r} instead of {wanted.get(key)!r}" for key in keys)
