"""What counts as an attempt at a check, and how long the next one waits: without a store, a scanner or a database."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hub.api import ErrorCode, HubError, OrgId
from services.uploads.checker import Checker, Tools
from services.uploads.checking import DocumentTypes
from services.uploads.shapes import State, Upload
from services.uploads.store.words import BytesMissing, StoreFull, store_unavailable
from tests.services.uploads.checking.samples import settings
from tests.support.waiting import until

LEASE_S = 1000.0  # nobody is asked to renew it
TEXT = b"some text\n"


class Around:
    """All that a check is done with. ``fault``: what the step named ``at`` raises; ``postponed``: what is said then."""

    def __init__(self, fault: Exception, at: str, attempts: int) -> None:
        self.fault = fault
        self.at = at
        self.attempts = attempts
        self.postponed: list[tuple[float, bool]] = []

    def step(self, name: str) -> None:
        if name == self.at:
            raise self.fault

    async def claim(self, org: OrgId, upload: str, token: str) -> Upload:
        fields: dict[str, Any] = dict.fromkeys(Upload.__struct_fields__)
        given = {"id": upload, "org": org, "filename": "a.txt", "document_type": "document", "size": len(TEXT)}
        return Upload(**(fields | given | {"state": State.CHECKING, "attempts": self.attempts}))

    async def postpone(self, upload: Upload, token: str, after_s: float, *, counts: bool) -> None:
        self.postponed.append((after_s, counts))

    async def parts(self, org: OrgId, upload: str) -> list[Any]:
        return []

    async def join(self, *_: Any) -> None:
        self.step("join")

    def reader(self, *_: Any) -> io.BytesIO:
        self.step("reader")
        return io.BytesIO(TEXT)

    async def read(self, *_: Any) -> AsyncIterator[bytes]:
        yield TEXT

    async def scan(self, pieces: AsyncIterator[bytes]) -> str | None:
        self.step("scan")
        return None


@pytest.mark.parametrize(
    ("at", "fault", "attempts", "after_s", "counts"),
    [
        ("join", store_unavailable(), 2, LEASE_S, False),
        ("join", StoreFull(), 2, LEASE_S, False),
        ("join", BytesMissing(), 1, LEASE_S, True),
        ("join", BytesMissing(), 3, 4 * LEASE_S, True),
        ("reader", RuntimeError("a fault of ours"), 2, 2 * LEASE_S, True),
        ("scan", HubError(ErrorCode.UNAVAILABLE, "away"), 3, LEASE_S, False),
        ("scan", HubError(ErrorCode.TIMEOUT, "it has no end"), 20, 32 * LEASE_S, True),
    ],
)
async def test_what_counts(at: str, fault: Exception, attempts: int, after_s: float, counts: bool) -> None:
    around = cast(Any, Around(fault, at, attempts))
    bounds = settings(uploads_check_lease_s=LEASE_S, uploads_check_attempts=20)
    tools = Tools(around, around, around, DocumentTypes.load(bounds), around, around)
    checker = Checker(cast(Any, SimpleNamespace(settings=bounds)), tools)
    try:
        checker.begin(OrgId.from_operator("acme"), "u1")
        await until(lambda: around.postponed, 30.0, "the check to be put off")
        assert around.postponed == [(after_s, counts)]
    finally:
        await checker.close()
