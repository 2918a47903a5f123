"""A process that does nothing but put pages through the content pipeline: megabytes of HTML a second, by what it cuts.

``python -m loadtest.pipeline SECONDS`` prints JSON. ``nh3``: the library that sanitises, alone and with its own
settings, which is the least that anything around it can take.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable

import nh3

from loadtest.content import page
from services.content.pipeline import Pipeline, Unit

_BYTES = 100_000
_PAGES = 20


def measure(seconds: float) -> dict[str, float]:
    """MB/s of each, measured in turns."""
    pages = [page(_BYTES, seed) for seed in range(_PAGES)]
    pipeline = Pipeline()

    def cut(unit: Unit) -> Callable[[str], object]:
        return lambda text: deque(pipeline.document(text, "html", unit).document.chunks(), 0)

    ways: dict[str, Callable[[str], object]] = {"nh3": nh3.clean}
    ways |= {str(unit): cut(unit) for unit in (Unit.PARAGRAPH, Unit.SENTENCE, Unit.WORD)}
    spent = dict.fromkeys(ways, 0.0)
    done = dict.fromkeys(ways, 0)
    while sum(spent.values()) < seconds:
        for name, way in ways.items():
            for text in pages:
                began = time.perf_counter()
                way(text)
                spent[name] += time.perf_counter() - began
                done[name] += len(text.encode())
    return {name: done[name] / spent[name] / 1e6 for name in ways}


if __name__ == "__main__":
    print(json.dumps(measure(float(sys.argv[1]))))
