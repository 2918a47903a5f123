"""Our client, and what it took in of every topic: which numbers, in which order, and nothing after ``unsubscribed``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from hub.client import HubClient, Subscription
from hub.client.progress import Outcome
from hub.client.wire import HubFrame, Unsubscribed
from hub.protocol import frames

_MOST_COMPLAINTS = 5


class Ear:
    """One topic, over all subscriptions and connections of one client."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self._numbered = topic.startswith("chat:")  # in an inbox it is the number of something in a room
        self.subscribed = False
        self.ended: list[float] = []
        """When the hub took the topic away."""
        self.epochs: list[str] = []
        self.complaints: list[str] = []
        self.names: Counter[str] = Counter()
        self.created: set[int] = set()
        """Numbers of the messages of which it was told, in whichever epoch."""
        self.said: list[tuple[float, str, dict[str, Any]]] = []
        """Everything ephemeral: when, what, and its data."""
        self._taken_away = False
        self._newest = 0
        self._seen: set[int] = set()

    def follow(self, subscription: Subscription) -> None:
        """Listens in: to verdicts, and to what is new to the client."""
        joined, event = subscription.joined, subscription.event

        def on_joined(verdict: Any) -> None:
            joined(verdict)
            self.subscribed, self._taken_away = True, False
            self._in_epoch(subscription.progress.epoch)

        def on_event(frame: frames.Event) -> Outcome | None:
            outcome = event(frame)
            if outcome is Outcome.NEW:
                self._in_epoch(subscription.progress.epoch)
                self._take(frame)
            return outcome

        subscription.joined = on_joined  # type: ignore[method-assign]
        subscription.event = on_event  # type: ignore[method-assign]

    def overhear(self, frame: frames.Event | Unsubscribed) -> None:
        """A frame on the wire, new or not."""
        if isinstance(frame, Unsubscribed):
            self.subscribed, self._taken_away = False, True
            self.ended.append(time.monotonic())
        elif self._taken_away:
            self._complain(f"event {frame.name} {frame.seq} after `unsubscribed`")

    def _in_epoch(self, epoch: str) -> None:
        if not self.epochs or self.epochs[-1] != epoch:
            self.epochs.append(epoch)
            self._newest, self._seen = 0, set()

    def _take(self, frame: frames.Event) -> None:
        self.names[frame.name] += 1
        if frame.seq is None:
            self.said.append((time.monotonic(), frame.name, frame.data))
            return
        if not self._numbered or not isinstance(frame.data, Mapping) or "number" not in frame.data:
            return
        number = frame.data["number"]
        if number in self._seen:
            self._complain(f"{frame.name} {number} came twice in epoch {self.epochs[-1]}")
        elif number < self._newest:
            self._complain(f"{frame.name} {number} came after {self._newest} in epoch {self.epochs[-1]}")
        self._seen.add(number)
        self._newest = max(self._newest, number)
        if frame.name == "message.created":
            self.created.add(number)

    def _complain(self, text: str) -> None:
        if len(self.complaints) < _MOST_COMPLAINTS:
            self.complaints.append(f"{self.topic}: {text}")


class Listener(HubClient):
    """A ``HubClient`` with an ear on every topic."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.ears: dict[str, Ear] = {}
        self.connected = False
        self.ups = 0
        self._others: Any = None
        super().on_frame(self._overhear)
        super().on_state(self._change)

    def on_frame(self, callback: Any) -> None:
        """See ``HubClient``."""
        self._others = callback

    def ear(self, topic: str) -> Ear:
        """What it hears of a topic."""
        return self.ears.setdefault(topic, Ear(topic))

    def subscribe(self, topic: str, **how: Any) -> Subscription:  # type: ignore[override]
        """See ``HubClient``."""
        made = super().subscribe(topic, **how)
        self.ear(topic).follow(made)
        return made

    def _overhear(self, frame: HubFrame) -> None:
        if isinstance(frame, Unsubscribed | frames.Event):
            self.ear(frame.topic).overhear(frame)
        if self._others is not None:
            self._others(frame)

    def _change(self, state: str, _: str) -> None:
        self.connected = state == "up"
        self.ups += self.connected
