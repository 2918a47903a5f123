"""``make microbench``: times every case and prints the table.

``ARGS="--keep"`` writes the ratios to ``kept.json`` here, with which later runs are compared; ``--fail-above 1.5``:
exit status 1 when a case costs that many times its kept ratio; ``--only dispatch``: cases with that in their name.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
from pathlib import Path

from tests.bench import content, dispatch, recovery, wire
from tests.bench.report import rows, worse
from tests.bench.timer import measure

_KEPT = Path(__file__).with_name("kept.json")


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="make microbench", description="Times every case against a reference loop.")
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.01, help="length of one sample")
    parser.add_argument("--keep", action="store_true", help="keep these ratios")
    parser.add_argument("--fail-above", type=float, default=0.0, help="this many times the kept ratio is a failure")
    options = parser.parse_args()
    cases = [
        case
        for case in (*dispatch.cases(), *wire.cases(), *recovery.cases(), *content.cases())
        if options.only in case.name
    ]
    if not cases:
        parser.error(f"no case has {options.only!r} in its name")
    timings = asyncio.run(measure(cases, options.repetitions, options.seconds))
    before = json.loads(_KEPT.read_text()) if _KEPT.exists() else {}
    print(f"Python {platform.python_version()}, {platform.machine()}; ratio: times a bare method call of the same run")
    print("\n".join(rows(timings, before)))
    if options.keep:
        kept = before | {timing.case.name: round(timing.ratio, 3) for timing in timings}
        _KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    failed = worse(timings, before, options.fail_above) if options.fail_above else []
    for name in failed:
        print(f"slower than {options.fail_above:g} times what was kept: {name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
