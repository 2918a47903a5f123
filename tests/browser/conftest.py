"""A browser for the session. Without one the tests are skipped, but never where CI promises that they ran."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from tests.browser.chromium import HOW_TO_INSTALL, Chromium, find_chromium, running_chromium
from tests.browser.detector import Detector, start_detector


@pytest.fixture(scope="session")
def binary() -> str:
    """Where a browser is."""
    found = find_chromium()
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(HOW_TO_INSTALL)
    if found is None:
        pytest.skip(HOW_TO_INSTALL)
    return found


@pytest.fixture(scope="session")
async def chromium(binary: str) -> AsyncIterator[Chromium]:
    async with running_chromium(binary) as browser:
        yield browser


@pytest.fixture(scope="session")
async def session_detector(binary: str) -> AsyncIterator[Detector]:
    # A browser of its own: it stops every new page until it has been looked at.
    async with running_chromium(binary) as browser:
        yield await start_detector(browser)


@pytest.fixture
def detector(session_detector: Detector) -> Detector:
    session_detector.strays.clear()
    return session_detector
