"""Tags of the specification's scenarios: markers of pytest, and skipped where the provider has nothing for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FEATURES = Path(__file__).parent / "openfeature"
NOT_OURS = {"stale": "the provider has no connection to lose; the node keeps the last known flags"}


def pytest_configure(config: pytest.Config) -> None:
    tags = {tag for path in FEATURES.rglob("*.feature") for tag in re.findall(r"(?m)(?<=@)\S+", path.read_text())}
    for tag in sorted(tags):
        config.addinivalue_line("markers", f"{tag}: of the OpenFeature specification")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for tag, reason in NOT_OURS.items():
            if item.path.parent == FEATURES.parent and item.get_closest_marker(tag):
                item.add_marker(pytest.mark.skip(reason=reason))
