"""People who do at random what one can do in rooms, on any of their devices, and a ledger of what was answered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hub.client import RequestRefused
from hub.errors import ErrorCode
from tests.system.chat_truth import RoomTruth
from tests.system.chat_world import Device

EMOJI = ("👍", "❤️", "🎉", "👀")
# Refusals that are somebody's answer: he was removed meanwhile, the message is gone, he is muted, the last owner.
_ANSWERS = frozenset((ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN, ErrorCode.CONFLICT, ErrorCode.RATE_LIMITED))
# … and those that only say: not now.
_LATER = frozenset((ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT))
_AGAIN_S = 0.2
_RECENT = 40
_MOST_COMPLAINTS = 10


@dataclass(slots=True)
class Sent:
    """A message that somebody sent, or tried to."""

    room: str
    author: str
    number: int = 0
    """0: not answered, or refused."""
    texts: list[str] = field(default_factory=list)
    """That it was given, or may have been given; the newest last."""
    unsure: bool = False
    """Whether an answer about its text is missing."""


class Ledger:
    """What was asked for, and what was answered."""

    def __init__(self) -> None:
        self.sent: dict[str, Sent] = {}
        """By key."""
        self.numbers: dict[str, list[Sent]] = {}
        """Of each room, in the order of the answers."""
        self.deleted: set[tuple[str, int]] = set()
        self.reads: dict[tuple[str, str], int] = {}
        """By room and user: the highest that was acknowledged."""
        self.reactions: dict[tuple[str, int, str, str], bool] = {}
        """By room, message, emoji and user: whether it was there after the last answer."""
        self.owners: dict[str, str] = {}
        """Of each room."""
        self.deeds = 0
        self.refusals = 0
        self.complaints: list[str] = []

    def complain(self, text: str) -> None:
        """Something that must not be."""
        if len(self.complaints) < _MOST_COMPLAINTS:
            self.complaints.append(text)

    def erased(self, rooms: dict[str, RoomTruth]) -> list[str]:
        """What nobody may find any more: of every text that was replaced or deleted, the word that no other has."""
        gone = []
        for sent in self.sent.values():
            stored = rooms[sent.room].messages.get(sent.number)
            gone += [text.split()[0] for text in sent.texts if stored is not None and text != stored.text]
        return gone

    def check(self, rooms: dict[str, RoomTruth]) -> list[str]:
        """The database against what was promised."""
        faults = list(self.complaints)
        for key, sent in self.sent.items():
            stored = [(number, one) for number, one in rooms[sent.room].messages.items() if one.key == key]
            if len(stored) > 1:
                faults.append(f"{sent.room}: {key} is stored {len(stored)} times")
            if not sent.number:
                continue
            if [number for number, _ in stored] != [sent.number]:
                faults.append(f"{sent.room}: {key} was acknowledged as {sent.number}, stored is {stored}")
                continue
            text = stored[0][1].text
            if text is not None and text not in (sent.texts if sent.unsure else sent.texts[-1:]):
                faults.append(f"{sent.room}: {sent.number} has the text {text!r}, the last acknowledged: {sent.texts}")
        return faults + self._check_origins(rooms) + self._check_marks(rooms)

    def _check_origins(self, rooms: dict[str, RoomTruth]) -> list[str]:
        faults = []
        known = {(sent.room, key) for key, sent in self.sent.items()}
        for room, truth in rooms.items():
            faults += [
                f"{room}: {one.number} was never sent"
                for one in truth.messages.values()
                if (room, one.key) not in known
            ]
        for room, number in self.deleted:
            if rooms[room].messages[number].text is not None:
                faults.append(f"{room}: {number} was deleted and has a text")
        for room, truth in rooms.items():
            for one in truth.messages.values():
                may = {"author": one.author, "owner": self.owners[room], None: None}
                if one.reason not in may or one.deleted_by != may[one.reason]:
                    faults.append(f"{room}: {one.number} of {one.author} was deleted by {one.deleted_by}: {one.reason}")
        return faults

    def _check_marks(self, rooms: dict[str, RoomTruth]) -> list[str]:
        faults = []
        for (room, user), number in self.reads.items():
            member = rooms[room].members.get(user)
            if member is not None and member.read < number:
                faults.append(f"{room}: {user} had read {number}, and stands at {member.read}")
        for (room, number, emoji, user), there in self.reactions.items():
            message = rooms[room].messages[number]
            if message.text is not None and (user in message.reactions.get(emoji, ())) is not there:
                faults.append(f"{room}: {emoji} of {user} to {number} should{'' if there else ' not'} be there")
        return faults


class Person:
    """One user. Does one thing after the other, and now and then two at once."""

    def __init__(self, user: str, devices: Sequence[Device], rooms: Sequence[str], ledger: Ledger, seed: int) -> None:
        self.user = user
        self.devices = devices
        self.rooms = rooms
        self.owns: list[str] = []
        self.others: list[str] = []
        """Whom one may mention, and in one's own room invite or remove."""
        self.random = random.Random(seed)
        self._ledger = ledger
        self._count = 0

    async def live(self, running: Callable[[], bool], pause_s: float) -> None:
        """Acts until told to stop; what was begun is finished."""
        deeds: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.send, 30), (self.edit, 10), (self.delete, 4), (self.react, 14), (self.read, 12), (self.type, 8),
            (self.join, 4), (self.leave, 2), (self.manage, 8 if self.owns else 0), (self.two_at_once, 4),
            (self.change_status, 3), (self.flicker, 3),
        ]  # fmt: skip
        doing, weights = zip(*deeds, strict=True)
        while running():
            await self.random.choices(doing, weights)[0]()
            self._ledger.deeds += 1
            await asyncio.sleep(self.random.uniform(0, 2 * pause_s))

    # --- what one does

    async def send(self) -> None:
        """A message, now and then a reply or a mention."""
        room, self._count = self.random.choice(self.rooms), self._count + 1
        key, text = f"{self.user}-{self._count}", self._text()
        more: dict[str, Any] = {"format": self.random.choice(("text", "markdown"))}
        if self.random.random() < 0.2 and (recent := self._recent(room)):
            more["reply_to"] = self.random.choice(recent).number
        if self.random.random() < 0.3:
            more["mentions"] = self.random.sample(self.others, 2)
        sent = self._ledger.sent[key] = Sent(room, self.user, texts=[text])
        answer = await self._do("chat.send", room=room, text=text, key=key, **more)
        if answer is None:
            return
        message = answer["message"]
        sent.number = message["number"]
        self._ledger.numbers.setdefault(room, []).append(sent)
        if (message["author"], message["text"]) != (self.user, text):
            self._ledger.complain(f"{room}: {self.user} sent {text!r} and got {message}")

    async def edit(self) -> None:
        """Another text for a message of one's own; now and then somebody else's, which is refused."""
        sent = self._one(mine=self.random.random() < 0.95)
        if sent is None:
            return
        text, mine = self._text(), sent.author == self.user
        if mine:
            sent.texts.append(text)
        answer = await self._do("chat.edit", room=sent.room, message=sent.number, text=text)
        if answer is None and mine:
            # It may have been deleted meanwhile, or its author removed.
            sent.unsure = True
        elif answer is not None and not mine:
            self._ledger.complain(f"{sent.room}: {self.user} could edit {sent.number} of {sent.author}")

    async def delete(self) -> None:
        """A message of one's own, or any in one's own room."""
        sent = self._one(mine=not self.owns or self.random.random() < 0.7)
        if sent is None:
            return
        answer = await self._do("chat.delete", room=sent.room, message=sent.number)
        if answer is None:
            return
        self._ledger.deleted.add((sent.room, sent.number))

    async def react(self) -> None:
        """On or off, also of what is so already."""
        sent = self._one()
        if sent is None:
            return
        emoji, there = self.random.choice(EMOJI), self.random.random() < 0.7
        answer = await self._do("chat.react", room=sent.room, message=sent.number, emoji=emoji, on=there)
        if answer is not None:
            self._ledger.reactions[sent.room, sent.number, emoji, self.user] = there

    async def read(self) -> None:
        """Up to any message, also backwards."""
        sent = self._one()
        if sent is not None:
            await self._read(sent, self._device())

    async def two_at_once(self) -> None:
        """Both devices say what they have read: the higher one counts."""
        chosen = [sent for _ in self.devices if (sent := self._one()) is not None]
        if chosen:
            same_room = [sent for sent in chosen if sent.room == chosen[0].room]
            await asyncio.gather(
                *(self._read(sent, device) for sent, device in zip(same_room, self.devices, strict=False))
            )

    async def type(self) -> None:
        """Nobody has to be told."""
        await self._do("chat.typing", room=self.random.choice(self.rooms), on=self.random.random() < 0.8)

    async def join(self) -> None:
        """Also rooms where one is already, or may not."""
        await self._do("chat.join", room=self.random.choice(self.rooms))

    async def leave(self) -> None:
        """Any room but one's own."""
        if rooms := [room for room in self.rooms if room not in self.owns]:
            await self._do("chat.leave", room=self.random.choice(rooms))

    async def manage(self) -> None:
        """Invite, remove, change a role, rename."""
        room, other = self.random.choice(self.owns), self.random.choice(self.others)
        chance = self.random.random()
        if chance < 0.5:
            role = self.random.choice(("member", "member", "reader"))
            await self._do("chat.invite", room=room, user=other, role=role)
        elif chance < 0.9:
            await self._do("chat.remove", room=room, user=other)
        else:
            await self._do("chat.rename", room=room, name=f"Room {self._text()[:20]}")

    async def change_status(self) -> None:
        """Away, or here again."""
        device = self._device()
        device.status = self.random.choice(("online", "away"))
        await device.say_status()

    async def flicker(self) -> None:
        """A device loses its connection, for a moment or a little longer."""
        device = self._device()
        if self.random.random() < 0.5:
            device.door.refuse()
            device.door.cut()
            await asyncio.sleep(self.random.uniform(0.1, 2))
            await device.door.allow()
        else:
            device.door.cut()

    # --- how

    async def _read(self, sent: Sent, device: Device) -> None:
        answer = await self._do("chat.read", device, room=sent.room, message=sent.number)
        if answer is None:
            return
        if answer["read"] < sent.number:
            self._ledger.complain(f"{sent.room}: {self.user} read {sent.number}, answered {answer}")
        place = (sent.room, self.user)
        self._ledger.reads[place] = max(self._ledger.reads.get(place, 0), answer["read"])

    async def _do(self, method: str, device: Device | None = None, **params: Any) -> Any:
        """The method's result, whatever it takes; None when it was refused for a reason."""
        while True:
            try:
                return await (device or self._device()).call(method, **params)
            except RequestRefused as refused:
                if refused.code in _ANSWERS:
                    self._ledger.refusals += 1
                    return None
                if refused.code not in _LATER:
                    self._ledger.complain(f"{self.user}: {method} {params} was refused: {refused}")
                    return None
            await asyncio.sleep(_AGAIN_S)

    def _device(self) -> Device:
        return self.random.choice(self.devices)

    def _recent(self, room: str) -> list[Sent]:
        return self._ledger.numbers.get(room, [])[-_RECENT:]

    def _one(self, *, mine: bool = False) -> Sent | None:
        found = [sent for room in self.rooms for sent in self._recent(room) if not mine or sent.author == self.user]
        return self.random.choice(found) if found else None

    def _text(self) -> str:
        words = (
            "hello",
            "*so*",
            "<b>bold</b>",
            "<script>x()</script>",
            "`code`",
            "Grüße",
            "🙂",
            "a_b",
            "1 < 2",
            "&amp;",
        )
        return " ".join((f"{self.random.randrange(10**9):x}", *self.random.sample(words, self.random.randint(0, 5))))
