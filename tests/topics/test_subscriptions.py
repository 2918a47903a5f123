"""Who is in which set of a local topic, and that a topic with one listener stays small."""

from __future__ import annotations

import gc
import tracemalloc
from typing import cast

import pytest

from hub.orgs import OrgId
from hub.protocol.codec import Encoding
from hub.topics.filters import TagFilter
from hub.topics.kinds import TopicKind
from hub.topics.publication import Publication
from hub.topics.subscriptions import LocalTopic, LocalTopics, Subscriber, Subscription, SubState
from hub.topics.topic import Topic

ACME = OrgId.from_claim("acme")
KIND = TopicKind(name="a")


class Client:
    """A subscriber of whom only the encoding matters here."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding


def local_topic() -> LocalTopic:
    return LocalTopic(Topic(ACME, "a", "b"), KIND)


def joined(local: LocalTopic, encoding: Encoding = Encoding.JSON, *, filtered: bool = False) -> Subscription:
    sub = Subscription(local, cast(Subscriber, Client(encoding)), "now")
    if filtered:
        sub.filter = TagFilter({"a": "b"})
    return sub


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_everybody_in_is_found_once_and_everybody_out_is_gone(encoding: Encoding, filtered: bool, count: int) -> None:
    local = local_topic()
    subs = [joined(local, encoding, filtered=filtered) for _ in range(count)]
    for sub in [*subs, *subs]:
        local.add_live(sub)
    assert sorted(map(id, local.live_subscriptions())) == sorted(map(id, subs))
    for sub in subs:
        local.leave_live(sub, SubState.ENDED)
        local.leave_live(sub, SubState.ENDED)
        assert sub not in tuple(local.live_subscriptions())
    assert (local.live_json, local.live_msgpack, local.picky) == ((), (), ())


def test_each_encoding_and_the_picky_have_their_own_group() -> None:
    local = local_topic()
    json, msgpack, picky = joined(local), joined(local, Encoding.MSGPACK), joined(local, filtered=True)
    for sub in (json, msgpack, picky):
        local.add_live(sub)
    assert (local.live_json, local.live_msgpack, local.picky) == ((json,), (msgpack,), (picky,))


def test_ahead_is_left_by_name_and_with_the_live_set() -> None:
    local = local_topic()
    first, second = joined(local), joined(local)
    for sub in (first, second):
        local.add_ahead(sub)
        assert sub.state is SubState.AHEAD
    local.leave_ahead(first)
    assert tuple(local.ahead) == (second,)
    local.leave_live(second, SubState.ENDED)
    assert local.ahead == ()


def test_the_tail_keeps_the_newest_and_goes_with_its_last_reader() -> None:
    local = local_topic()
    local.keep_tail()
    local.keep_tail()
    for seq in range(1, 6):
        local.add_to_tail(Publication("e", seq, 0, b"x" * 100), 250)
    assert [item.seq for item in local.tail or ()] == [4, 5]
    local.release_tail()
    assert local.tail_bytes == 200
    local.release_tail()
    assert (local.tail, local.tail_bytes) == (None, 0)


def test_a_topic_with_one_listener_stays_small() -> None:
    """Of ten thousand connections each may have a topic of its own: what is empty must take no memory."""
    topics, kept, count = LocalTopics(), [], 1000
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(count):
            local, _ = topics.hold(Topic(ACME, "a", f"{number:05d}"), KIND)
            local.keep_tail()
            kept.append(joined(local))
            local.add_live(kept[-1])
            local.release_tail()
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / count < 800
