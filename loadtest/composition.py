"""What an idle connection's memory is made of: ``python -m loadtest.composition [--connections N] [--lines]``.

The bench's row ``connections`` has the resident memory, and what each subscription adds to it. This says which part of
the program allocated it: a hub in this process, with Python's tracemalloc. Resident is about a fifth more, for the
allocators' own sake.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path

import uvloop

from hub.app import Node, load_services
from hub.edge.registry import Connections
from hub.embedded import RedisServer
from hub.serving import direct_server
from hub.telemetry import configure_logging
from loadtest.generators import Generator, NoCompiler, Programs, compile_programs, connect
from loadtest.hub_server import HubServer
from loadtest.rows.connections import CONNECTIONS, SHARED
from loadtest.service import KIND

WARM = 200
_SETTLE_S = 4.0  # until sessions are saved and the first deadlines set
_LIMIT_S = 60.0
_LOOK_S = 0.05

# By the file in which something was allocated; the first part that fits. Compiled code has no files: what uvloop and
# libuv allocate counts for whoever runs the loop.
PARTS = (
    ("transport: uvloop and libuv", ("asyncio/runners.py", "/weakref.py")),
    ("addresses that uvicorn asks for and uvloop keeps", ("uvicorn/protocols/utils.py",)),
    ("subscriptions and topics", ("hub/topics/", "fanout/membership.py", "fanout/scripts.py")),
    ("the link to Redis: what is subscribed there", ("hub/fanout/reader.py", "hub/fanout/supervisor.py")),
    (
        "who it is: principal, lease, budget, ids",
        ("hub/auth/", "edge/admission.py", "fanout/sessions.py", "secrets.py"),
    ),
    ("deadlines", ("edge/keeper.py",)),
    ("socket, connection, session", ("hub/edge/", "hub/protocol/", "uvicorn/")),
)
OTHER = "other: memory that was used for something else before"


def part_of(file: str) -> str:
    """The part that allocates in ``file``."""
    path = file.replace("\\", "/")
    return next((name for name, places in PARTS if any(place in path for place in places)), OTHER)


def traced(connections: int) -> list[tracemalloc.StatisticDiff]:
    """What ``connections`` idle clients with three topics each have allocated, by line. Raises ``NoCompiler``."""
    with tempfile.TemporaryDirectory(prefix="hub-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        programs = compile_programs(folder)
        redis = RedisServer(folder / "redis", append_only=False)
        redis.start()
        try:
            return uvloop.run(_traced(connections, programs, HubServer(folder, redis.unix_url)))
        finally:
            redis.stop()


async def _traced(connections: int, programs: Programs, clients: HubServer) -> list[tracemalloc.StatisticDiff]:
    node = await Node.build(clients.settings, load_services("loadtest.service:SERVICES"))
    ready = asyncio.Event()
    server = direct_server(clients.settings, node, ready.set)
    serving = asyncio.create_task(server.serve())
    await ready.wait()
    try:
        with _clients(programs, clients, WARM):
            await _until(node.gateway.connections, WARM)
        await _until(node.gateway.connections, 0)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.take_snapshot()
        with _clients(programs, clients, connections):
            await _until(node.gateway.connections, connections)
            gc.collect()
            after = tracemalloc.take_snapshot()
        tracemalloc.stop()
        await _until(node.gateway.connections, 0)
        return after.compare_to(before, "lineno")
    finally:
        server.should_exit = True
        await serving


def _clients(programs: Programs, server: HubServer, count: int) -> Generator:
    hellos = [server.hello([*SHARED, {"topic": f"{KIND}:{number:05d}"}]) for number in range(count)]
    return connect(programs, server.saying(hellos, count), connections=count, at_once=64, duration=_LIMIT_S)


async def _until(connections: Connections, count: int) -> None:
    """Waits until there are ``count``, and nothing is under way. Raises ``RuntimeError``."""
    for _ in range(int(_LIMIT_S / _LOOK_S)):
        if len(connections) == count:
            await asyncio.sleep(_SETTLE_S)
            return
        await asyncio.sleep(_LOOK_S)
    raise RuntimeError(f"{len(connections)} connections instead of {count}")


def main(words: list[str]) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.composition", description=__doc__)
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--lines", action="store_true", help="also by line of the program")
    wanted = parser.parse_args(words)
    configure_logging("warning", "composition")
    try:
        lines = traced(wanted.connections)
    except NoCompiler as error:
        print(f"the clients are a program in C: {error}", file=sys.stderr)
        return 1
    parts: Counter[str] = Counter()
    for line in lines:
        parts[part_of(line.traceback[0].filename)] += line.size_diff
    print("| bytes | part |\n|---:|---|")
    for name, size in parts.most_common():
        print(f"| {size / wanted.connections:.0f} | {name} |")
    print(f"| {parts.total() / wanted.connections:.0f} | **all** |")
    for line in lines[:50] if wanted.lines else ():
        size, count = line.size_diff / wanted.connections, line.count_diff / wanted.connections
        print(f"{size:7.0f} {count:6.2f}  {line.traceback}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
