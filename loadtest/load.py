"""``make load``: locust without its web page against HUB_URL, or against a hub started for the purpose.

Further arguments go to locust: ``make load ARGS="--users 300 --run-time 2m"``. Exit status 1: somebody saw the contract
broken, was refused or lost a connection.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_DEFAULTS = ("--headless", "--only-summary", "--users", "100", "--spawn-rate", "25", "--run-time", "30s")


def main(arguments: list[str]) -> int:
    """Runs it; returns the exit status."""
    with contextlib.ExitStack() as stack:
        environ: Mapping[str, str] = {}
        where = os.environ.get("HUB_URL")
        if not where:
            from loadtest.local_hub import local_hub

            hub = stack.enter_context(local_hub())
            environ = hub.client_environ
            where = f"{hub.url}, started for this"
        print(f"hub: {where}", flush=True)
        return run_people(environ, arguments)


def run_people(environ: Mapping[str, str], arguments: Sequence[str]) -> int:
    """locust with ``environ`` added to ours; returns its exit status."""
    command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), *_DEFAULTS, *arguments]
    return subprocess.run(command, env={**os.environ, **environ}, cwd=_LOCUSTFILE.parent.parent, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
