"""A phone on a train: its connection goes without a word, and it comes back with its session and its positions."""

from __future__ import annotations

import random

import gevent
from locust import between, task

from loadtest.people.link import Link
from loadtest.people.person import ROOMS, Person, Wish


class FlappingPhone(Person):
    """Half of the time TCP is reset; otherwise the hub still has the old connection when the new one comes."""

    weight = 2
    wait_time = between(1, 5)

    def on_start(self) -> None:
        """In all rooms."""
        self.wishes = tuple(Wish(f"events:{room}") for room in ROOMS)
        super().on_start()

    @task
    def ride(self) -> None:
        """Into the tunnel and out again."""
        if not self.present() or self.link is None:
            return
        old: Link = self.link
        self.link = None
        forsaken = random.random() < 0.5
        (old.forsake if forsaken else old.drop)()
        gevent.sleep(random.uniform(0.2, 3))
        try:
            self.come_in()
        finally:
            if forsaken:
                old.drop()
