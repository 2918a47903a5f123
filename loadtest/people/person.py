"""What every kind of person does: come in, judge what arrives, return after a loss, tell locust.

Violations of the contract, refusals and lost connections are locust failures; times are locust requests, under the
name of the kind. ``HUB_URL`` says where the hub is, ``HUB_JWT_SECRET`` signs the tokens, ``LOAD_ORGS`` is the number
of organisations among which people are spread.
"""

from __future__ import annotations

import itertools
import os
import random
import secrets
import time
from typing import Any, ClassVar, NamedTuple

import gevent
from locust import User

from hub.cli.environment import default_url, mint
from loadtest.people.link import Frame, Link, LinkLost, Refused, now_ms
from loadtest.people.record import Record, Violation

ROOMS = ("guest", "tasks", "staff")
"""Services whose topics people write to."""
QUIET = ("finance", "reports")
"""Services whose topics nobody writes to."""

_SCOPE = "subscribe:* publish:* call:upload.*"
_TOKEN_LIFE_S = 3600.0
_RETURN_S = 3.0  # longest wait before a lost connection is opened again; full jitter
_DRAIN_CODES = frozenset((1012, 4504))
_RUN = secrets.token_hex(3)
_numbers = itertools.count()


class Wish(NamedTuple):
    """One topic as a person wants it."""

    topic: str
    filter: dict[str, Any] | None = None
    ack: bool = False

    def matches(self, tags: dict[str, Any]) -> bool:
        """Whether the hub may deliver an event with these tags."""
        wanted = (self.filter or {}).items()
        return all(tags.get(tag) in (value if isinstance(value, list) else [value]) for tag, value in wanted)


