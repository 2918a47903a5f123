"""Cases: encoding of events and frames, reading of what clients send, a session's frames, the publish script's call."""

from __future__ import annotations

from typing import Any

import msgspec

from hub.fanout.bodies import encode_body
from hub.fanout.broker import Draft
from hub.fanout.envelope import make_envelope, parse_envelope
from hub.fanout.run import Run as EventRun
from hub.fanout.scripts import publish_call
from hub.protocol.codec import Encoding, decode_frame, encode_event
from hub.protocol.session import Join, Open, Perform, Session
from hub.protocol.websocket import MessageReader
from hub.topics.publication import Publication
from hub.topics.topic import parse_topic
from tests.bench.dispatch import DATA, RUN, body
from tests.bench.timer import Case, Run
from tests.support.fan_out import ORG, REPLAY, settings, topic
from tests.support.raw_socket import masked

FRAMES = 100
HELLO_TOPICS = 50
PUBLISH: dict[str, Any] = {"type": "publish", "id": 7, "topic": "replay:1", "name": "thing.happened", "data": DATA}
ACK = {"type": "ack", "positions": {"replay:1": {"epoch": "0123456789abcdef", "seq": 42}}}


def written(frame: dict[str, Any], encoding: Encoding) -> bytes:
    """A frame as a client sends it."""
    return msgspec.json.encode(frame) if encoding is Encoding.JSON else msgspec.msgpack.encode(frame)


def _plain(name: str, unit: str, run: Run, operations: int = 1) -> Case:
    async def prepare() -> Run:
        return run

    return Case(name, unit, operations, prepare)


def encoding_cases() -> list[Case]:
    """One event in each encoding, a run of them with its WebSocket frames, a body from a publisher's data."""
    one = body()
    publications = [Publication("e1", seq, 1_700_000_000_000, one) for seq in range(1, RUN + 1)]
    cases = [_plain("encode: body of an event", "event", lambda: encode_body("id", "thing.happened", DATA, None, "u1"))]
    for encoding in Encoding:
        name = encoding.name.lower()

        def event(encoding: Encoding = encoding) -> object:
            return encode_event("replay:1", 7, 1_700_000_000_000, one, encoding)

        def run(encoding: Encoding = encoding) -> object:
            return EventRun("replay:1", publications).whole(encoding).wire

        cases.append(_plain(f"encode: event, {name}", "event", event))
        cases.append(_plain(f"encode: run of {RUN} as wire frames, {name}", "event", run, RUN))
    return cases


def session_cases() -> list[Case]:
    """Bytes of a frame in, an action out."""
    cases = []
    for encoding in Encoding:
        for what, frame in (("publish", PUBLISH), ("ack", ACK)):
            cases.append(_open_session(f"session: {what}, {encoding.name.lower()}", frame, encoding))
        cases.append(_hello(encoding))
    cases.append(_subscribe())
    return cases


def _session(encoding: Encoding, topics: set[str]) -> Session:
    return Session(encoding, topics, max_topics=1000, max_bad_frames=20)


def _open_session(name: str, frame: dict[str, Any], encoding: Encoding) -> Case:
    data = written(frame, encoding)
    session = _session(encoding, {"replay:1"})
    session.receive(decode_frame(written({"type": "hello"}, encoding), encoding), 0.0)
    session.opened()

    def run() -> object:
        return session.receive(decode_frame(data, encoding), 0.0)

    assert isinstance(run(), Perform)
    return _plain(name, "frame", run)


def _items() -> list[dict[str, Any]]:
    since = {"epoch": "0123456789abcdef", "seq": 41}
    return [{"topic": f"replay:{number}", "since": since} for number in range(HELLO_TOPICS)]


def _hello(encoding: Encoding) -> Case:
    data = written({"type": "hello", "id": 1, "subscribe": _items()}, encoding)

    def run() -> object:
        return _session(encoding, set()).receive(decode_frame(data, encoding), 0.0)

    action = run()
    assert isinstance(action, Open)
    assert len(action.topics) == HELLO_TOPICS
    return _plain(f"session: hello with {HELLO_TOPICS} topics, {encoding.name.lower()}", "hello", run)


def _subscribe() -> Case:
    data = written({"type": "subscribe", "id": 1, "topics": _items()}, Encoding.JSON)
    session = _session(Encoding.JSON, set())
    session.receive(decode_frame(b'{"type":"hello"}', Encoding.JSON), 0.0)
    session.opened()

    def run() -> object:
        return session.receive(decode_frame(data, Encoding.JSON), 0.0)

    assert isinstance(run(), Join)
    return _plain(f"session: subscribe to {HELLO_TOPICS} topics, json", "frame", run)


def reader_cases() -> list[Case]:
    """Masked frames in one piece and in many, and one large message."""
    small = masked(written(PUBLISH, Encoding.JSON)) * FRAMES
    pieces = [small[start : start + 1400] for start in range(0, len(small), 1400)]
    large = masked(b"x" * 65_536)

    def read(*chunks: bytes) -> int:
        reader = MessageReader(1 << 20)
        return sum(1 for chunk in chunks for _ in reader.feed(chunk))

    assert read(small) == read(*pieces) == FRAMES
    return [
        _plain("reader: small masked frames, at once", "frame", lambda: read(small), FRAMES),
        _plain("reader: the same in packets of 1400 bytes", "frame", lambda: read(*pieces), FRAMES),
        _plain("reader: one masked frame of 64 KB", "frame", lambda: read(large)),
    ]


def publish_cases() -> list[Case]:
    """What a publication costs beside the round trip: its topic, the script's arguments, the envelope that returns."""
    of = topic(REPLAY)
    draft = Draft(of, REPLAY.history, body(), key="invoice-42")
    config = settings()
    envelope = make_envelope(Publication("0123456789abcdef", 42, 1_700_000_000_000, body()))
    return [
        _plain("publish: topic from its text", "topic", lambda: parse_topic(ORG, "replay:1")),
        _plain("publish: arguments of the script", "event", lambda: publish_call(draft, config, sharded=False)),
        _plain("publish: envelope parsed", "event", lambda: parse_envelope(envelope)),
    ]


def cases() -> list[Case]:
    """All of this module."""
    return [*encoding_cases(), *session_cases(), *reader_cases(), *publish_cases()]
