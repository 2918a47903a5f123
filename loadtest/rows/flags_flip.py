"""A kill switch: how long it takes from the request that flips it until the last open socket knows."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

from hub.auth.tokens import mint_token
from loadtest.generators import Clients, Generator, connect, publish
from loadtest.hub_server import ORG, HubServer
from loadtest.measure import Result, Sample, Target, summary_of, thousands
from loadtest.references import UvloopServer
from loadtest.service_hub import service_hub
from loadtest.session import Bench

FLAG = "finance_realtime_v2"
SOCKETS = 1000
MANY = 10_000
_TOLD = '"type":"flags"'
_LIMIT_S = 60


def run(bench: Bench) -> list[Result]:
    """On two nodes, then ten times as many on one. Both nodes share the servers' core."""
    with service_hub(bench, durable=True) as (first, _), tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        with first.twin(Path(folder)) as second:
            few = [_flipped(bench, [first, second], SOCKETS) for _ in range(bench.repetitions)]
        many = [_flipped(bench, [first], MANY) for _ in range(bench.repetitions)]
    return [
        Result(
            row="flags-flip",
            what=f"a flag is switched off → the last of {thousands(count)} sockets on {nodes} knows",
            unit="ms",
            figure=summary_of(samples, "last_ms"),
            target=Target(text="≤ 1 000 ms", at_most=1000.0),
            references={"bare uvloop": summary_of([_one_message(bench, count)], "last_ms")},
            against="bare uvloop",
            note=f"answered after {summary_of(samples, 'answered_ms').median:.0f} ms; "
            "against: one message from Redis to as many",
        )
        for count, nodes, samples in ((SOCKETS, "two nodes", few), (MANY, "one node", many))
    ]


def _flipped(bench: Bench, nodes: Sequence[HubServer], count: int) -> Sample:
    """Switches it off while they are connected, and on again when they are gone."""
    with contextlib.ExitStack() as stack:
        share = count // len(nodes)
        loads = [stack.enter_context(_connected(bench, node.saying([node.hello([])], share), share)) for node in nodes]
        for load in loads:
            load.phase()
        began = time.time_ns()
        _set(nodes[0], "off")
        answered = time.time_ns()
        told = [load.phase() for load in loads]
    _set(nodes[0], "on")
    if sum(figures["caught_up"] for figures in told) < count:
        raise RuntimeError(f"not everybody was told: {told}")
    last_ns = max(figures["last_kth_ns"] for figures in told)
    return Sample({"last_ms": (last_ns - began) / 1e6, "answered_ms": (answered - began) / 1e6})


def _connected(bench: Bench, clients: Clients, count: int, marker: str = _TOLD) -> Generator:
    options = {"connections": count, "duration": _LIMIT_S, "kth": 1, "until_kth": True, "marker": marker}
    load = connect(bench.programs, clients, **options)
    if (opened := load.phase())["open"] < count:
        load.end()
        raise RuntimeError(f"{opened['open']} of {count} clients got in")
    return load


def _set(node: HubServer, state: str) -> None:
    """Raises ``RuntimeError`` when the hub refuses."""
    token = mint_token(node.settings, ORG, "operator", scope="flags:write")
    changes = {"changes": [{"flag": FLAG, "state": state}], "why": "bench"}
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.patch(f"http://127.0.0.1:{node.port}/v1/flags", json=changes, headers=headers, timeout=_LIMIT_S)
    if answer.status_code != httpx.codes.OK:
        raise RuntimeError(f"the flag cannot be changed: {answer.status_code} {answer.text[:200]}")


def _one_message(bench: Bench, count: int) -> Sample:
    """What a loop in Python needs to tell as many."""
    with UvloopServer(bench.folder, str(bench.redis_server.socket_path)) as floor:
        load = _connected(bench, floor.clients(count), count, '"sent_ns":')
        with load, publish(bench.programs, floor.publication(), rate=1, duration=0.5):
            load.phase()
            return Sample({"last_ms": load.phase()["latency_ms"]["max"]})