class Person(User):
    """One user of one organisation with one connection and one session."""

    abstract = True
    wishes: tuple[Wish, ...] = ()
    orgs: ClassVar[int] = int(os.environ.get("LOAD_ORGS", "4"))
    url: ClassVar[str] = os.environ.get("HUB_URL") or default_url()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        number = next(_numbers)
        self.org = f"load-{number % self.orgs}"
        self.name = f"{type(self).__name__.lower()}-{_RUN}-{os.getpid()}-{number}"
        self.link: Link | None = None
        self.session = ""
        self.records: dict[str, Record] = {}
        self._asked: dict[str, dict[str, Any] | None] = {}
        self._by_session: set[str] = set()
        self._ticket = ""
        self._leave_at = 0.0
        self._returned_at = 0.0

    # --- locust

    def on_start(self) -> None:
        """Comes in."""
        self.records = {wish.topic: Record(wish.topic, filtered=wish.filter is not None) for wish in self.wishes}
        self.come_in()

    def on_stop(self) -> None:
        """Leaves as a page that is closed."""
        if self.link is not None:
            self.link.close()

    def measured(self, what: str, ms: float, error: Exception | None = None) -> None:
        """One locust request."""
        self.environment.events.request.fire(
            request_type=type(self).__name__,
            name=what,
            response_time=ms,
            response_length=0,
            exception=error,
            context={},
        )

    # --- coming and going

    def present(self) -> bool:
        """Whether there is a connection, after one that was lost was opened again. Call it before anything else."""
        link = self.link
        if link is not None and link.lost is None:
            if not self._leave_at or time.monotonic() < self._leave_at:
                return True
            link.close()
        elif link is not None and link.lost is not None:
            if link.lost.code not in _DRAIN_CODES:
                self.measured("connection", 0, link.lost)
            gevent.sleep(random.uniform(0, _RETURN_S))
        self.link = None
        return self.come_in()

    def come_in(self) -> bool:
        """Opens a connection and says hello; False when that failed, which has been reported."""
        ticket, self._ticket, self._leave_at = self._ticket, "", 0.0
        started = now_ms()
        what = "handshake"
        try:
            self.link = Link(self.url, self.token(), self.arrived, ticket=ticket)
            self.measured(what, now_ms() - started)
            what, started = "hello", now_ms()
            self._returned_at = started if self.session else 0.0
            self.link.ask(self._hello())
        except Exception as error:
            self.measured(what, now_ms() - started, error)
            gevent.sleep(random.uniform(0, _RETURN_S))
            return False
        self.measured(what, now_ms() - started)
        return True

    def token(self) -> str:
        """A fresh token of this person."""
        return mint(self.org, self.name, scope=_SCOPE, ttl_s=_TOKEN_LIFE_S)

    def since(self, wish: Wish) -> dict[str, Any] | None:
        """The position to ask for; None: what the session knows, or live only."""
        return self.records[wish.topic].position

    def _hello(self) -> Frame:
        self._by_session.clear()
        topics: list[Frame] = []
        for wish in self.wishes:
            since = self._asked[wish.topic] = self.since(wish)
            if since is None and self.session and self.records[wish.topic].epoch:
                self._by_session.add(wish.topic)
            item: Frame = {"topic": wish.topic, "since": since, "filter": wish.filter, "ack": wish.ack or None}
            topics.append({key: value for key, value in item.items() if value is not None})
        hello: Frame = {"type": "hello", "subscribe": topics}
        if self.session:
            hello["resume"] = {"session": self.session}
        return hello

    # --- what arrives

    def arrived(self, frame: Frame) -> None:
        """A frame that is no answer, or the welcome; called in the reader's greenlet."""
        try:
            self._take(frame)
        except Violation as violation:
            self.measured("contract", 0, Violation(f"{frame.get('topic', '')}: {violation}"))

    def _take(self, frame: Frame) -> None:
        match frame["type"]:
            case "event":
                self._event(frame)
            case "welcome":
                self._welcome(frame)
            case "gap":
                self.measured(f"gap announced ({frame['reason']})", 0)
                self.records[frame["topic"]].gap(frame)
            case "position":
                self.records[frame["topic"]].skipped_to(frame)
            case "drain":
                self._ticket = frame["ticket"]
                self._leave_at = time.monotonic() + frame["after_ms"] / 1000
            case "expiring":
                gevent.spawn(self._renew)
            case "error" | "unsubscribed":
                self.measured(frame["type"], 0, Refused(frame))
        if self._returned_at and all(record.caught_up for record in self.records.values()):
            self.measured("caught up", now_ms() - self._returned_at)
            self._returned_at = 0.0

    def _welcome(self, frame: Frame) -> None:
        if self.session and not frame["resumed"]:
            self.measured("session not known", 0)
            self._by_session.clear()
        self.session = frame["session"]
        for verdict in frame["topics"]:
            topic = verdict["topic"]
            if not verdict["ok"]:
                self.measured("subscription refused", 0, Refused(verdict["error"]))
                continue
            self.records[topic].joined(verdict, self._asked[topic], by_session=topic in self._by_session)

    def _event(self, frame: Frame) -> None:
        topic, seq = frame["topic"], frame.get("seq")
        record = self.records[topic]
        if seq is not None and not record.event(seq):
            return
        wish = next(wish for wish in self.wishes if wish.topic == topic)
        if not wish.matches(frame.get("tags", {})):
            raise Violation(f"event {seq} does not match the filter")
        data = frame["data"]
        # Others may write to these topics as well, with other clocks; and a replay is late by nature.
        if isinstance(data, dict) and data.get("run") == _RUN and (seq is None or seq > record.top):
            self.measured("publish to receive", (time.time_ns() - data["sent_ns"]) / 1e6)

    def _renew(self) -> None:
        if self.link is not None:
            self.ask("auth", {"token": self.token()})

    # --- what is asked

    def ask(self, kind: str, fields: Frame) -> Any:
        """A request, measured under its type. None when it failed, which has been reported."""
        if self.link is None:
            return None
        started = now_ms()
        try:
            answer = self.link.ask({"type": kind, **fields})
        except (LinkLost, Refused, TimeoutError) as error:
            self.measured(kind, now_ms() - started, error)
            return None
        self.measured(kind, now_ms() - started)
        return answer["result"]

    def publish(self, topic: str, tags: dict[str, Any]) -> dict[str, Any] | None:
        """One event whose way is measured where it arrives; its position, or None."""
        # The crowd's generator knows this field too (``loadtest.crowd``).
        data = {"run": _RUN, "sent_ns": time.time_ns(), "text": "x" * random.randint(20, 200)}
        result: dict[str, Any] | None = self.ask(
            "publish", {"topic": topic, "name": "load.said", "data": data, "tags": tags}
        )
        return result
