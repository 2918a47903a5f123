"""Which users are present by which connections of this node, and what has not been told to Redis of that.

Bookkeeping without I/O: ``registrar`` takes what has changed and says whether it arrived, the edge says who comes, goes
and does something. A change costs the same however many are present.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator

from hub.config import Settings
from hub.errors import ErrorCode, HubError
from hub.nodes.presence.place import Person, Place, Told
from hub.nodes.presence.table import Change, Status
from hub.telemetry import PresenceMetrics
from hub.topics.topic import Topic

IDLE = "idle"
NEVER_S = 3600.0
"""How soon it is looked again at who has no deadline."""
TOPICS_PER_CREDIT = 100  # what a client says costs more by one for each so many topics in which it is told
LEAVES_AT_ONCE = 2000  # topics that are left because a grace has ended; then others have their turn


class Attendant:
    """One connection, as far as it is present anywhere. Made for those that are."""

    __slots__ = (
        "_attendance",
        "acted_at",
        "credit",
        "credit_at",
        "idle",
        "issued_at",
        "name",
        "places",
        "said",
        "user",
    )

    def __init__(self, attendance: Attendance, user: str, name: str, kept: str) -> None:
        self._attendance = attendance
        self.user = user
        self.name = name
        self.places: list[Place] = []
        """Bounded by the topics of a connection."""
        self.said: Status | None = Status(kept) if kept in (Status.AWAY, Status.OFFLINE) else None
        """What its client has said it is, until it says otherwise; None: what it does decides."""
        self.idle = kept == IDLE
        self.acted_at = self.credit_at = attendance.clock()
        self.issued_at = 0.0
        """When its token was."""
        self.credit = attendance.most_credit
        """How often it may say something, at ``credit_at``."""

    @property
    def status(self) -> Status:
        """What this connection makes of its user."""
        if self.said is not None:
            return self.said
        return Status.AWAY if self.idle else Status.ONLINE

    @property
    def kept(self) -> str:
        """What the client's next connection begins with; "": as a new one."""
        if self.said is not None:
            return self.said.value
        return IDLE if self.idle else ""

    def acted(self) -> bool:
        """Its client has done something. True: it had been idle, so it has to be looked at again."""
        self.acted_at = self._attendance.clock()
        if not self.idle:
            return False
        self._attendance.idle(self, False)
        return True

    def look(self, now: float) -> float:
        """Away, if it has done nothing for long. When to look again, by the clock that ``now`` is of."""
        return self._attendance.look(self, now)


