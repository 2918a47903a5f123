"""One chat room as a client sees it: ``RoomView`` joins pages of ``chat.history`` and events of ``chat:<room>``.

Pure: no I/O, and the clock is given in. ``hub.client.room`` fetches the pages and subscribes.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from hub.client.messages import Member, Message, Page, field_of, read_as

Data = Mapping[str, Any]
_Rule = Callable[[int, Data], None]

_LONGEST_TYPING_S = 60.0  # whatever an event says
_MAX_TYPING = 200
_MAX_LEFT = 1000


class Happening(Protocol):
    """What ``apply`` needs of an event."""

    @property
    def name(self) -> str:
        """For example ``message.created``."""

    @property
    def data(self) -> Any:
        """As it came."""


class RoomView:
    """Messages without a hole between ``oldest`` and ``newest``, at most ``limit`` of them, and what belongs to them.

    ``start`` takes the first page; subscribe ``since`` its ``position`` and give every event to ``apply``. Further
    pages go to ``load``, at any time: each message knows up to which number its state is known, and events that a page
    was too early for are applied to it. While ``more_after`` the window ends before the newest message, and what is
    new does not get into it; otherwise it follows the room.
    """

    def __init__(self, me: str = "", *, limit: int = 500, log_events: int = 500) -> None:
        self.me = me
        self.room: dict[str, Any] = {}
        """The fields of ``chat.get``; name, public, archived, role and muted_until are kept up to date."""
        self.number = 0
        """Every event with a number up to this was applied, or is not needed."""
        self.more_before = False
        self.more_after = False
        self.reads: dict[str, int] = {}
        """Up to where who has read, as far as one is told: in large rooms oneself and who has written."""
        self.members: dict[str, Member] = {}
        self.members_loaded = False
        """Whether ``members`` is all of them, or just those whom events told of."""
        self._limit = limit
        self._messages: dict[int, Message] = {}
        self._known: dict[int, int] = {}  # of each message: the number up to which its state is known
        self._numbers: list[int] = []
        self._last = 0  # number of the room's newest message
        self._tail = 0  # what was created up to this number is in the window, unless it is before it
        self._log: deque[tuple[int, str, Data]] = deque(maxlen=log_events)
        self._log_from = 0  # events after this number are in the log
        self._member_numbers: dict[str, int] = {}
        self._left: set[str] = set()  # a batch of reads may come after its reader has left
        self._typing: dict[str, tuple[str, float]] = {}
        # Of these a page may have missed some that were applied already; all others are applied once, in order.
        self._message_rules: dict[str, _Rule] = {
            "message.created": self._created,
            "message.edited": self._edited,
            "message.deleted": self._deleted,
            "reaction": self._reaction,
        }
        self._rules: dict[str, _Rule] = {
            **self._message_rules,
            "read": self._read,
            "member.joined": self._member_joined,
            "member.changed": self._member,
            "member.left": self._member_left,
            "room.changed": self._room_changed,
        }

    @property
    def messages(self) -> list[Message]:
        """The window, oldest first."""
        return [self._messages[number] for number in self._numbers]

    @property
    def oldest(self) -> int | None:
        """Number of the first message of the window."""
        return self._numbers[0] if self._numbers else None

    @property
    def newest(self) -> int | None:
        """Number of the last message of the window."""
        return self._numbers[-1] if self._numbers else None

    def get(self, number: int) -> Message | None:
        """A message of the window."""
        return self._messages.get(number)

    @property
    def read(self) -> int:
        """Up to where oneself has read."""
        return self.reads.get(self.me, 0)

    @property
    def unread(self) -> int:
        """How many messages of the window are beyond that; with ``unread_elsewhere`` there are more.

        Who is no member has nothing to read.
        """
        if "role" in self.room and self.room["role"] is None:
            return 0
        return sum(1 for number in self._numbers if number > self.read)

    @property
    def unread_elsewhere(self) -> bool:
        """Whether there may be unread messages before or after the window; ``chat.get`` counts them all."""
        return self.more_after or (self.more_before and (self.oldest is None or self.read < self.oldest))

    def readers(self, number: int) -> list[str]:
        """Who has read a message, as far as is known, its author left out."""
        message = self._messages.get(number)
        author = message.author if message is not None else None
        return sorted(user for user, read in self.reads.items() if read >= number and user != author)

    def typing(self, now: float) -> dict[str, str]:
        """Who types: name by user. ``now``: seconds of the clock that ``apply`` is given."""
        self._typing = {user: (name, until) for user, (name, until) in self._typing.items() if until > now}
        return {user: name for user, (name, _) in self._typing.items() if user != self.me}

    def typing_ends_in_s(self, now: float) -> float | None:
        """How long until ``typing`` says something else, if no event comes; None: nobody types."""
        return min((until - now for _, until in self._typing.values()), default=None)

    # --- what comes in

    def start(self, page: Data, room: Data | None = None) -> Page:
        """Begins with the newest page, or anew after a gap: of before, ``room`` (unless given) and who types stay.

        ``room`` must have been read after the page: what has happened in between comes as events.

        Raises ``ProtocolViolation``.
        """
        read = read_as(page, Page)
        if room is not None:
            self.room = dict(room)
        self._clear()
        self._log.clear()
        self.number = self._log_from = read.as_of
        self.reads = dict(read.reads)
        if self.room.get("role") is not None:
            self.own_read(int(self.room.get("read", 0)))
        self._left.clear()
        self.members, self.members_loaded = {}, False
        self._member_numbers.clear()
        self._merge(read, None, None)
        self._last = self.newest or 0
        return read

    def load(self, page: Data, *, before: int | None = None, after: int | None = None) -> bool:
        """Takes a further page. ``before``, ``after``: what it was asked for, the first or last number of the window.

        A page that was asked for otherwise and has nothing in common with the window takes its place. False: it cannot
        be used, because more has happened since than is remembered, or the window has moved; ask for it again.
        """
        read = read_as(page, Page)
        anchor = before if before is not None else after
        if read.as_of < self._log_from or (anchor is not None and anchor not in self._messages):
            return False
        joins = anchor is not None or any(message.number in self._messages for message in read.messages)
        if not joins:
            self._clear()
        self._merge(read, before, after)
        self._trim(newer_end=before is not None)
        return True

    def load_members(self, members: list[Any], asked_at: int) -> None:
        """Takes all members, from the pages of ``chat.members``. ``asked_at``: ``number`` when they were asked for;
        what events have told since counts more.
        """
        later = {user for user, number in self._member_numbers.items() if number > asked_at}
        listed = [read_as(member, Member) for member in members]
        kept = {user: member for user, member in self.members.items() if user in later}
        self.members = {member.user: member for member in listed if member.user not in later} | kept
        self.members_loaded = True

    def apply(self, event: Happening, now: float = 0.0) -> bool:
        """Takes an event of the room. False: it was there before, or is none that this view knows.

        Raises ``ProtocolViolation`` for an event that cannot be read.
        """
        if event.name == "typing":
            return self._types(event.data, now)
        rule = self._rules.get(event.name)
        if rule is None:
            return False
        number = field_of(event.data, "number", int)
        if number <= self.number:
            return False
        if event.name in self._message_rules:
            if len(self._log) == self._log.maxlen:
                self._log_from = self._log[0][0]
            self._log.append((number, event.name, event.data))
        rule(number, event.data)
        if event.name == "message.created":
            self._has_written(number, event.data)
        self.number = number
        return True

    def own_read(self, number: int) -> None:
        """Oneself has read up to there: what ``chat.read`` answered, or ``chat.read`` on the user's topic said."""
        self.reads[self.me] = max(number, self.read)

    # --- pages

    def _clear(self) -> None:
        self._messages.clear()
        self._known.clear()
        self._numbers.clear()
        self.more_before = self.more_after = False
        self._tail = 0

    def _merge(self, page: Page, before: int | None, after: int | None) -> None:
        oldest, newest = self.oldest, self.newest
        first = page.messages[0].number if page.messages else None
        last = page.messages[-1].number if page.messages else None
        # Of each end of the window, the page that reaches it says whether there is more.
        if before is not None or oldest is None or (after is None and first is not None and first <= oldest):
            self.more_before = page.more_before
        if after is not None or newest is None or (before is None and last is not None and last >= newest):
            self.more_after = page.more_after
            self._tail = page.as_of
        for message in page.messages:
            self._put(message, page.as_of)
        for number, name, data in self._log:
            if number > page.as_of:
                self._message_rules[name](number, data)

    def _put(self, message: Message, as_of: int) -> None:
        if message.number not in self._messages:
            insort(self._numbers, message.number)
        elif self._known[message.number] >= as_of:
            return
        self._messages[message.number] = message
        self._known[message.number] = as_of

    def _trim(self, *, newer_end: bool) -> None:
        excess = len(self._numbers) - self._limit
        if excess <= 0:
            return
        gone = self._numbers[-excess:] if newer_end else self._numbers[:excess]
        for number in gone:
            del self._messages[number], self._known[number]
        if newer_end:
            del self._numbers[-excess:]
            self.more_after = True
        else:
            del self._numbers[:excess]
            self.more_before = True

    # --- events: each may come again, for messages of a page that was too early for it

    def _created(self, number: int, data: Data) -> None:
        message = read_as(data.get("message"), Message)
        if self.more_after or number <= self._tail or message.number in self._messages:
            return
        self._put(message, number)
        self._tail = number
        self._trim(newer_end=False)

    def _edited(self, number: int, data: Data) -> None:
        message = read_as(data.get("message"), Message)
        before = self._messages.get(message.number)
        if before is not None and not message.superseded:
            # Its reactions are not said again.
            self._put(msgspec.structs.replace(message, reactions=before.reactions), number)

    def _deleted(self, number: int, data: Data) -> None:
        for target in field_of(data, "messages", list[int]):
            message = self._messages.get(target)
            if message is None:
                continue
            tombstone = Message(
                number=target,
                author=message.author,
                name=message.name,
                created_at=message.created_at,
                reply_to=message.reply_to,
                deleted=True,
                deleted_at=data.get("at"),
                reason=data.get("reason"),
            )
            self._put(tombstone, number)

    def _reaction(self, number: int, data: Data) -> None:
        message = self._messages.get(field_of(data, "message", int))
        if message is None or message.deleted:
            return
        user, emoji = field_of(data, "user", str), field_of(data, "emoji", str)
        users = set(message.reactions.get(emoji, ())) - {user}
        if field_of(data, "on", bool):
            users.add(user)
        reactions = {**message.reactions, emoji: tuple(sorted(users))}
        if not users:
            del reactions[emoji]
        self._put(msgspec.structs.replace(message, reactions=reactions), number)

    def _read(self, number: int, data: Data) -> None:
        for user, read in field_of(data, "readers", dict[str, int]).items():
            if user not in self._left:
                self.reads[user] = max(read, self.reads.get(user, 0))

    def _has_written(self, number: int, data: Data) -> None:
        """Whoever writes has read, and types no more."""
        author = read_as(data.get("message"), Message).author
        self._last = number
        self._typing.pop(author, None)
        if author not in self._left:
            self.reads[author] = number

    def _member_joined(self, number: int, data: Data) -> None:
        user = field_of(data, "user", str)
        self._left.discard(user)
        # What was said before is not new to whoever joins.
        if self._last:
            self.reads[user] = self._last
        self._member(number, data)

    def _member(self, number: int, data: Data) -> None:
        user = field_of(data, "user", str)
        known = self.members.get(user)
        changed = {"user": user, "name": known.name if known else "", **data}
        self.members[user] = read_as(changed, Member)
        self._member_numbers[user] = number
        if user == self.me:
            self.room.update(role=data.get("role"), muted_until=data.get("muted_until"))

    def _member_left(self, number: int, data: Data) -> None:
        user = field_of(data, "user", str)
        self.members.pop(user, None)
        self.reads.pop(user, None)
        self._typing.pop(user, None)
        self._member_numbers[user] = number
        self._left.add(user)
        if len(self._left) > _MAX_LEFT:
            forgotten = self._left.pop()
            del self._member_numbers[forgotten]
        if user == self.me:
            self.room["role"] = None

    def _room_changed(self, number: int, data: Data) -> None:
        self.room.update(field_of(data, "room", dict[str, Any]))

    def _types(self, data: Data, now: float) -> bool:
        user = field_of(data, "user", str)
        self._typing.pop(user, None)
        if data.get("on") and len(self._typing) < _MAX_TYPING:
            expires_s = min(_LONGEST_TYPING_S, field_of(data, "expires_in_ms", float) / 1000)
            self._typing[user] = (str(data.get("name") or user), now + expires_s)
        return True
