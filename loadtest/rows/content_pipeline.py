"""The content pipeline by itself: HTML sanitised and cut, against the sanitising library alone."""

from __future__ import annotations

import json

from loadtest.measure import Result, Sample, Target, summary_of
from loadtest.servers import on_server_core, python
from loadtest.session import Bench

_TARGETS = {"word": 1.0, "sentence": 5.0}


def run(bench: Bench) -> list[Result]:
    """In a process of its own on the server's core."""
    runs = [_measured(bench.seconds) for _ in range(bench.repetitions)]
    return [
        Result(
            row=f"content-{unit}",
            what=f"100 KB of HTML sanitised and cut by {unit}",
            unit="MB/s",
            figure=summary_of(runs, unit),
            target=Target(text=f"≥ {least:g} MB/s", at_least=least),
            references={"nh3 alone": summary_of(runs, "nh3")},
            against="nh3 alone",
            note=f"by paragraph {summary_of(runs, 'paragraph').median:.1f} MB/s",
        )
        for unit, least in _TARGETS.items()
    ]


def _measured(seconds: float) -> Sample:
    figures: dict[str, float] = json.loads(on_server_core(python("loadtest.pipeline", str(seconds))))
    return Sample(figures)
