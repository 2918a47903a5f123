"""The same over HTTP: one PATCH of 1 GiB."""

from __future__ import annotations

from loadtest.measure import Result, Target, summary_of, void_of
from loadtest.rows.upload_socket import most_grown, note
from loadtest.session import Bench
from loadtest.uploads import FLOOR, Receiver, upload_hub


def run(bench: Bench) -> list[Result]:
    """The hub on one core, in turns with the floor."""
    own, floor = [], []
    with Receiver(bench.folder) as receiver, upload_hub(bench) as hub:
        for seed in range(bench.repetitions):
            floor.append(receiver.measured(bench, "tus"))
            own.append(hub.measured("tus", seed))
    return [
        Result(
            row="upload-tus",
            what="1 GiB by tus in one PATCH, sha256, store and checks included: the hub on one core",
            unit="MB/s",
            figure=summary_of(own, "mb_per_s"),
            target=Target(text="≥ 200 MB/s", at_least=200.0),
            references={FLOOR: summary_of(floor, "mb_per_s")},
            against=FLOOR,
            void=void_of(own),
            note=note(own),
        ),
        Result(
            row="upload-tus-memory",
            what="the hub's memory meanwhile: the most it had, beyond what it had before the first upload",
            unit="MB",
            figure=summary_of([most_grown(own)], "grown_mb"),
            target=Target(text="< 32 MB", at_most=32.0),
        ),
    ]
