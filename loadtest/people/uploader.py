"""Somebody who uploads tables of all sizes, loses the connection in the middle now and then, and goes on."""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
from typing import Any

import gevent
from gevent.event import AsyncResult, Event
from locust import between, task

from loadtest.people.dashboard import PROPERTIES
from loadtest.people.link import Frame, Link, LinkLost, Refused, now_ms
from loadtest.people.person import Person, Wish
from loadtest.people.record import Violation
from loadtest.people.sending import Sending

_SIZES = (2_000, 20_000, 300_000, 3_000_000, 12_000_000)
_SHARES = (20, 40, 30, 9, 1)
_CUTS_PER_UPLOAD = 0.3
_CREDIT_S = 10.0
_SEND_S = 120.0
_READY_S = 60.0
_AGAIN_S = 0.3
_ROW = "{number},Ada Lindqvist,{room},2026-08-01\n"


class Uploader(Person):
    """Waits until the document is there, and compares what the hub has read with what it sent."""

    weight = 1
    wait_time = between(2, 8)
    wishes = (Wish("events:guest"),)
    """Where ``document.uploaded`` comes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sending: Sending | None = None
        self._news = Event()
        self._ready: AsyncResult[Frame] = AsyncResult()
        self._upload = ""

    @task
    def upload(self) -> None:
        """One table."""
        if not self.present():
            return
        data = _table(random.choices(_SIZES, _SHARES)[0])
        self._sending, self._ready = Sending(len(data)), AsyncResult()
        started = now_ms()
        failed: Exception | None = None
        try:
            if not self._begin(len(data)):
                return
            self._send(self._sending, data)
            document = self._ready.get(timeout=_READY_S)
            if document["sha256"] != hashlib.sha256(data).hexdigest():
                raise Violation("another sha256 than that of what was sent")
        except gevent.Timeout:
            failed = TimeoutError(f"all sent, and not there after {_READY_S:g} s")
        except TimeoutError as error:
            failed = error
        except Violation as violation:
            self.measured("contract", 0, Violation(f"upload {self._upload}: {violation}"))
            return
        finally:
            self._sending = None
        self.measured("upload", now_ms() - started, failed)

    def _send(self, sending: Sending, data: bytes) -> None:
        """Until the hub has all of it. Raises ``TimeoutError`` and ``Violation``."""
        give_up = time.monotonic() + _SEND_S
        cut_at = random.randrange(len(data)) if random.random() < _CUTS_PER_UPLOAD else len(data)
        while not sending.whole:
            if time.monotonic() > give_up:
                raise TimeoutError(f"{sending.acknowledged} of {sending.size} bytes after {_SEND_S:g} s")
            self._news.clear()
            link = self.link
            if link is None or link.lost is not None or not sending.open:
                self._go_on(sending)
            elif (piece := sending.piece()) is None:
                if not self._news.wait(_CREDIT_S):
                    raise Violation(f"no credit for {_CREDIT_S:g} s, at {sending.acknowledged} of {sending.size} bytes")
            elif piece.offset + piece.size > cut_at:
                cut_at = len(data)
                self._cut(sending, link)
            else:
                with contextlib.suppress(LinkLost):  # `present` reports it
                    link.send_chunk(piece.handle, piece.offset, data[piece.offset : piece.offset + piece.size])

    def _cut(self, sending: Sending, old: Link) -> None:
        """Half of the time the hub does not know of it when the same upload goes on."""
        self.link = None
        (old.drop if random.random() < 0.5 else old.forsake)()
        try:
            self._go_on(sending)
        finally:
            old.drop()

    def _begin(self, size: int) -> bool:
        """A new upload; False: that failed, which has been reported."""
        params = {"filename": "guests.csv", "size": size, "document_type": "csv"}
        metadata = {"property_id": random.choice(PROPERTIES)}
        answer = self._handle("upload.create", {**params, "metadata": metadata})
        self._upload = answer["upload"] if answer else ""
        return answer is not None

    def _go_on(self, sending: Sending) -> None:
        """A new handle, on this connection or the next one."""
        sending.lost()
        if not self.present() or self._handle("upload.resume", {"upload": self._upload}) is None:
            gevent.sleep(_AGAIN_S)

    def _handle(self, method: str, params: Frame) -> Frame | None:
        """What a method answers that gives a handle; None: failed, and reported. Raises ``Violation``."""
        if self.link is None or self._sending is None:
            return None
        started = now_ms()
        try:
            answer: Frame = self.link.ask({"type": "call", "method": method, "params": params})["result"]
        except (LinkLost, Refused, TimeoutError) as error:
            self.measured(method, now_ms() - started, error)
            return None
        self.measured(method, now_ms() - started)
        self._sending.begun(answer)
        return answer

    def _take(self, frame: Frame) -> None:
        sending = self._sending
        if frame["type"] == "credit":
            if sending is not None:
                sending.credit(frame)
        elif frame["type"] == "error" and "handle" in (frame.get("details") or {}):
            if sending is not None:
                sending.refused(frame)
        else:
            super()._take(frame)
            self._look(frame)
            return
        self._news.set()

    def _look(self, frame: Frame) -> None:
        about = frame["type"] == "event" and frame["name"] == "document.uploaded"
        if about and frame["data"]["upload"] == self._upload:
            self._ready.set(frame["data"])


def _table(size: int) -> bytes:
    """About so many bytes of CSV, never the same."""
    number = random.randrange(10**9)
    rows = ["number,guest,room,arrival\n"]
    rows += [_ROW.format(number=number + row, room=row % 400) for row in range(size // len(_ROW))]
    return "".join(rows).encode()
