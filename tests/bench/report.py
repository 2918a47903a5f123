"""The table of a run, and its comparison with ratios that were kept before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.bench.timer import Timing


def rows(timings: Sequence[Timing], before: Mapping[str, float]) -> list[str]:
    """A line for the head and one per case. ``before``: kept ratios by name."""
    width = max(len(timing.case.name) for timing in timings)
    lines = [f"{'case':{width}}  {'per':>8}  {'ns':>10}  {'per second':>12}  {'ratio':>9}  {'±':>5}  kept"]
    for case, ns, ratio, spread in timings:
        kept = before.get(case.name)
        change = "" if not before else "new" if kept is None else f"{(ratio / kept - 1) * 100:+.0f} %"
        lines.append(
            f"{case.name:{width}}  {case.unit:>8}  {ns:>10,.0f}  {1e9 / ns:>12,.0f}  {ratio:>9.2f}  "
            f"{spread * 100:>3.0f} %  {change}"
        )
    return lines


def worse(timings: Sequence[Timing], before: Mapping[str, float], factor: float) -> list[str]:
    """Names of the cases whose ratio is more than ``factor`` times the one that was kept."""
    return [timing.case.name for timing in timings if timing.ratio > before.get(timing.case.name, 1e18) * factor]
