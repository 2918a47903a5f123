"""The exit criterion: streamed, assembled and rendered in a browser after every chunk, nothing of the corpus runs."""

from __future__ import annotations

from tests.browser.corpus import CASES, act, every_way, in_places
from tests.browser.detector import Act, Detector

AT_LEAST_CHUNKS = 10_000
"""So that the tests cannot pass by showing nothing."""

TOGETHER = 5
"""Cases in one frame; a frame costs more than what is in it."""


async def nothing_happens(detector: Detector, acts: dict[str, Act]) -> None:
    """Neither while documents grow, nor in what they become."""
    verdicts = await detector.show(list(acts.values()))
    did = {name: verdict.did for name, verdict in zip(acts, verdicts, strict=True) if verdict.did}
    assert did == {}
    assert detector.strays == []
    chunks = sum(len(stream["chunks"]) for shown in acts.values() for stream in shown["streams"])
    assert chunks >= AT_LEAST_CHUNKS
    assert sum(verdict.rendered for verdict in verdicts) > chunks


async def test_nothing_runs_however_it_comes(detector: Detector) -> None:
    await nothing_happens(detector, {name: act(every_way(source)) for name, source in CASES.items()})


async def test_nothing_runs_wherever_it_stands(detector: Detector) -> None:
    cases = list(enumerate(CASES.items()))
    acts: dict[str, Act] = {}
    for begin in range(0, len(cases), TOGETHER):
        some = cases[begin : begin + TOGETHER]
        streams = [chunks for number, (_, source) in some for chunks in in_places(source, number)]
        acts[" or ".join(name for _, (name, _) in some)] = act(streams)
    await nothing_happens(detector, acts)
