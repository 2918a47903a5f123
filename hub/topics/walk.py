"""Packets for more subscribers than one turn of the event loop has time for: who is left, and what each gets.

The dispatcher sets it out and takes its steps; a topic knows the walk that is under way (``LocalTopic.walk``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from hub.protocol.codec import Encoding, Packet
from hub.topics.subscriptions import Group, Subscription, SubState


class Own(Protocol):
    """What somebody gets in place of a packet that has events of his own which do not go to him."""

    def whole(self, encoding: Encoding) -> Packet:
        """The same without them; it may have no payloads."""


class Walk:
    """Packets on their way to the many subscribers of a topic, to some in each turn of the event loop.

    They are all at the topic's position already; so whoever leaves the live set meanwhile is written to before.
    """

    __slots__ = ("_own", "_parts", "events")

    def __init__(self, parts: Sequence[tuple[Packet, Group]], own: Mapping[str, Own] | None = None) -> None:
        """``own``: by user, who gets something else."""
        self.events = 0
        """How many were written to somebody; counted only when not everybody gets the same."""
        self._own = own
        self._parts = [(packet, set(group)) for packet, group in parts if group]

    def __bool__(self) -> bool:
        """Whether somebody is left."""
        return any(left for _, left in self._parts)

    def step(self, most: int) -> int:
        """Writes to at most ``most`` of those who are left; returns to how many."""
        written = 0
        own = self._own
        while self._parts and written < most:
            packet, left = self._parts[-1]
            while left and written < most:
                written += 1
                sub = left.pop()
                if own is None:
                    sub.subscriber.deliver(packet)
                else:
                    self._write_own(sub, packet, own)
            if not left:
                self._parts.pop()
        return written

    def finish(self) -> None:
        """Writes to everybody who is left."""
        while self._parts:
            packet, left = self._parts.pop()
            for sub in left:
                self._write(sub, packet)

    def leave(self, sub: Subscription, state: SubState) -> None:
        """A subscription leaves the live set for ``state``. One that has ended gets nothing any more."""
        for packet, left in self._parts:
            if sub in left:
                left.discard(sub)
                if state is not SubState.ENDED:
                    self._write(sub, packet)

    def _write(self, sub: Subscription, packet: Packet) -> None:
        if self._own is None:
            sub.subscriber.deliver(packet)
        else:
            self._write_own(sub, packet, self._own)

    def _write_own(self, sub: Subscription, packet: Packet, own: Mapping[str, Own]) -> None:
        # Looked up here, one by one: to find the authors' connections first takes a millisecond for 10 000.
        found = own.get(sub.subscriber.user)
        if found is not None:
            packet = found.whole(packet.encoding)
        if packet.payloads:
            self.events += len(packet.payloads)
            sub.subscriber.deliver(packet)
