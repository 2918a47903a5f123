"""The exit criterion: streamed, assembled and rendered in a browser after every chunk, nothing of the corpus runs."""

from __future__ import annotations

from tests.browser.corpus import CASES, act, every_way, in_places
from tests.browser.detector import Act, Detector

AT_LEAST_CHUNKS = 10_000
"""So that the tests cannot pass by showing nothing."""


async def nothing_happens(detector: Detector, acts: list[Act]) -> None:
    """Neither while documents grow, nor in what they become; ``acts``: one for each case."""
    verdicts = await detector.show(acts)
    did = {name: verdict.did for name, verdict in zip(CASES, verdicts, strict=True) if verdict.did}
    assert did == {}
    assert detector.strays == []
    chunks = sum(len(stream["chunks"]) for shown in acts for stream in shown["streams"])
    assert chunks >= AT_LEAST_CHUNKS
    assert sum(verdict.rendered for verdict in verdicts) > chunks


async def test_nothing_runs_however_it_comes(detector: Detector) -> None:
    await nothing_happens(detector, [act(every_way(source)) for source in CASES.values()])


async def test_nothing_runs_wherever_it_stands(detector: Detector) -> None:
    await nothing_happens(detector, [act(in_places(source, number)) for number, source in enumerate(CASES.values())])
