"""clamd over real sockets: what it finds, and that nothing but its word is taken for "clean"."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hub.api import ConfigError, ErrorCode, HubError
from services.uploads.checking import Scanner, open_scanner
from services.uploads.checking import scanner as seam
from services.uploads.checking.scanner import Clamd
from services.uploads.store.words import READ_BYTES
from tests.services.uploads.checking.samples import settings
from tests.services.uploads.fake_clamd import EICAR, FakeClamd, Mood, fake_clamd


@pytest.fixture
async def clamd() -> AsyncIterator[FakeClamd]:
    async with fake_clamd() as running:
        yield running


def scanner(url: str, **overrides: object) -> Scanner:
    opened = open_scanner(settings(uploads_scan_url=url, **overrides))
    assert opened
    return opened


async def pieces(*each: bytes) -> AsyncIterator[bytes]:
    for piece in each:
        yield piece


async def test_what_it_finds_and_what_not(clamd: FakeClamd) -> None:
    it = scanner(f"tcp://127.0.0.1:{clamd.port}")
    assert await it.scan(pieces(b"hello", b"x" * 3_000_000)) is None
    assert await it.scan(pieces(b"hello" + EICAR[:20], EICAR[20:])) == "Eicar-Test-Signature"
    assert clamd.scanned == [3_000_005, 5 + len(EICAR)]


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "clamd.sock")
    async with fake_clamd(path=path):
        assert await scanner(f"unix:{path}").scan(pieces(EICAR)) == "Eicar-Test-Signature"


@pytest.mark.parametrize("mood", ["silent", "breaks_off", "error", "babbles"])
async def test_no_answer_is_never_clean(clamd: FakeClamd, mood: Mood) -> None:
    clamd.mood = mood
    url = f"tcp://127.0.0.1:{clamd.port}"
    it = scanner(url, uploads_scan_timeout_s=0.3) if mood == "silent" else scanner(url)
    with pytest.raises(HubError, match="virus scanner") as refused:
        await it.scan(pieces(b"x" * 100_000))
    assert refused.value.code is ErrorCode.UNAVAILABLE
    clamd.mood = "well"
    assert await scanner(url).scan(pieces(b"x")) is None


async def test_a_file_that_it_cannot_finish_is_told_from_a_scanner_that_hangs(
    clamd: FakeClamd, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_well = Clamd._is_well

    async def patient(self: Clamd) -> bool:
        self._timeout_s = 30.0
        return await is_well(self)

    monkeypatch.setattr(Clamd, "_is_well", patient)
    monkeypatch.setattr(seam, "_PING_S", 30.0)
    clamd.mood = "stuck"
    it = scanner(f"tcp://127.0.0.1:{clamd.port}", uploads_scan_timeout_s=0.1)
    with pytest.raises(HubError, match="come to an end") as refused:
        await it.scan(pieces(b"x" * 1000))
    assert refused.value.code is ErrorCode.TIMEOUT


async def test_nobody_there() -> None:
    async with fake_clamd() as clamd:
        port = clamd.port
    with pytest.raises(HubError, match="not reachable") as refused:
        await scanner(f"tcp://127.0.0.1:{port}").scan(pieces(b"x"))
    assert refused.value.code is ErrorCode.UNAVAILABLE


async def test_more_than_it_takes() -> None:
    """It says so and closes, while more is under way."""
    async with fake_clamd(stream_max_length=1_000_000) as clamd:
        it = scanner(f"tcp://127.0.0.1:{clamd.port}")
        with pytest.raises(HubError) as refused:
            await it.scan(pieces(*[b"x" * READ_BYTES] * 80))
        assert refused.value.code is ErrorCode.TOO_LARGE


async def test_a_fault_of_the_store_is_no_word_of_the_scanner(clamd: FakeClamd) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise TimeoutError("the store")

    with pytest.raises(TimeoutError, match="the store"):
        await scanner(f"tcp://127.0.0.1:{clamd.port}").scan(broken())


@pytest.mark.parametrize(
    "url", ["clamd", "tcp://host", "tcp://:3310", "http://host:1", "unix:clamd.sock", "tcp://h:99999"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="HUB_UPLOADS_SCAN_URL"):
        open_scanner(settings(uploads_scan_url=url))


def test_nobody_is_asked() -> None:
    assert open_scanner(settings()) is None
