"""The session as a state machine: any frames in any order, well-formed or not, against PROTOCOL sections 3 and 11."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hub.errors import ErrorCode, bad_request, not_found
from hub.protocol.codec import BadFrame, Encoding, decode_frame
from hub.protocol.codes import CloseCode
from hub.protocol.frames import (
    Ack,
    Auth,
    Call,
    Chunk,
    ClientFrame,
    Error,
    Hello,
    Ping,
    Position,
    Publish,
    Subscribe,
    Unsubscribe,
    Verdict,
)
from hub.protocol.session import (
    BAD_FRAME_WINDOW_S,
    TRANSITIONS,
    Action,
    Close,
    Ignore,
    Join,
    Leave,
    Open,
    Perform,
    Pong,
    Send,
    Session,
    State,
    Take,
    Wanted,
    error_frame,
    refusal,
)

MAX_TOPICS = 3
MAX_BAD = 4

FRAMES: dict[type[Any], ClientFrame] = {
    Hello: Hello(1),
    Subscribe: Subscribe(1, []),
    Unsubscribe: Unsubscribe(1, ["a:1"]),
    Publish: Publish(1, "a:1", "name", {}),
    Call: Call(1, "a.b"),
    Ack: Ack({}),
    Auth: Auth(1, "token"),
    Ping: Ping(1),
    Chunk: Chunk(1, 0, memoryview(b"x")),
}
ANSWERS: dict[type[Any], type[Any]] = {Hello: Open, Subscribe: Join, Unsubscribe: Leave, Ping: Pong, Chunk: Take}


class OwnedSession(Session):
    """A session together with the topics that its connection would keep."""

    def __init__(self, encoding: Encoding, max_topics: int) -> None:
        self.topics: set[str] = set()
        super().__init__(encoding, self.topics, max_topics=max_topics, max_bad_frames=MAX_BAD)

    def joined(self, topic: str) -> None:
        self.topics.add(topic)

    def left(self, topic: str) -> None:
        self.topics.discard(topic)


def session(encoding: Encoding = Encoding.JSON, *, max_topics: int = MAX_TOPICS) -> OwnedSession:
    """A new one."""
    return OwnedSession(encoding, max_topics)


def opened(**options: Any) -> OwnedSession:
    """One whose hello was answered."""
    one = session(**options)
    one.receive(Hello(1), 0.0)
    one.opened()
    return one


def subscribe(*items: Any, encoding: Encoding = Encoding.JSON) -> Subscribe:
    """As it was decoded from the wire."""
    encode = msgspec.json.encode if encoding is Encoding.JSON else msgspec.msgpack.encode
    frame = decode_frame(encode({"type": "subscribe", "id": 1, "topics": list(items)}), encoding)
    assert isinstance(frame, Subscribe)
    return frame


def outcomes(action: Action) -> list[str]:
    """What each topic of a join came to: ``ok`` or the code of its refusal."""
    assert isinstance(action, Join | Open)
    found = []
    for item in action.topics:
        if isinstance(item, Verdict):
            assert not isinstance(item.error, msgspec.UnsetType)
            found.append(str(item.error.code))
        else:
            found.append("ok")
    return found


# --- the table


def test_the_table_knows_every_frame() -> None:
    assert set(FRAMES) == set(get_args(ClientFrame)) == {frame for _, frame in TRANSITIONS}


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("kind", list(FRAMES), ids=lambda kind: kind.__name__)
def test_every_frame_in_every_state(state: State, kind: type[Any]) -> None:
    one = session()
    one.state = state
    action = one.receive(FRAMES[kind], 0.0)
    following = TRANSITIONS.get((state, kind))
    if following is not None:
        assert one.state is following
        assert isinstance(action, ANSWERS.get(kind, Perform))
    elif state is State.CLOSED:
        assert action == Ignore()
    elif state is State.WAITING_FOR_HELLO:
        assert isinstance(action, Close)
        assert action.code is CloseCode.BAD_FRAME
        assert one.state is State.CLOSED
    else:
        assert isinstance(action, Send)
        assert isinstance(action.frame, Error)
        assert action.frame.code == ErrorCode.BAD_REQUEST
        assert one.state is state


# --- subscribing


def test_each_topic_has_its_own_verdict_in_the_order_asked() -> None:
    one = opened()
    one.joined("a:1")
    frame = subscribe(
        {"topic": "a:2", "since": {"epoch": "e", "seq": 7}, "filter": {"x": 1}, "ack": True},
        7,
        {"topic": "a:1"},
        {"topic": "a:3", "since": "start", "last": 3},
        {"topic": "a:2"},
        {"topic": "a:4", "last": 0},
        {"topic": "a:5"},
    )
    action = one.receive(frame, 0.0)
    assert outcomes(action) == [
        "ok",
        "bad_request",
        "already_subscribed",
        "bad_request",
        "already_subscribed",
        "ok",
        "too_many_topics",
    ]
    assert isinstance(action, Join)
    assert action.topics[0] == Wanted("a:2", Position("e", 7), {"x": 1}, True)
    assert action.topics[5] == Wanted("a:4", 0, None, False)


def test_wishes_take_no_place_until_they_are_joined() -> None:
    one = opened()
    frame = subscribe(*({"topic": f"a:{n}"} for n in range(MAX_TOPICS)))
    assert outcomes(one.receive(frame, 0.0)) == ["ok"] * MAX_TOPICS
    assert outcomes(one.receive(frame, 0.0)) == ["ok"] * MAX_TOPICS
    for n in range(MAX_TOPICS):
        one.joined(f"a:{n}")
    assert outcomes(one.receive(subscribe({"topic": "b:1"}), 0.0)) == ["too_many_topics"]
    one.left("a:0")
    assert outcomes(one.receive(subscribe({"topic": "b:1"}), 0.0)) == ["ok"]


def test_services_come_before_topics() -> None:
    frame = decode_frame(
        '{"type":"hello","services":["finance","guest"],"subscribe":[{"topic":"a:1"},{"topic":"events:guest"}]}',
        Encoding.JSON,
    )
    action = session().receive(frame, 0.0)
    assert isinstance(action, Open)
    assert [item.topic for item in action.topics] == ["events:finance", "events:guest", "a:1", "events:guest"]
    assert outcomes(action) == ["ok", "ok", "ok", "already_subscribed"]


def test_msgpack_items_are_read_as_msgpack() -> None:
    action = opened(encoding=Encoding.MSGPACK).receive(subscribe({"topic": "a:1"}, encoding=Encoding.MSGPACK), 0.0)
    assert outcomes(action) == ["ok"]


def test_a_name_too_long_is_cut_in_its_refusal() -> None:
    assert len(refusal("x" * 100_000, not_found()).topic) == 200


# --- faults


def test_bad_frames_within_the_window_end_the_connection() -> None:
    one = opened()
    error = BadFrame(ErrorCode.BAD_REQUEST, "text", 5, "ping")
    for n in range(MAX_BAD - 1):
        action = one.bad_frame(error, float(n))
        assert isinstance(action, Send)
        assert action.frame == error_frame(error, frame_id=5)
    last = one.bad_frame(error, float(MAX_BAD))
    assert isinstance(last, Close)
    assert (last.code, last.frame) == (CloseCode.BAD_FRAME, error_frame(error, frame_id=5))
    assert one.state is State.CLOSED
    assert one.bad_frame(error, 5.0) == Ignore()


def test_bad_frames_now_and_then_do_not() -> None:
    one = opened()
    error = BadFrame(ErrorCode.BAD_REQUEST, "text", None)
    pause = BAD_FRAME_WINDOW_S / (MAX_BAD - 1) + 0.01
    assert all(isinstance(one.bad_frame(error, n * pause), Send) for n in range(50))


@pytest.mark.parametrize(("frame_type", "closes"), [(None, False), ("hello", False), ("ping", True), ("chant", True)])
def test_before_the_hello_only_a_hello_may_be_malformed(frame_type: str | None, closes: bool) -> None:
    one = session()
    action = one.bad_frame(BadFrame(ErrorCode.BAD_REQUEST, "text", None, frame_type), 0.0)
    assert isinstance(action, Close) is closes
    assert one.state is (State.CLOSED if closes else State.WAITING_FOR_HELLO)


def test_a_late_answer_to_the_hello_does_not_open_what_is_closed() -> None:
    one = session()
    one.receive(Hello(1), 0.0)
    one.closed()
    one.opened()
    assert one.state is State.CLOSED


def test_an_error_without_an_id_may_be_about_a_topic() -> None:
    assert error_frame(bad_request("text"), topic="a:1").topic == "a:1"


# --- any sequence


class AnySequence(RuleBasedStateMachine):
    """A client that sends whatever it likes, against a model of what may be open."""

    def __init__(self) -> None:
        super().__init__()
        self.session = session()
        self.now = 0.0
        self.bad: list[float] = []
        self.topics: set[str] = set()
        self.closed = False

    @initialize(first=st.sampled_from([Hello, Hello, Hello, Hello, Ping, Subscribe]))
    def begin(self, first: type[Any]) -> None:
        action = self.session.receive(FRAMES[first], self.now)
        if first is Hello:
            assert isinstance(action, Open)
            assert self.session.state is State.OPENING
            self.session.opened()
        else:
            assert isinstance(action, Close)
            self.closed = True

    @rule(seconds=st.floats(0, 6))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(kind=st.sampled_from([Publish, Call, Ack, Auth, Ping, Unsubscribe]))
    def send(self, kind: type[Any]) -> None:
        action = self.session.receive(FRAMES[kind], self.now)
        assert isinstance(action, Ignore if self.closed else ANSWERS.get(kind, Perform))

    @rule(names=st.lists(st.integers(1, 6).map(lambda n: f"a:{n}"), max_size=6), granted=st.booleans())
    def ask(self, names: list[str], granted: bool) -> None:
        action = self.session.receive(subscribe(*({"topic": name} for name in names)), self.now)
        if self.closed:
            assert action == Ignore()
            return
        taken = set(self.topics)
        expected = []
        for name in names:
            if name in taken:
                expected.append("already_subscribed")
            elif len(taken) >= MAX_TOPICS:
                expected.append("too_many_topics")
            else:
                taken.add(name)
                expected.append("ok")
        assert outcomes(action) == expected
        assert isinstance(action, Join)
        for item in action.topics:
            if granted and isinstance(item, Wanted):
                self.session.joined(item.topic)
                self.topics.add(item.topic)

    @rule(name=st.integers(1, 6).map(lambda n: f"a:{n}"))
    def leave(self, name: str) -> None:
        self.session.left(name)
        self.topics.discard(name)

    @rule(second_hello=st.booleans())
    def misbehave(self, second_hello: bool) -> None:
        if second_hello:
            action = self.session.receive(Hello(2), self.now)
        else:
            action = self.session.bad_frame(BadFrame(ErrorCode.UNKNOWN_TYPE, "text", None, "chant"), self.now)
        if self.closed:
            assert action == Ignore()
            return
        self.bad.append(self.now)
        recent = self.bad[-MAX_BAD:]
        if len(recent) == MAX_BAD and recent[-1] - recent[0] <= BAD_FRAME_WINDOW_S:
            self.closed = True
            assert isinstance(action, Close)
            assert action.code is CloseCode.BAD_FRAME
        else:
            assert isinstance(action, Send)

    @precondition(lambda self: self.session.state is not State.CLOSED)
    @rule(really=st.integers(0, 9))
    def close(self, really: int) -> None:
        if really == 0:
            self.session.closed()
            self.closed = True

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert (self.session.state is State.CLOSED) is self.closed
        assert self.session.topics == self.topics
        assert len(self.topics) <= MAX_TOPICS


AnySequence.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnySequence = AnySequence.TestCase
