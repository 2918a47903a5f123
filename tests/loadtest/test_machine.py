"""Reading /proc: pure parts on texts, the rest on this process."""

from __future__ import annotations

import os

import pytest

from loadtest.machine import (
    TICKS_PER_S,
    Load,
    Watch,
    cores,
    cpu_s,
    description,
    parse_cores,
    parse_cpu_s,
    parse_resident_bytes,
    resident_bytes,
)

_STAT = """cpu  30 0 40 900 10 0 5 0 0 0
cpu0 10 1 20 400 50 2 3 4 100 0
cpu1 20 0 20 500 10 0 2 0 0 0
intr 1 2 3
ctxt 4
"""


def test_busy_time_leaves_idle_and_guests_out() -> None:
    assert parse_cores(_STAT) == (40 / TICKS_PER_S, 42 / TICKS_PER_S)


def test_processor_time_of_a_process_with_a_strange_name() -> None:
    text = "17 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 7 7 20 0 1 0 99"
    assert parse_cpu_s(text) == 300 / TICKS_PER_S


def test_resident_bytes() -> None:
    assert parse_resident_bytes("Name:\tx\nVmRSS:\t    12 kB\n") == 12 * 1024
    with pytest.raises(ValueError, match="ended"):
        parse_resident_bytes("Name:\tx\n")


def test_strangers_are_what_the_server_did_not_take() -> None:
    assert Load(1.0, server=0.5, server_core=0.75, load_core=0.1).strangers == 0.25
    assert Load(1.0, server=0.5, server_core=0.4, load_core=0.1).strangers == 0.0


def test_this_process_is_seen() -> None:
    watch = Watch([os.getpid()])
    before = cpu_s([os.getpid()])
    while cpu_s([os.getpid()]) - before < 2 / TICKS_PER_S:
        pass
    load = watch.end()
    assert load.seconds > 0
    assert watch.cpu_s >= 2 / TICKS_PER_S
    assert resident_bytes([os.getpid()]) > 1_000_000
    assert len(cores().busy) == os.cpu_count()
    assert description()["python"]
