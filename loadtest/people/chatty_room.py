"""A member of a busy room: writes often, and hears everybody including himself."""

from __future__ import annotations

import itertools
import random

import gevent
from locust import between, task

from loadtest.people.dashboard import PROPERTIES, STATUSES
from loadtest.people.person import ROOMS, Person, Wish
from loadtest.people.record import Violation

_ECHO_S = 5.0
_POLL_S = 0.05
_numbers = itertools.count()


class ChattyRoom(Person):
    """Publishes to one topic of kind ``events``, which stands for a room, and listens to another as well."""

    weight = 2
    wait_time = between(0.2, 1.0)

    def on_start(self) -> None:
        """The rooms fill evenly."""
        number = next(_numbers)
        self.wishes = tuple(Wish(f"events:{ROOMS[(number + offset) % len(ROOMS)]}") for offset in (0, 1))
        super().on_start()

    @task
    def say(self) -> None:
        """Says something and waits until it comes back: what nothing follows must arrive too."""
        if not self.present():
            return
        topic = self.wishes[0].topic
        record = self.records[topic]
        tags = {"property_id": random.choice(PROPERTIES), "status": random.choice(STATUSES)}
        said = self.publish(topic, tags)
        if said is None:
            return
        with gevent.Timeout(_ECHO_S, False):
            while record.epoch == said["epoch"] and record.seen < said["seq"]:
                gevent.sleep(_POLL_S)
            return
        if self.link is not None and self.link.lost is None:
            self.measured("contract", 0, Violation(f"{topic}: said {said['seq']}, heard up to {record.seen}"))
