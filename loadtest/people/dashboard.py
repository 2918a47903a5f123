"""A dashboard on a wall: several topics, some filtered, acknowledges, is reloaded now and then."""

from __future__ import annotations

import random
import time
from typing import Any

import gevent
from locust import constant, task

from loadtest.people.link import LinkLost
from loadtest.people.person import QUIET, ROOMS, Person, Wish

PROPERTIES = (123, 456, 789)
STATUSES = ("open", "late", "done")
_RELOADS_PER_TURN = 1 / 100
_STORED_S = 3.0  # the hub stores acknowledged positions once a second


class Dashboard(Person):
    """Comes back by its session where it has acknowledged, and by its own positions elsewhere."""

    weight = 6
    wait_time = constant(1)  # `ack` is sent at most once a second

    def on_start(self) -> None:
        """With a filter of its own."""
        filtered = {"property_id": random.choice(PROPERTIES), "status": random.sample(STATUSES, 2)}
        self.wishes = (
            Wish(f"events:{ROOMS[0]}", ack=True),
            Wish(f"events:{ROOMS[1]}", filter=filtered),
            Wish(f"events:{ROOMS[2]}"),
            *(Wish(f"events:{service}") for service in QUIET),
        )
        self._acked: dict[str, float] = {}
        super().on_start()

    def since(self, wish: Wish) -> dict[str, Any] | None:
        """Nothing where the hub has stored what was acknowledged."""
        if time.monotonic() - self._acked.get(wish.topic, time.monotonic()) > _STORED_S:
            return None
        return super().since(wish)

    @task
    def look(self) -> None:
        """A second of looking at it."""
        if not self.present() or self.link is None:
            return
        if random.random() < _RELOADS_PER_TURN:
            self.link.close()
            self.link = None
            gevent.sleep(random.uniform(0.2, 1.5))
            return
        self._acknowledge()

    def _acknowledge(self) -> None:
        positions = {topic: record.position for topic, record in self.records.items() if record.seen}
        if not positions or self.link is None:
            return
        try:
            self.link.send({"type": "ack", "positions": positions})
        except LinkLost:
            return  # `present` reports it
        for topic in positions:
            self._acked.setdefault(topic, time.monotonic())
