"""The machine under the measurement: which core does what, processor time and memory from /proc, and who else is busy.

The server has a core of its own; everything else (Redis, the generators, this harness) shares another.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SERVER_CORE = 0
LOAD_CORE = 1
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
_IDLE = (3, 4)  # idle and iowait in a line of /proc/stat
_GUEST = 8  # guest time is counted in user time already


@dataclass(frozen=True, slots=True)
class Cores:
    """Busy seconds of each core since boot, and when they were read."""

    at: float
    busy: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Load:
    """What happened between two looks: shares of one core, 0 to 1."""

    seconds: float
    server: float
    """The server's own processes."""
    server_core: float
    load_core: float

    @property
    def strangers(self) -> float:
        """The share of the server's core that something else than the server took."""
        return max(0.0, self.server_core - self.server)


def parse_cores(text: str) -> tuple[float, ...]:
    """Busy seconds per core out of /proc/stat."""
    busy = []
    for line in text.splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":
            ticks = [int(field) for field in fields[:_GUEST]]
            busy.append(sum(ticks[index] for index in range(len(ticks)) if index not in _IDLE) / TICKS_PER_S)
    return tuple(busy)


def parse_cpu_s(text: str) -> float:
    """Processor seconds (user and system) out of /proc/<pid>/stat, whose second field may hold anything."""
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def parse_resident_bytes(text: str) -> int:
    """Resident bytes out of /proc/<pid>/status."""
    for line in text.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no VmRSS: the process has ended")


def cores() -> Cores:
    """How busy the cores have been."""
    return Cores(time.monotonic(), parse_cores((_PROC / "stat").read_text()))


def cpu_s(pids: Iterable[int]) -> float:
    """Processor seconds of processes so far."""
    return sum(parse_cpu_s((_PROC / str(pid) / "stat").read_text()) for pid in pids)


def resident_bytes(pids: Iterable[int]) -> int:
    """Resident memory of processes."""
    return sum(parse_resident_bytes((_PROC / str(pid) / "status").read_text()) for pid in pids)


def children(pid: int) -> list[int]:
    """A process and its direct children."""
    text = (_PROC / str(pid) / "task" / str(pid) / "children").read_text()
    return [pid, *(int(child) for child in text.split())]


class Watch:
    """Looks at the machine over an interval."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = list(pids)
        self._cores = cores()
        self.began_cpu_s = cpu_s(self._pids)
        self.cpu_s = 0.0
        """The server's processor seconds in the interval, once it has ended."""

    def end(self) -> Load:
        """What happened since the beginning."""
        now = cores()
        self.cpu_s = cpu_s(self._pids) - self.began_cpu_s
        seconds = max(now.at - self._cores.at, 1e-9)
        busy = [(after - before) / seconds for before, after in zip(self._cores.busy, now.busy, strict=True)]
        return Load(seconds, self.cpu_s / seconds, busy[SERVER_CORE], busy[LOAD_CORE])


def pin(core: int) -> None:
    """Keeps this process, and what it starts, on a core."""
    os.sched_setaffinity(0, {core})


def prefer(pid: int) -> bool:
    """Lets a process run as soon as it has something to do (0: this one). False: that takes more rights than we have.

    For what sets the pace: a publisher that waits for its turn behind busy clients sends in bursts, and bursts flatter
    a server that joins what comes together.
    """
    try:
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    return True


def wait_until_quiet(limit_s: float, busy_share: float = 0.1) -> float:
    """Waits until both cores are idle for two seconds; returns the share that others still take after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while True:
        before = cores()
        time.sleep(2.0)
        after = cores()
        share = sum(after.busy) - sum(before.busy)
        share /= after.at - before.at
        if share < busy_share or time.monotonic() > deadline:
            return share


def description() -> dict[str, str]:
    """What figures must be read with."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _read("cpuinfo").splitlines() if line.startswith("model name")), "?"
    )
    return {
        "processor": f"{cpu}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _read(name: str) -> str:
    return (_PROC / name).read_text()
