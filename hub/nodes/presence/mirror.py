"""What this node knows of who is present in topics that somebody here is subscribed to, and the snapshots they get.

A view follows the events of its topic on their way to the subscribers. It is read from Redis when the topic gets its
first subscriber, and again when it may have missed something; then everybody in the live set gets it once more. All
who arrive meanwhile wait for that one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from hub.config import Settings
from hub.errors import HubError
from hub.fanout.publisher import PRESENCE_EVENT, event_id
from hub.nodes.presence.snapshots import Answer, Snapshots
from hub.nodes.presence.table import Member, Snapshot, Status
from hub.protocol.codec import Encoding, Packet, packet
from hub.protocol.frames import Event
from hub.telemetry import PresenceMetrics
from hub.topics.publication import Publication
from hub.topics.subscriptions import LocalTopic, Subscription, SubState
from hub.topics.topic import Topic

STEP_WRITES: Final = 250  # snapshots in one turn of the event loop
MOST_KEPT: Final = 500  # events that come while a view is read; with more it is read again
_FIRST_PAUSE_S: Final = 0.05

log = structlog.get_logger(__name__)


class _Change(Struct, gc=False):
    """The data of an event, as ``presence_merge.lua`` writes it."""

    action: str
    epoch: str
    version: int
    online: int
    away: int
    user: str = ""
    name: str = ""
    status: Status = Status.OFFLINE


class _Body(Struct, gc=False):
    name: str
    data: msgspec.Raw


_body_decoder = msgspec.json.Decoder(_Body)
_change_decoder = msgspec.json.Decoder(_Change)


class SnapshotData(Struct):
    """A snapshot as clients get it: the data of an event, or the result of ``presence.get`` (then without action)."""

    action: str
    epoch: str
    version: int
    online: int
    away: int
    listed: bool
    members: tuple[Member, ...]


class View:
    """Who is present in one topic, as of a version."""

    __slots__ = (
        "away",
        "doubts",
        "epoch",
        "failures",
        "kept",
        "local",
        "members",
        "online",
        "packets",
        "round",
        "telling",
        "trusted",
        "version",
    )

    def __init__(self, local: LocalTopic) -> None:
        self.local = local
        self.epoch = ""
        self.version = 0
        self.online = self.away = 0
        self.members: dict[str, Member] | None = None
        """None: too many to list."""
        self.trusted = False
        """No event was missed. While it is not, it is being read, or will be."""
        self.doubts = 1
        """Counts up with every reason to read."""
        self.kept: list[_Change] = []
        """Came while it is not trusted."""
        self.failures = 0
        self.round = 0
        """Counts up with every snapshot for everybody; an older one that is still going out ends."""
        self.telling = 0
        """Snapshots for everybody that are going out, in steps."""
        self.packets: dict[Encoding, Packet] = {}

    def snapshot(self) -> Snapshot:
        """What is known."""
        members = None if self.members is None else tuple(self.members.values())
        return Snapshot(self.epoch, self.version, self.online, self.away, members)

    def take(self, snapshot: Snapshot) -> None:
        """What Redis says."""
        self.epoch, self.version = snapshot.epoch, snapshot.version
        self.online, self.away = snapshot.online, snapshot.away
        self.members = None
        if snapshot.members is not None:
            self.members = {member.user: member for member in snapshot.members}
        self.packets.clear()

    def follow(self, change: _Change) -> bool:
        """One event. False: something was missed before it."""
        if change.epoch != self.epoch:
            return False
        if change.version <= self.version:
            return True
        if change.action == "count":
            self.members = None
        elif self.members is None or change.version != self.version + 1:
            return False
        elif change.status is Status.OFFLINE:
            self.members.pop(change.user, None)
        else:
            self.members[change.user] = Member(change.user, change.name, change.status)
        self.version, self.online, self.away = change.version, change.online, change.away
        self.packets.clear()
        return True

    def packet(self, encoding: Encoding) -> Packet:
        """The snapshot as an event; encoded once for as long as nothing changes."""
        found = self.packets.get(encoding)
        if found is None:
            data = snapshot_data(self.snapshot())
            frame = Event(self.local.topic.wire, event_id(), PRESENCE_EVENT, int(time.time() * 1000), data)
            found = self.packets[encoding] = packet(frame, encoding)
        return found


class Mirror:
    """The views of this node. ``on_lost_count`` is told of topics whose epoch has changed."""

    def __init__(
        self,
        settings: Settings,
        metrics: PresenceMetrics,
        snapshots: Snapshots,
        on_lost_count: Callable[[Topic], None],
    ) -> None:
        self._most_pause_s = settings.reconnect_max_s
        self._metrics = metrics
        self._snapshots = snapshots
        self._on_lost_count = on_lost_count
        self._views: dict[bytes, View] = {}
        """By channel; only of topics with somebody in their live set, or who was there and is still subscribed."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._views)

    async def close(self) -> None:
        """Ends what is under way."""
        self._closed = True
        self._views.clear()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def known(self, topic: Topic) -> Snapshot | None:
        """What is known of a topic without asking; it is at least as new as every event that went to clients here."""
        view = self._views.get(topic.channel)
        return view.snapshot() if view is not None and view.trusted else None

    def told(self, local: LocalTopic) -> tuple[str, int] | None:
        """Which version everybody in the live set without a filter has been told; None: not all of them the same."""
        view = self._views.get(local.channel)
        if view is None or not view.trusted or view.telling:
            return None
        return view.epoch, view.version

    # --- from the fan-out

    def live(self, sub: Subscription) -> None:
        """A subscription gets from now on what comes: a snapshot now, or as soon as there is one."""
        if sub.filter is not None or self._closed:
            return  # its client has said which events it wants; who filters can ask
        view = self._views.get(sub.topic.channel)
        if view is None:
            view = self._views[sub.topic.channel] = View(sub.topic)
            self._read(view)
        elif view.trusted:
            self._send(view, sub)

    def ephemeral(self, local: LocalTopic, publication: Publication) -> None:
        """Something came that is not kept; perhaps it is about presence."""
        view = self._views.get(local.channel)
        if view is None:
            return
        try:
            body = _body_decoder.decode(publication.body)
            if body.name != PRESENCE_EVENT:
                return
            change = _change_decoder.decode(body.data)
        except msgspec.DecodeError:
            log.warning("unreadable presence", kind=local.topic.kind)
            self._doubt(view)
            return
        if not view.trusted:
            self._keep(view, change)
        elif not view.follow(change):
            self._doubt(view)

    def doubt(self, local: LocalTopic) -> None:
        """Events of the topic may have been lost."""
        view = self._views.get(local.channel)
        if view is not None:
            self._doubt(view)

    def left(self, local: LocalTopic) -> None:
        """A subscription has ended. What nobody gets is forgotten."""
        if not (local.live_json or local.live_msgpack or local.picky):
            self._views.pop(local.channel, None)

    # --- reading

    def _keep(self, view: View, change: _Change) -> None:
        view.kept.append(change)
        if len(view.kept) > MOST_KEPT:
            view.kept.clear()
            view.doubts += 1

    def _doubt(self, view: View) -> None:
        view.doubts += 1
        if view.trusted:
            view.trusted = False
            self._read(view)

    def _read(self, view: View) -> None:
        """Once at a time of a view: until it has come, ``trusted`` is not set."""
        doubts = view.doubts
        self._snapshots.ask(view.local.topic).add_done_callback(lambda answer: self._take(view, answer, doubts))

    def _take(self, view: View, answer: Answer, doubts: int) -> None:
        if self._views.get(view.local.channel) is not view:
            return
        outcome = answer.result()
        if isinstance(outcome, HubError):
            self._read_later(view)
            return
        view.failures = 0
        if view.doubts != doubts:
            self._read(view)  # what was missed may be newer than this
            return
        before, kept = view.epoch, view.kept
        view.kept = []
        view.take(outcome)
        if before not in ("", view.epoch):
            self._on_lost_count(view.local.topic)
        # What came meanwhile went to the clients already; a snapshot must not be older than that.
        if not all(view.follow(change) for change in kept):
            self._read(view)
            return
        view.trusted = True
        self._send_all(view)

    def _read_later(self, view: View) -> None:
        pause = min(_FIRST_PAUSE_S * 2**view.failures, self._most_pause_s)
        view.failures = min(view.failures + 1, 16)
        delay = pause * random.uniform(0.5, 1)
        asyncio.get_running_loop().call_later(delay, self._read_again, view)

    def _read_again(self, view: View) -> None:
        if self._views.get(view.local.channel) is view:
            self._read(view)

    # --- sending

    def _send(self, view: View, sub: Subscription) -> None:
        sub.subscriber.deliver(view.packet(sub.subscriber.encoding))
        if view.local.holders == 1:
            view.packets.clear()  # nobody to share them with
        self._metrics.sent(view.local.topic.kind)

    def _send_all(self, view: View) -> None:
        # What is on its way to some is older than the snapshot, and may be of another epoch.
        view.local.finish_walk()
        view.round += 1
        subs = [sub for sub in view.local.live_subscriptions() if sub.filter is None]
        if len(subs) <= STEP_WRITES:
            self._send_some(view, subs)
            return
        view.telling += 1
        task = asyncio.create_task(self._send_in_steps(view, subs), name="presence-snapshots")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_in_steps(self, view: View, subs: list[Subscription]) -> None:
        number = view.round
        try:
            for start in range(0, len(subs), STEP_WRITES):
                # Each gets it as it is then: those who wait have got the events that came meanwhile.
                self._send_some(view, subs[start : start + STEP_WRITES])
                await asyncio.sleep(0)
                if view.round != number or not view.trusted:
                    return  # everybody gets another one
        finally:
            view.telling -= 1

    def _send_some(self, view: View, subs: list[Subscription]) -> None:
        for sub in subs:
            if sub.state is SubState.LIVE:
                self._send(view, sub)


def snapshot_data(snapshot: Snapshot) -> SnapshotData:
    """The data of the event."""
    return SnapshotData(
        action="snapshot",
        epoch=snapshot.epoch,
        version=snapshot.version,
        online=snapshot.online,
        away=snapshot.away,
        listed=snapshot.members is not None,
        members=snapshot.members or (),
    )


def snapshot_fields(snapshot: Snapshot) -> dict[str, Any]:
    """The result of ``presence.get``."""
    fields: dict[str, Any] = msgspec.structs.asdict(snapshot_data(snapshot))
    del fields["action"]
    return fields
