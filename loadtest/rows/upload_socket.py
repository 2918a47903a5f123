"""A file of 1 GiB over the socket until it can be used: sha256, store and checks included; and what memory it takes."""

from __future__ import annotations

from loadtest.measure import Result, Sample, Target, summary_of, void_of
from loadtest.session import Bench
from loadtest.uploads import FLOOR, Receiver, upload_hub

_WHAT = "1 GiB over the socket, sha256, store and checks included"


def run(bench: Bench) -> list[Result]:
    """The hub on one core, in turns with the floor; then a fresh one on both, which the client has to share."""
    own, floor = [], []
    with Receiver(bench.folder) as receiver, upload_hub(bench) as hub:
        for seed in range(bench.repetitions):
            floor.append(receiver.measured(bench, "plain"))
            own.append(hub.measured("socket", seed))
    with upload_hub(bench, both_cores=True) as hub:
        both = [hub.measured("socket", seed) for seed in range(bench.repetitions)]
    return [
        Result(
            row="upload-socket",
            what=f"{_WHAT}: the hub on one core",
            unit="MB/s",
            figure=summary_of(own, "mb_per_s"),
            target=Target(text="≥ 300 MB/s", at_least=300.0),
            references={FLOOR: summary_of(floor, "mb_per_s")},
            against=FLOOR,
            void=void_of(own),
            note=note(own),
        ),
        Result(
            row="upload-socket-both",
            what=f"{_WHAT}: the hub on both cores",
            unit="MB/s",
            figure=summary_of(both, "mb_per_s"),
            target=Target(text="≥ 400 MB/s", at_least=400.0),
            references={FLOOR: summary_of(floor, "mb_per_s")},
            against=FLOOR,
            void=void_of(both),
            note=note(both),
        ),
        Result(
            row="upload-socket-memory",
            what="the hub's memory meanwhile: the most it had, beyond what it had before the first upload",
            unit="MB",
            figure=summary_of([most_grown(own), most_grown(both)], "grown_mb"),
            target=Target(text="< 32 MB", at_most=32.0),
        ),
    ]


def note(samples: list[Sample]) -> str:
    """What is behind a speed."""
    stored, server, load = (summary_of(samples, name).median for name in ("stored_mb_per_s", "server", "load_core"))
    return f"{stored:.0f} MB/s until acknowledged; the hub took {server:.0%} of a core; load's core {load:.0%} busy"


def most_grown(samples: list[Sample]) -> Sample:
    """The one after which the hub was largest."""
    return max(samples, key=lambda sample: sample["grown_mb"])
