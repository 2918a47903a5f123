"""``make crowd``: thousands of idle dashboards from addresses 127.0.0.x, then people in their midst.

The crowd is wsload.c, which counts what comes: everybody must get every event of the shared topic, nobody be closed.
Prints what a connection costs in the hub, in the kernel and in Redis. Exit status 1 when something was lost or closed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import redis

from hub.auth.tokens import mint_token
from hub.config import Settings
from loadtest.generators import Clients, NoCompiler, compile_programs, connect
from loadtest.load import run_people
from loadtest.local_hub import LocalHub, local_hub
from loadtest.machine import cpu_s, resident_bytes

ORG = "load-0"
SHARED = "events:guest"
QUIET = ("events:finance", "events:reports")
_SETTLE_S = 3.0  # lazily freed memory, and the first saves of the sessions
_START_S = 15.0  # locust imports, people come in, the last events arrive
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment. Bytes of the hub, of the kernel for everything on this machine, of Redis; processor seconds."""

    hub: int
    hub_cpu_s: float
    redis: int
    redis_cpu_s: float
    slab: int
    tcp_buffers: int
    sockets: int

    @classmethod
    def now(cls, hub: LocalHub) -> Self:
        """A look at /proc and at Redis."""
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        words = Path("/proc/net/sockstat").read_text().partition("TCP:")[2].split()
        tcp = dict(zip(words[::2], map(int, words[1:10:2]), strict=False))
        slab = int(meminfo["Slab"].split()[0]) * 1024
        pids = [hub.process.pid]
        with redis.Redis.from_url(hub.redis_url, protocol=3) as link:
            info = link.info("memory") | link.info("cpu")
        redis_cpu_s = info["used_cpu_user"] + info["used_cpu_sys"]
        return cls(
            hub=resident_bytes(pids),
            hub_cpu_s=cpu_s(pids),
            redis=info["used_memory"],
            redis_cpu_s=redis_cpu_s,
            slab=slab,
            tcp_buffers=tcp["mem"] * _PAGE_BYTES,
            sockets=tcp["inuse"],
        )


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="make crowd", description="Many idle connections, and people among them.")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=20)
    options = parser.parse_args()
    settings = {
        "HUB_MAX_CONNECTIONS": str(options.connections + 1000),
        "HUB_MAX_CONNECTIONS_PER_ORG": str(options.connections + 1000),
    }
    with tempfile.TemporaryDirectory(prefix="hub-crowd-") as folder, local_hub(settings) as hub:
        try:
            programs = compile_programs(Path(folder))
        except NoCompiler as error:
            print(error, file=sys.stderr)
            return 2
        clients = _clients(hub, options.connections)
        empty = Sample.now(hub)
        duration = _SETTLE_S + options.seconds + _START_S
        with connect(programs, clients, connections=options.connections, duration=duration) as crowd:
            opened = crowd.phase()
            print(f"{opened['open']} open, {opened['gone']} refused, in {opened['seconds']:.1f} s", flush=True)
            time.sleep(_SETTLE_S)
            idle = Sample.now(hub)
            _print_costs(empty, idle, opened["open"])
            crowd.phase()  # it measures since everybody is in
            people = _people(hub, options.users, options.seconds)
            busy = Sample.now(hub)
            done = crowd.phase()
    print(json.dumps(done))
    spent = (busy.hub_cpu_s - idle.hub_cpu_s, busy.redis_cpu_s - idle.redis_cpu_s)
    print(f"while people were there the hub took {spent[0]:.1f} s of processor, Redis {spent[1]:.1f} s")
    whole = done["open"] == options.connections and done["fewest"] == done["most"] > 0
    print(f"every connection got {done['most']} events" if whole else "LOST: closed, or not everybody got everything")
    return people or int(not whole)


def _clients(hub: LocalHub, count: int) -> Clients:
    settings = Settings(redis_url="", database_url="", jwt_secret=hub.secret)
    tokens = (mint_token(settings, ORG, f"crowd-{number}", scope="subscribe:*") for number in range(count))
    topics = [{"topic": topic} for topic in (SHARED, *QUIET)]
    hello = json.dumps({"type": "hello", "id": 1, "subscribe": topics}, separators=(",", ":"))
    return Clients(port=hub.port, headers=[f"Authorization: Bearer {token}" for token in tokens], hellos=[hello])


def _people(hub: LocalHub, users: int, seconds: int) -> int:
    """All in the crowd's organisation; their exit status."""
    return run_people({**hub.client_environ, "LOAD_ORGS": "1"}, ["--users", str(users), "--run-time", f"{seconds}s"])


def _print_costs(before: Sample, after: Sample, connections: int) -> None:
    each = 1 / max(1, connections)
    sockets = max(1, after.sockets - before.sockets)
    hub_us, redis_us = (after.hub_cpu_s - before.hub_cpu_s) * 1e6, (after.redis_cpu_s - before.redis_cpu_s) * 1e6
    print("each connection, opened with a token, a hello and three subscriptions:")
    print(f"  hub     {(after.hub - before.hub) * each / 1024:6.2f} KB resident, {hub_us * each:4.0f} us of processor")
    print(f"  Redis   {(after.redis - before.redis) * each / 1024:6.2f} KB, {redis_us * each:4.0f} us of processor")
    slab, buffers = (after.slab - before.slab) / sockets, (after.tcp_buffers - before.tcp_buffers) / sockets
    print(f"  kernel  {slab / 1024:6.2f} KB of slab and {buffers / 1024:.2f} KB of buffers per socket", flush=True)
    print(f"          ({sockets} sockets: both ends are on this machine)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
