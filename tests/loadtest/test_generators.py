"""The generators in C against the bare loop: every event is counted once, hellos bear their number, rates are kept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hub.embedded import RedisServer
from loadtest import generators
from loadtest.generators import Clients, NoCompiler, Programs, Publication, compile_programs, connect, publish
from loadtest.reference_uvloop import text_frame, unmasked
from loadtest.references import UvloopServer
from loadtest.servers import SENT_NS, payload
from tests.support.servers import running_redis


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    try:
        return compile_programs(tmp_path_factory.mktemp("programs"))
    except NoCompiler as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with running_redis(tcp=False) as server:
        yield server


@pytest.fixture
def floor(redis: RedisServer, tmp_path: Path) -> Iterator[UvloopServer]:
    with UvloopServer(tmp_path, str(redis.socket_path)) as server:
        yield server


def test_every_event_is_counted_once(programs: Programs, floor: UvloopServer) -> None:
    with connect(programs, floor.clients(20), connections=20, duration=60, kth=40, until_kth=True) as load:
        assert load.phase()["open"] == 20
        with publish(programs, floor.publication(), rate=100, duration=60, count=40) as source:
            load.phase()
            sent = source.phase()
            done = load.phase()
    assert sent["sent"] == sent["answered"] == 40
    assert (done["fewest"], done["most"], done["events"], done["caught_up"]) == (40, 40, 800, 20)
    assert done["latency_ms"]["count"] == done["events"]
    assert 0 <= done["latency_ms"]["p50"] <= done["latency_ms"]["p99"] <= done["latency_ms"]["max"]
    assert done["catch_up_ms"]["count"] == 20


def test_topics_are_numbered_on_both_sides(programs: Programs, floor: UvloopServer) -> None:
    clients = floor.clients(10, own_topics=True)
    with connect(programs, clients, connections=10, duration=60, kth=2, until_kth=True) as load:
        load.phase()
        with publish(programs, floor.publication(), rate=1000, duration=60, count=20, topics=10) as source:
            load.phase()
            assert source.phase()["sent"] == 20
            done = load.phase()
    assert (done["fewest"], done["most"]) == (2, 2)


def test_the_number_of_a_connection_stands_in_its_hello(programs: Programs, floor: UvloopServer) -> None:
    clients = Clients(port=floor.port, hellos=['{"subscribe":[{"topic":"bench:0000%d"}]}'])
    with connect(programs, clients, connections=5, duration=60, kth=1, until_kth=True) as load:
        load.phase()
        with publish(programs, floor.publication(), rate=1000, duration=60, count=5, topics=5):
            load.phase()
            assert load.phase()["caught_up"] == 5


def test_the_time_of_an_event_may_be_in_milliseconds(programs: Programs, floor: UvloopServer) -> None:
    usual = floor.publication()
    message = usual.message.replace(SENT_NS, b'"ts":%d,"pad":1000' % (time.time() * 1000))
    assert len(message) == len(usual.message)
    options = {"connections": 1, "duration": 60, "kth": 2, "until_kth": True}
    with connect(programs, floor.clients(1), marker='"ts":', ms=True, **options) as load:
        load.phase()
        with publish(programs, replace(usual, message=message), rate=100, duration=60, count=2):
            load.phase()
            latency = load.phase()["latency_ms"]
    assert latency["count"] == 2
    assert 0 <= latency["max"] < 60_000


def test_a_refusal_is_counted_and_not_waited_for(programs: Programs) -> None:
    clients = Clients(port=9)  # nobody listens there
    with connect(programs, clients, connections=3, duration=0) as load:
        assert load.phase()["gone"] == 3


def test_closed_loop_waits_for_answers(programs: Programs, redis: RedisServer) -> None:
    publication = Publication(to=str(redis.socket_path), message=b"PING\r\n", answer="+PONG")
    with publish(programs, publication, rate=0, window=5, connections=2, duration=60, count=100) as source:
        done = source.phase()
    assert done["answered"] >= 100
    assert done["sent"] - done["answered"] <= 10


def test_without_a_compiler_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(generators.shutil, "which", lambda name: None)
    with pytest.raises(NoCompiler, match="no C compiler"):
        compile_programs(tmp_path)


def test_payload_has_its_size_and_one_marker() -> None:
    assert len(payload(200)) == 200
    assert payload(200).count(b'"sent_ns":') == 1


@pytest.mark.parametrize("size", [5, 125, 126, 300])
def test_frames_of_the_reference(size: int) -> None:
    assert text_frame(b"x" * size)[-size:] == b"x" * size
    mask = b"\1\2\3\4"
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(b"y" * size))
    head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
    assert unmasked(head + mask + masked) == b"y" * size
