"""One link without a socket: what does not fit ends it, whole or piecewise."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from hub.fanout.broker import TopicState
from hub.fanout.link import Link, LinkLost, Refused, Watch
from hub.topics.topic import Topic
from tests.support.redis_world import redis_settings, topic


class Held:
    """``LinkHandler`` that writes down what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def on_messages(self, batch: Sequence[tuple[bytes, bytes]]) -> None:
        self.told += list(batch)

    def on_probe(self, envelope: bytes) -> None:
        self.told.append(envelope)

    def on_watched(self, watch: Watch, topic: Topic, outcome: TopicState | Refused) -> None:
        self.told.append((topic.key, outcome.top if isinstance(outcome, TopicState) else outcome.code))

    def on_dropped(self, channel: bytes) -> None:
        self.told.append((b"dropped", channel))


class Written(asyncio.Transport):
    """A transport that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.parts.append(data)

    def abort(self) -> None:
        self.aborted = True


def make(*, sharded: bool = False) -> tuple[Link, Held, Written]:
    held, written = Held(), Written()
    link = Link(held, redis_settings("unix:///unused"), sharded=sharded, probe_channel=b"probe")
    link.connection_made(written)
    return link, held, written


def push(*parts: bytes | int) -> bytes:
    """A RESP3 push."""
    coded = (b":%d\r\n" % part if isinstance(part, int) else b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
    return b">%d\r\n" % len(parts) + b"".join(coded)


def state(top: int) -> bytes:
    """read.lua's answer."""
    return b"*7\r\n$1\r\ne\r\n:%d\r\n:1\r\n$0\r\n\r\n:0\r\n$1\r\ns\r\n:0\r\n" % top


A, B = topic("a"), topic("b")
CHANNEL_A, CHANNEL_B = A.names.channel.encode(), B.names.channel.encode()


@pytest.mark.parametrize("step", [1, 7, 10_000])
async def test_states_come_after_what_was_sent_before_them(step: int) -> None:
    link, held, written = make()
    done = link.watch(Watch((A, B), 1, False))
    assert len(written.parts) == 1
    data = (
        push(b"subscribe", CHANNEL_A, 1)
        + push(b"subscribe", CHANNEL_B, 2)
        + push(b"message", CHANNEL_A, b"early")
        + state(4)
        + push(b"message", CHANNEL_B, b"late")
        + push(b"message", b"probe", b"back")
        + state(7)
    )
    for start in range(0, len(data), step):
        link.data_received(data[start : start + step])
    assert [item for item in held.told if item != b"back"] == [
        (CHANNEL_A, b"early"),
        ("a", 4),
        (CHANNEL_B, b"late"),
        ("b", 7),
    ]
    assert b"back" in held.told
    assert done.done()
    assert not link.lost.done()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"garbage\r\n", "Protocol error"),
        (b"+OK\r\n", "a reply to nothing"),
        (b"-ERR why\r\n", "a reply to nothing"),
        (push(b"subscribe", CHANNEL_A, 1), "unexpected push"),
        (push(b"invalidate", b"x"), "unexpected push"),
    ],
)
async def test_what_does_not_fit_ends_the_link(data: bytes, reason: str) -> None:
    link, _, written = make()
    link.data_received(data)
    assert reason in link.lost.result()
    assert written.aborted
    with pytest.raises(LinkLost, match=reason):
        await link.pause(1)


async def test_a_value_where_a_confirmation_is_due_ends_the_link() -> None:
    link, _, _ = make()
    link.watch(Watch((A,), 1, False))
    link.data_received(state(1))
    assert link.lost.done()


async def test_a_refused_subscription_makes_its_states_worthless() -> None:
    link, held, _ = make()
    link.watch(Watch((A, B), 1, False))
    link.data_received(b"-NOPERM no\r\n" + state(1) + state(2))
    assert held.told == [("a", "NOPERM"), ("b", "NOPERM")]
    assert not link.lost.done()


async def test_in_a_cluster_every_topic_has_its_own_verdict() -> None:
    link, held, written = make(sharded=True)
    link.watch(Watch((A, B), 1, False))
    assert len(written.parts) == 1
    link.data_received(b"-MOVED 1 h:1\r\n-MOVED 1 h:1\r\n" + push(b"ssubscribe", CHANNEL_B, 1) + state(2))
    assert held.told == [("a", "MOVED"), ("b", 2)]


async def test_a_subscription_that_the_server_ends_is_told_apart_from_one_we_end() -> None:
    link, held, _ = make(sharded=True)
    link.unwatch([CHANNEL_A])
    link.data_received(push(b"sunsubscribe", CHANNEL_B, 0) + push(b"sunsubscribe", CHANNEL_A, 0))
    link.data_received(push(b"sunsubscribe", CHANNEL_A, 0))
    assert held.told == [(b"dropped", CHANNEL_B), (b"dropped", CHANNEL_A)]


async def test_whoever_waits_learns_of_the_loss() -> None:
    link, _, _ = make()
    waiting = asyncio.ensure_future(link.finish(link.watch(Watch((A,), 1, False)), 5, "answer"))
    await asyncio.sleep(0)
    link.connection_lost(None)
    with pytest.raises(LinkLost, match="closed by Redis"):
        await waiting
    with pytest.raises(LinkLost, match="no answer within"):
        await make()[0].finish(asyncio.get_running_loop().create_future(), 0.01, "answer")
