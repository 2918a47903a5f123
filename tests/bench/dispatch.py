"""Cases: from what one read of Redis brought to the subscribers' ``deliver``, by the dispatcher as a node wires it."""

from __future__ import annotations

from collections.abc import Sequence

from hub.errors import HubError
from hub.fanout.bodies import encode_body
from hub.fanout.envelope import make_envelope
from hub.fanout.membership import Joined, JoinRequest
from hub.protocol.codec import Encoding, Packet
from hub.protocol.frames import ServerFrame
from hub.topics.filters import TagFilter
from hub.topics.publication import Publication
from tests.bench.timer import Case, Run
from tests.support.fan_out import REPLAY, FanOut, topic

DATA = {"text": "x" * 120, "n": 42}
"""Makes an event frame of about 200 bytes."""
RUN = 20


def body() -> bytes:
    """An event body as it travels."""
    return encode_body("018f2c0000ffb7ad", "thing.happened", DATA, {"property_id": 123, "status": "open"}, "u1")


class Receiver:
    """A ``Subscriber`` that counts."""

    congested = gone = False
    user = "u1"

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.frames = 0

    def deliver(self, packet: Packet) -> None:
        self.frames += len(packet.payloads)

    def send(self, frame: ServerFrame) -> None:
        raise AssertionError(f"{frame} in a benchmark of live delivery")

    async def writable(self) -> None:
        raise AssertionError("never congested")

    def end_subscription(self, text: str, error: HubError) -> None:
        raise AssertionError(f"{text} ended in a benchmark of live delivery")


async def _join(hub: FanOut, receiver: Receiver, request: JoinRequest) -> None:
    (joined,) = await hub.membership.join(receiver, [request])
    assert isinstance(joined, Joined)
    hub.membership.activate(joined)


def _turns(hub: FanOut, keys: Sequence[str], events: int, receivers: Sequence[Receiver], expected: int) -> Run:
    """One turn with ``events`` for every topic; the topics are put back, so that every call is the same."""
    locals_ = [hub.local(REPLAY, key) for key in keys]
    batch = [
        (local.channel, make_envelope(Publication(local.epoch, seq, 1, body())))
        for local in locals_
        for seq in range(1, events + 1)
    ]

    def run() -> None:
        for local in locals_:
            local.top = 0
        hub.dispatcher.on_messages(batch)
        for local in locals_:
            local.finish_walk()

    run()
    assert sum(receiver.frames for receiver in receivers) == expected
    return run


def _one_topic(subscribers: int, events: int, *encodings: Encoding) -> Case:
    async def prepare() -> Run:
        hub = FanOut()
        receivers = [Receiver(encodings[index % len(encodings)]) for index in range(subscribers)]
        for receiver in receivers:
            await _join(hub, receiver, JoinRequest(topic(REPLAY), REPLAY))
        return _turns(hub, ["1"], events, receivers, subscribers * events)

    kinds = "+".join(encoding.name.lower() for encoding in encodings)
    run = f"run of {events}" if events > 1 else "1 event"
    return Case(f"dispatch: {run} -> {subscribers} x {kinds}", "delivery", subscribers * events, prepare)


def _many_topics(topics: int) -> Case:
    async def prepare() -> Run:
        hub = FanOut()
        keys = [str(number) for number in range(topics)]
        receivers = []
        for key in keys:
            receivers.append(Receiver(Encoding.JSON))
            await _join(hub, receivers[-1], JoinRequest(topic(REPLAY, key), REPLAY))
        return _turns(hub, keys, 1, receivers, topics)

    return Case(f"dispatch: {topics} topics x 1 event -> 1", "event", topics, prepare)


def _filtered(subscribers: int) -> Case:
    """Half of them want the event."""

    async def prepare() -> Run:
        hub = FanOut(position_skip_events=1 << 30, position_skip_s=1e9)
        receivers = [Receiver(Encoding.JSON) for _ in range(subscribers)]
        for index, receiver in enumerate(receivers):
            wanted = TagFilter({"status": "open" if index % 2 else "late"})
            await _join(hub, receiver, JoinRequest(topic(REPLAY), REPLAY, filter=wanted))
        local = hub.local(REPLAY)
        inner = _turns(hub, ["1"], 1, receivers, subscribers // 2)

        def run() -> None:
            for sub in local.picky:
                sub.seq = 0
            inner()

        return run

    return Case(f"dispatch: 1 event -> {subscribers} filters", "look", subscribers, prepare)


def _nobody() -> Case:
    async def prepare() -> Run:
        hub = FanOut()
        batch = [(b"nobody's", make_envelope(Publication("e", 1, 1, body())))] * 100

        def run() -> None:
            hub.dispatcher.on_messages(batch)

        return run

    return Case("dispatch: nobody listens", "event", 100, prepare)


def cases() -> list[Case]:
    """All of this module."""
    return [
        *(_one_topic(count, 1, Encoding.JSON) for count in (1, 100, 1000)),
        _one_topic(1000, RUN, Encoding.JSON),
        _one_topic(1000, RUN, Encoding.JSON, Encoding.MSGPACK),
        _many_topics(1000),
        _filtered(100),
        _nobody(),
    ]
