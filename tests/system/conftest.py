"""What the fault scenarios share: where they run, and the table of figures at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hub.embedded import RedisServer
from tests.support.hub_database import HubDatabase
from tests.support.servers import client, running_redis
from tests.system.chance import oracle_seed
from tests.system.judge import Figures
from tests.system.ordeal import Ordeal, Plan, RedisLink, ordeal

_TIMEOUT_S = 240
_FIGURES, _REMARK = "figures", "remark"  # properties of a test's report, which reaches whoever prints it
Remark = Callable[[str], None]
"""Says something at the end of the run, whatever becomes of the test."""
_COLUMNS: tuple[tuple[str, str, Callable[[Figures], Any]], ...] = (
    ("scenario", "<34", lambda f: f.scenario),
    ("published", ">10", lambda f: f.published),
    ("delivered", ">10", lambda f: f.delivered),
    ("lost", ">5", lambda f: f.lost),
    ("dup", ">4", lambda f: f.duplicated),
    ("order", ">6", lambda f: f.out_of_order),
    ("gaps", ">6", lambda f: f.gaps),
    ("epochs", ">7", lambda f: f.epoch_changes),
    ("repeats", ">8", lambda f: f.repeats),
    ("reconnects", ">11", lambda f: f.reconnects),
    ("heal s", ">7", lambda f: f"{f.heal_s:.1f}"),
    ("seed", ">7", lambda f: f.seed),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole systems take longer to start, break and heal than other tests; on a busy machine much longer."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(_TIMEOUT_S))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was measured, and the table of `make oracle`."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    ended = [report for report in reports if getattr(report, "when", "") == "teardown"]
    said = [(name, value) for report in ended for name, value in report.user_properties]
    remarks = [value for name, value in said if name == _REMARK]
    if remarks:
        terminalreporter.section("measured")
        for remark in remarks:
            terminalreporter.line(remark)
    rows = [Figures(**value) for name, value in said if name == _FIGURES]
    if not rows:
        return
    terminalreporter.section("fault oracle")
    terminalreporter.line(" ".join(format(name, align) for name, align, _ in _COLUMNS))
    for row in rows:
        terminalreporter.line(" ".join(format(str(value(row)), align) for _, align, value in _COLUMNS))


class Arena:
    """Starts ordeals, and keeps their figures for the table."""

    def __init__(self, rows: list[Figures], database: HubDatabase, folder: Path) -> None:
        self._rows = rows
        self._database = database
        self._folder = folder

    def ordeal(
        self, scenario: str, plan: Plan, redis_urls: Sequence[str], link: RedisLink, database: HubDatabase | None = None
    ) -> AbstractAsyncContextManager[Ordeal]:
        """See ``tests.system.ordeal``. ``link`` leads to the Redis that holds the truth when all is over."""
        figures = Figures(scenario, oracle_seed(scenario))
        self._rows.append(figures)
        return ordeal(figures, plan, redis_urls, link, database or self._database, self._folder)


@pytest.fixture
def arena(request: pytest.FixtureRequest, hub_database: HubDatabase, tmp_path: Path) -> Iterator[Arena]:
    """Where scenarios run."""
    rows: list[Figures] = []
    yield Arena(rows, hub_database, tmp_path)
    request.node.user_properties += [(_FIGURES, asdict(row)) for row in rows]


@pytest.fixture
def remark(request: pytest.FixtureRequest) -> Remark:
    """For figures that a test has measured, and seeds."""
    node = request.node
    return lambda text: node.user_properties.append((_REMARK, f"{node.name}: {text}"))


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that may be hurt, and keeps its data over a restart."""
    with running_redis(append_only=True) as server:
        yield server


def linked(server: RedisServer) -> RedisLink:
    """A way to look into a server behind the hub's back."""
    return lambda: client(server)
