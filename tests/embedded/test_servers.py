"""One server at a time: start, stop, crash, restart on the same data, and the folders it may have to live in."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio

from hub.embedded import EmbeddedServers, PostgresServer, RedisServer
from hub.embedded.account import server_account
from hub.embedded.folder import DataFolder
from hub.errors import ConfigError
from tests.support.servers import client, free_port, running_redis, temporary_folder
from tests.support.waiting import until_sync

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="about what root does")


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as base:
        yield base


async def one(server: PostgresServer, statement: str, user: str = "hub_owner") -> object:
    link = await asyncpg.connect(server.url(user))
    try:
        return await link.fetchval(statement)
    finally:
        await link.close()


# --- Redis


async def test_redis_answers_on_the_socket_and_on_the_port(folder: Path) -> None:
    server = RedisServer(folder, port=free_port())
    server.start()
    try:
        for url in (server.url, server.unix_url):
            async with redis.asyncio.from_url(url, protocol=3) as link:
                assert await link.ping()
                assert (await link.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
    finally:
        server.stop()
    assert not server.running


def test_redis_without_a_port_listens_on_no_network_address(folder: Path) -> None:
    server = RedisServer(folder)
    server.start()
    try:
        assert server.url == f"unix://{server.socket_path}"
        with client(server) as link:
            assert link.config_get("port") == {"port": "0"}
    finally:
        server.stop()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_redis_keeps_its_data_over_a_restart(folder: Path, end: str) -> None:
    server = RedisServer(folder)
    server.start()
    first = server.pid
    with client(server) as link:
        link.set("kept", "yes")
        assert link.waitaof(1, 0, 60_000)[0] == 1
    getattr(server, end)()
    server.start()
    try:
        assert server.pid != first
        with client(server) as link:
            assert link.get("kept") == "yes"
    finally:
        server.stop()


def test_redis_without_an_append_only_file_keeps_nothing() -> None:
    with running_redis() as server:
        with client(server) as link:
            link.set("kept", "yes")
        server.stop()
        server.start()
        with client(server) as link:
            assert link.get("kept") is None


def test_options_reach_the_server(folder: Path) -> None:
    server = RedisServer(folder, options={"client-output-buffer-limit": "pubsub 1mb 1mb 0", "maxmemory": "50mb"})
    server.start()
    try:
        with client(server) as link:
            assert link.config_get("maxmemory") == {"maxmemory": str(50 * 1024 * 1024)}
            assert "pubsub 1048576 1048576 0" in link.config_get("client-output-buffer-limit").popitem()[1]
    finally:
        server.stop()


def test_a_server_that_cannot_start_says_why(folder: Path) -> None:
    server = RedisServer(folder, options={"no-such-option": "1"})
    with pytest.raises(ConfigError, match="no-such-option"):
        server.start()
    assert not server.running


# --- PostgreSQL


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_postgres_keeps_its_data_over_a_restart(folder: Path, end: str) -> None:
    server = PostgresServer(folder)
    server.start()
    try:
        await one(server, "CREATE TABLE kept AS SELECT 42 AS n")
        getattr(server, end)()
        server.start()
        assert await one(server, "SELECT n FROM kept") == 42
    finally:
        server.stop()


async def test_a_pid_file_that_names_a_living_stranger_does_not_stop_the_next_start(folder: Path) -> None:
    server = PostgresServer(folder)
    server.start()
    server.kill()
    pid_file = folder / "data" / "postmaster.pid"
    stranger = living_stranger()
    try:
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        server.start()
        assert await one(server, "SELECT 1") == 1
    finally:
        server.stop()
        stranger.kill()
        stranger.wait()


def living_stranger() -> subprocess.Popen[bytes]:
    """A process of the same user as the server, since PostgreSQL itself recognises strangers of other users."""
    account = server_account()
    return subprocess.Popen(["sleep", "60"], user=account.uid if account else None, process_group=0)


async def test_an_interrupted_initdb_is_begun_anew(folder: Path) -> None:
    server = PostgresServer(folder)
    server.launch()
    assert server._initdb is not None
    until_sync((folder / "data" / "PG_VERSION").exists, what="initdb to be under way")
    server._initdb.kill()
    server.stop()
    again = PostgresServer(folder)
    again.start()
    try:
        assert await one(again, "SELECT current_database()") == "hub"
    finally:
        again.stop()


async def test_text_is_stored_as_utf8(postgres_server: PostgresServer) -> None:
    assert await one(postgres_server, "SHOW server_encoding") == "UTF8"


async def test_the_sockets_are_closed_to_others(postgres_server: PostgresServer) -> None:
    mode = postgres_server.home.sockets.stat().st_mode
    assert stat.S_IMODE(mode) == 0o700
    assert await one(postgres_server, "SHOW listen_addresses") == ""


# --- folders


@pytest.mark.parametrize("part", ["x" * 120, "with a blank", "with,comma", "Umläute-und-ß"])
async def test_any_path_will_do(folder: Path, part: str) -> None:
    deep = folder / part / ".hub"
    with EmbeddedServers(deep) as servers:
        sockets = servers.postgres.home.sockets
        assert len(os.fsencode(sockets / ".s.PGSQL.5432.lock")) < 104
        assert await one(servers.postgres, "SELECT 1") == 1
        async with redis.asyncio.from_url(servers.redis.url, protocol=3) as link:
            assert await link.ping()
        assert (deep / "run").resolve() == sockets.resolve()
    assert not sockets.exists() or sockets == deep / "run"


@needs_root
async def test_root_may_use_a_folder_that_nobody_else_can_enter(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    for _ in range(2):  # made, and used again
        with EmbeddedServers(closed / "project" / ".hub") as servers:
            assert await one(servers.postgres, "SELECT 1") == 1
            with client(servers.redis) as link:
                assert link.ping()
    assert closed.stat().st_uid == 0


@needs_root
async def test_root_may_have_installed_the_wheels_where_nobody_else_can_enter(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder / "tmp"))
    monkeypatch.setattr("hub.embedded.account.Account.can_reach", lambda _, path: "site-packages" not in path.parts)
    with EmbeddedServers(folder / ".hub") as servers:
        assert await one(servers.postgres, "SELECT 1") == 1


@needs_root
async def test_root_takes_over_what_an_ordinary_user_made(folder: Path) -> None:
    with EmbeddedServers(folder / ".hub") as servers:
        await one(servers.postgres, "CREATE TABLE kept AS SELECT 42 AS n")
    for path in [folder / ".hub", *(folder / ".hub").rglob("*")]:
        os.chown(path, 12345, 12345, follow_symlinks=False)
    with EmbeddedServers(folder / ".hub") as servers:
        assert await one(servers.postgres, "SELECT n FROM kept") == 42


def test_a_folder_is_used_by_one_hub_at_a_time(folder: Path) -> None:
    with (
        DataFolder(folder / ".hub"),
        pytest.raises(ConfigError, match=f"another hub \\(pid {os.getpid()}\\)"),
    ):
        DataFolder(folder / ".hub")
    DataFolder(folder / ".hub").close()


def test_temporary_folders_of_killed_hubs_are_removed_and_those_in_use_are_not() -> None:
    used = DataFolder()
    left = DataFolder()
    os.close(left._lock)
    try:
        for path in (used.path, left.path):
            os.utime(path, (0, 0))
        DataFolder().close()
        assert used.path.exists()
        # At once, unless another process was just looking whether it may remove it.
        until_sync(lambda: not left.path.exists(), what="the folder to be removed")
    finally:
        used.close()
        shutil.rmtree(left.path, ignore_errors=True)


def test_a_log_that_has_grown_too_long_is_begun_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = RedisServer(folder)
    server.start()
    server.stop()
    length = server.home.log.stat().st_size
    server.start()
    server.stop()
    assert server.home.log.stat().st_size > length
    monkeypatch.setattr("hub.embedded.child.EMBEDDED_LOG_BYTES", length)
    server.start()
    server.stop()
    assert server.home.log.stat().st_size <= 2 * length


def test_both_are_stopped_when_one_cannot_start(folder: Path) -> None:
    (folder / "redis").write_text("in the way")
    servers = EmbeddedServers(folder)
    with pytest.raises(ConfigError, match=r"redis.*another data folder"):
        servers.start()
    assert not servers.postgres.running
    DataFolder(folder).close()


# --- processes


def test_a_start_waits_until_the_processes_of_the_last_one_are_gone(folder: Path) -> None:
    server = RedisServer(folder)
    server.home.prepare()
    with server.home.locked() as lock:
        # As a backend that is still shutting down. Its last deed, since the kernel unlocks before it tells of an end.
        rest = subprocess.Popen(["sh", "-c", "sleep 0.3; touch ended"], cwd=folder, pass_fds=(lock,))
    try:
        server.start()
        assert (folder / "ended").exists()
    finally:
        server.stop()
        rest.wait()


@pytest.mark.parametrize("make", [RedisServer, PostgresServer])
def test_two_servers_never_share_a_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, make: type[RedisServer] | type[PostgresServer]
) -> None:
    first = make(folder)
    first.start()
    try:
        monkeypatch.setattr("hub.embedded.home.EMBEDDED_STOP_S", 0.1)
        with pytest.raises(ConfigError, match="still runs in"):
            make(folder).start()
        assert first.running
    finally:
        first.stop()


def test_a_server_that_ignores_its_stop_signal_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.embedded.child.EMBEDDED_STOP_S", 0.1)
    server = RedisServer(folder)
    server.start()
    server.signal(signal.SIGSTOP)
    server.stop()
    assert not server.running


def test_it_refuses_to_start_in_a_thread_that_may_end_before_it(folder: Path) -> None:
    seen: list[BaseException] = []

    def start() -> None:
        try:
            RedisServer(folder).start()
        except RuntimeError as error:
            seen.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(seen[0])


def test_the_servers_do_not_see_the_environment_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUB_JWT_SECRET", "not-for-children")
    server = RedisServer(folder)
    server.start()
    try:
        assert b"not-for-children" not in Path(f"/proc/{server.pid}/environ").read_bytes()
    finally:
        server.stop()
