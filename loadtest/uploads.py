"""The hub with uploads under load: a store in a folder, one client in C that uploads as fast as it may."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hub.client import HubClient
from loadtest.generators import Figures, Generator, Programs, upload
from loadtest.hub_server import ORG, HubServer
from loadtest.machine import LOAD_CORE, SERVER_CORE, Load, Watch, resident_bytes
from loadtest.measure import Sample, why_void
from loadtest.servers import ServerProcess, python
from loadtest.service_hub import client, service_hub, together
from loadtest.session import Bench

FILE_BYTES = 1 << 30
Way = Literal["socket", "tus"]
FLOOR = "bare uvicorn, bytes thrown away"
_MB = 1e6
# What a user may upload is not what is measured.
_UNLIMITED = {
    "uploads_creates_per_minute": 1_000_000,
    "uploads_creates_burst": 1_000_000,
    "uploads_org_bytes_per_day": 1 << 50,
    "uploads_reads_per_second": 1_000_000,
    "uploads_reads_burst": 1_000_000,
}


@dataclass(frozen=True, slots=True)
class UploadHub:
    """A hub with uploads, where it keeps them, and its memory before the first one."""

    bench: Bench
    server: HubServer
    store: Path
    resident: int

    def upload(self, way: Way, seed: int, *, subscribe: Sequence[str] = ()) -> Generator:
        """Starts an upload of ``FILE_BYTES``; its one line comes when it can be used."""
        options: dict[str, Any] = {"seed": seed, "settled": "available", "header": self.server.tokens(1)[0]}
        if way == "tus":
            options |= {"path": "/v1/uploads", "metadata": "filename YmVuY2gudHh0"}
        else:
            params = {"filename": "bench.txt", "size": FILE_BYTES}
            options["call"] = json.dumps({"type": "call", "id": 1, "method": "upload.create", "params": params})
            options["hello"] = self.server.hello([{"topic": topic} for topic in subscribe])
        return upload(self.bench.programs, way, self.server.port, FILE_BYTES, **options)

    def settle(self, figures: Figures, seed: int) -> None:
        """Compares what was stored with what was sent, and removes it. Raises ``RuntimeError``."""
        name = figures["upload"]

        async def ask(one: HubClient) -> Any:
            return await one.call("upload.status", {"upload": name})

        found = together(ask, self.server, client(self.server, "u0"))["sha256"]
        if found != digest_of(self.bench.programs, seed):
            raise RuntimeError(f"upload {name} has the sha256 {found}, which is not that of what was sent")
        content = self.store / ORG / name / "content"
        if content.stat().st_size != FILE_BYTES:
            raise RuntimeError(f"upload {name} has {content.stat().st_size} bytes in the store")
        shutil.rmtree(content.parent)

    def measured(self, way: Way, seed: int) -> Sample:
        """One upload. Figures: ``mb_per_s`` until it can be used, ``stored_mb_per_s``, ``server``, ``grown_mb``."""
        forget_peak(self.server.pids)
        watch = Watch(self.server.pids)
        with self.upload(way, seed) as generator:
            figures = generator.phase()
        used = watch.end()
        grown = peak_bytes(self.server.pids) - self.resident
        self.settle(figures, seed)
        return Sample(
            {
                "mb_per_s": figures["mb_per_s"],
                "stored_mb_per_s": FILE_BYTES / _MB / figures["stored_s"],
                "server": used.server,
                "load_core": used.load_core,
                "grown_mb": grown / _MB,
            },
            why_disturbed(used),
        )


@contextlib.contextmanager
def upload_hub(bench: Bench, *, both_cores: bool = False, **settings: Any) -> Iterator[UploadHub]:
    """A hub that keeps uploads in a folder, in the kernel's memory as far as there is room for them."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        store = Path(folder) / "store"
        wanted = {
            "services": "loadtest.service:WITH_UPLOADS",
            "uploads_store": f"file:{store}",
            **_UNLIMITED,
            **settings,
        }
        with service_hub(bench, durable=True, **wanted) as (server, _):
            if both_cores:
                spread(server.pids)
            yield UploadHub(bench, server, store, resident_bytes(server.pids))


class Receiver(ServerProcess):
    """``reference_upload``."""

    name = "bare uvicorn"

    def command(self) -> Sequence[str]:
        return python("loadtest.reference_upload", str(self.port))

    def measured(self, bench: Bench, way: Literal["plain", "tus"]) -> Sample:
        """As many bytes, in messages of 256 KB or as the body of a PATCH."""
        watch = Watch(self.pids)
        with upload(bench.programs, way, self.port, FILE_BYTES, path=f"/ws?{FILE_BYTES}") as generator:
            figures = generator.phase()
        return Sample({"mb_per_s": figures["mb_per_s"]}, why_disturbed(watch.end()))


def why_disturbed(used: Load, late_ms: float = 0.0) -> str:
    """Why a run does not count. Where the client's core is busy the figure is a lower bound, and counts."""
    return why_void(replace(used, load_core=0.0), late_ms)


@functools.cache
def digest_of(programs: Programs, seed: int) -> str:
    """The sha256 of the file that the generator makes out of a seed."""
    command = [str(programs.upload), "--way", "pipe", "--size", str(FILE_BYTES), "--seed", str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        digest = hashlib.sha256()
        while piece := process.stdout.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def spread(pids: Sequence[int]) -> None:
    """Lets processes, with all their threads, run on both cores."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {SERVER_CORE, LOAD_CORE})


def forget_peak(pids: Sequence[int]) -> None:
    """The highest resident memory is counted from now on."""
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pids: Sequence[int]) -> int:
    """The highest resident memory of processes, added up."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