class Attendance:
    """All places of this node. ``on_due`` is called whenever a place has something to tell."""

    def __init__(
        self,
        settings: Settings,
        metrics: PresenceMetrics,
        on_due: Callable[[Place], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._away_s = settings.presence_away_s
        self._grace_s = settings.presence_grace_s
        self._credit_s = settings.presence_set_s
        self.most_credit = float(settings.presence_set_burst)
        self._most_in_grace = settings.max_connections
        self._metrics = metrics
        self._on_due = on_due
        self.clock = clock
        self._places: dict[bytes, Place] = {}
        """By channel of the topic."""
        self._in_grace: deque[tuple[float, Attendant]] = deque()
        """Connections that were lost, by when their grace ends, which is the order in which they were lost."""
        self._timer: asyncio.TimerHandle | None = None
        self._holding = self._closed = False

    def __iter__(self) -> Iterator[Place]:
        return iter(tuple(self._places.values()))

    def __len__(self) -> int:
        return len(self._places)

    def attendant(self, user: str, name: str, kept: str = "") -> Attendant:
        """For a connection that is about to be present somewhere. ``kept``: of one that it follows."""
        return Attendant(self, user, name, kept)

    def hold(self) -> None:
        """Nobody leaves any more by losing the connection: he may come back on another node."""
        self._holding = True
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """Nobody leaves any more in any such way."""
        self.hold()
        self._closed = True
        self._in_grace.clear()

    # --- coming and going

    def enter(self, attendant: Attendant, topic: Topic) -> None:
        """The connection is present in one topic more."""
        place = self._places.get(topic.channel)
        if place is None:
            place = self._places[topic.channel] = Place(topic)
        attendant.places.append(place)
        place.holders += 1
        self._count(place, attendant, attendant.status, 1)

    def leave(self, attendant: Attendant, topic: Topic) -> None:
        """The connection is not present in the topic any more; at once, for it was said so."""
        place = self._places.get(topic.channel)
        if place is not None and place in attendant.places:
            attendant.places.remove(place)
            self._let_go(place, attendant)

    def lost(self, attendant: Attendant) -> None:
        """The connection is gone: it counts for as long as the grace lasts."""
        if self._closed or not attendant.places:
            return
        self._in_grace.append((self.clock() + self._grace_s, attendant))
        if len(self._in_grace) > self._most_in_grace:
            earliest = self._in_grace.popleft()[1]
            if not self._holding:
                self.leave_all(earliest)
        self._await_grace()

    def expel(self, channel: bytes, users: Collection[str] | None) -> None:
        """Of those in their grace, these (None: all) leave a topic at once: they may not come back."""
        place = self._places.get(channel)
        if place is None:
            return
        for _, attendant in self._in_grace:
            if (users is None or attendant.user in users) and place in attendant.places:
                attendant.places.remove(place)
                self._let_go(place, attendant)

    def dismiss(self, org: str, user: str, issued_before: float) -> None:
        """What a user has in grace by tokens issued until then ends at once."""
        for _, attendant in self._in_grace:
            his = attendant.user == user and attendant.issued_at <= issued_before
            if his and attendant.places and attendant.places[0].topic.org == org:
                self.leave_all(attendant)

    def rename(self, attendant: Attendant, name: str) -> None:
        """Its user has another name."""
        attendant.name = name
        for place in attendant.places:
            person = place.people.get(attendant.user)
            if person is None:
                continue
            person.name = name
            if not person.is_told:
                place.dirty[attendant.user] = None
                self._on_due(place)

    def say(self, attendant: Attendant, status: Status) -> None:
        """What its client says. ``ONLINE``: what it does decides from now on. Raises ``rate_limited``."""
        self._charge(attendant, min(self.most_credit, 1.0 + len(attendant.places) // TOPICS_PER_CREDIT))
        before = attendant.status
        attendant.said = None if status is Status.ONLINE else status
        attendant.idle = False
        attendant.acted_at = self.clock()
        self._moved(attendant, before)

    def idle(self, attendant: Attendant, idle: bool) -> None:
        """It has done nothing for long, or something again."""
        before = attendant.status
        attendant.idle = idle
        self._moved(attendant, before)

    def look(self, attendant: Attendant, now: float) -> float:
        """See ``Attendant.look``."""
        if not self._away_s or attendant.idle:
            return now + NEVER_S
        due = attendant.acted_at + self._away_s
        if now < due:
            return due
        self.idle(attendant, True)
        return now + NEVER_S

    def _charge(self, attendant: Attendant, cost: float) -> None:
        now = self.clock()
        earned = (now - attendant.credit_at) / self._credit_s
        attendant.credit, attendant.credit_at = min(self.most_credit, attendant.credit + earned), now
        if attendant.credit < cost:
            wait_ms = math.ceil((cost - attendant.credit) * self._credit_s * 1000)
            raise HubError(ErrorCode.RATE_LIMITED, "presence.set comes too often", retry_after_ms=wait_ms)
        attendant.credit -= cost

    def _moved(self, attendant: Attendant, before: Status) -> None:
        after = attendant.status
        if after is not before:
            for place in attendant.places:
                self._count(place, attendant, after, 1)
                self._count(place, attendant, before, -1)

    def _count(self, place: Place, attendant: Attendant, status: Status, number: int) -> None:
        person = place.people.get(attendant.user)
        if status is Status.OFFLINE:
            return
        if person is None:
            person = place.people[attendant.user] = Person(attendant.name)
            self._metrics.members(place.topic.kind, 1)
        if number > 0:
            person.name = attendant.name
        if status is Status.ONLINE:
            person.online += number
        else:
            person.away += number
        if not person.is_told:
            place.dirty[attendant.user] = None
            self._on_due(place)

    # --- grace

    def _await_grace(self) -> None:
        if self._timer is None and self._in_grace and not self._holding:
            pause = max(0.0, self._in_grace[0][0] - self.clock())
            self._timer = asyncio.get_running_loop().call_later(pause, self._end_graces)

    def _end_graces(self) -> None:
        self._timer = None
        now = self.clock()
        left = 0
        while left < LEAVES_AT_ONCE and self._in_grace and self._in_grace[0][0] <= now:
            attendant = self._in_grace.popleft()[1]
            left += len(attendant.places)
            self.leave_all(attendant)
        self._await_grace()

    def leave_all(self, attendant: Attendant) -> None:
        """It is present nowhere any more."""
        for place in attendant.places:
            self._let_go(place, attendant)
        attendant.places.clear()

    def _let_go(self, place: Place, attendant: Attendant) -> None:
        self._count(place, attendant, attendant.status, -1)
        place.holders -= 1
        if place.deserted:
            self._on_due(place)  # to be forgotten

    # --- what Redis is told

    def resync(self, topic: Topic) -> None:
        """What Redis has of this node in a topic may be wrong."""
        place = self._places.get(topic.channel)
        if place is not None:
            place.whole = True
            self._on_due(place)

    def take(self, place: Place, instance: str) -> Told:
        """What there is to tell by that name; everything, if it is the first time. ``settle`` must follow."""
        again = place.again
        # What Redis has by this name of an earlier stay may be older than what it was told.
        whole = place.whole or (bool(place.dirty) and place.instance != instance)
        place.whole = place.again = False
        users = list(place.people) if whole else list(place.dirty)
        place.dirty.clear()
        changes: list[Change] = []
        for user in users:
            person = place.people.get(user)
            if person is None:
                continue
            status = person.status
            if status is Status.OFFLINE and (whole or person.is_told):
                self._forget(place, user)
            elif whole or not person.is_told:
                person.told, person.told_name = None, person.name
                changes.append(Change(user, person.name, status))
        return Told(changes, whole, again)

    def settle(self, place: Place, told: Told, *, arrived: bool) -> None:
        """Whether what was taken has arrived. If not it is due again, as it is then."""
        if not arrived:
            place.whole = place.whole or told.whole
            place.again = place.again or told.again
        for change in told.changes:
            person = place.people.get(change.user)
            if person is None:
                continue
            if not arrived:
                place.dirty[change.user] = None
                continue
            person.told = change.status
            if change.status is Status.OFFLINE and person.is_told:
                place.dirty.pop(change.user, None)
                self._forget(place, change.user)

    def drop(self, place: Place) -> None:
        """Nobody is present here, and Redis knows it."""
        if self._places.get(place.topic.channel) is place and place.deserted:
            del self._places[place.topic.channel]

    def _forget(self, place: Place, user: str) -> None:
        del place.people[user]
        self._metrics.members(place.topic.kind, -1)
