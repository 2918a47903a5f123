"""The file of flags while nodes run: every way in which it is replaced, and the last good one stays."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from hub.database import Database
from hub.errors import ConfigError
from hub.fanout.control import Control
from hub.nodes.flags import watcher
from hub.nodes.flags.board import FlagBoard
from hub.nodes.flags.source import FlagSource, Look
from hub.telemetry import FlagMetrics
from tests.nodes.flags.nodes import ANN, FILE, FlagNode, World
from tests.support.fan_out import FanOut
from tests.support.fan_out import settings as bare_settings
from tests.support.waiting import until

ON = FILE.replace("rollout: 25", "rollout: 100")
OFF = FILE.replace("rollout: 25", "rollout: 0")


async def shows(node: FlagNode, value: bool) -> None:
    await until(lambda: node.board.on("chat", ANN) is value)


async def test_a_file_that_is_written_anew(flag_world: World) -> None:
    here, there = await flag_world.node(), await flag_world.node()
    version = here.board.version
    flag_world.file.write_text(ON)
    await shows(here, True)
    await shows(there, True)
    assert here.flips == [frozenset({"chat"})]
    assert here.board.version == there.board.version != version
    editor = flag_world.file.with_suffix(".tmp")
    editor.write_text(OFF)
    editor.rename(flag_world.file)
    await shows(here, False)
    await shows(there, False)


async def test_a_file_that_is_a_link_as_kubernetes_has_it(flag_world: World, tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    for name, text in (("..1", ON), ("..2", OFF)):
        (folder / name).mkdir(parents=True)
        (folder / name / "flags.yaml").write_text(text)
    (folder / "..data").symlink_to("..1")
    (folder / "flags.yaml").symlink_to("..data/flags.yaml")
    node = await flag_world.node(flags_file=str(folder / "flags.yaml"))
    assert node.board.on("chat", ANN)
    (folder / "..new").symlink_to("..2")
    (folder / "..new").rename(folder / "..data")
    await shows(node, False)


async def test_a_file_with_a_fault_is_refused_and_the_last_good_one_stays(flag_world: World) -> None:
    flag_world.file.write_text(ON)
    node = await flag_world.node()
    await node.set("uploads", state="off")
    with capture_logs() as logs:
        flag_world.file.write_text("flags:\n  chat: 0%\n\tuploads: 5%\n")
        await until(lambda: node.board.problem)
        assert node.board.problem is not None
        assert (node.board.problem.line, "a tab" in node.board.problem.message) == (3, True)
        flag_world.file.write_text("")
        await until(lambda: node.board.problem is not None and "nothing in the file" in node.board.problem.message)
    refused = [entry for entry in logs if entry["event"].startswith("flags file refused")]
    assert [(entry["log_level"], entry["line"]) for entry in refused] == [("error", 3), ("error", 1)]
    assert node.board.on("chat", ANN)
    assert not node.board.on("uploads", ANN)
    assert node.metric("hub_flag_file_errors_total") == 2
    await node.set("chat", state="off")
    assert not node.board.on("chat", ANN), "run-time changes go on meanwhile"
    await node.set("chat", clear=True)
    flag_world.file.write_text(OFF)
    await shows(node, False)
    assert node.board.problem is None


async def test_a_file_that_is_removed_and_put_back(flag_world: World) -> None:
    flag_world.file.write_text(ON)
    node = await flag_world.node()
    flag_world.file.unlink()
    await until(lambda: node.board.problem)
    assert node.board.problem is not None
    assert "cannot be read: No such file" in node.board.problem.message
    assert node.board.on("chat", ANN)
    flag_world.file.write_text(ON)
    await until(lambda: node.board.problem is None)
    assert node.flips == []
    flag_world.file.unlink()
    flag_world.file.mkdir()
    await until(lambda: node.board.problem)
    flag_world.file.rmdir()
    flag_world.file.write_bytes(OFF.encode() + b"# \xff\n")
    await until(lambda: node.board.problem is not None and "not UTF-8" in node.board.problem.message)
    flag_world.file.write_text(OFF)
    await shows(node, False)


async def test_a_file_that_is_written_in_two_goes(flag_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    flag_world.file.write_text(ON.replace('state: "on"', 'state: "off"'))
    node = await flag_world.node()
    head, tail = OFF.replace('state: "on"', 'state: "off"').split("  uploads", 1)
    with flag_world.file.open("w") as file, monkeypatch.context() as patched:
        patched.setattr("hub.nodes.flags.board._HALF_SETTLE_S", 60.0)  # whoever writes may have to wait for the machine
        file.write(head)
        file.flush()
        digest = FlagSource(node.node.gateway.settings).look(None).digest
        looks = 0
        # What is there was looked at, and is valid, and yet it is not all of it.
        look = node.board._source.look

        def counted(known: str | None) -> Look:
            nonlocal looks
            found = look(known)
            looks += found.digest == digest
            return found

        node.board._source.look = counted  # type: ignore[method-assign]
        node.board._file_wake.set()
        await until(lambda: looks >= 2)
        assert not node.board.on("uploads", ANN)
        file.write("  uploads" + tail)
        file.flush()
        await shows(node, False)
    assert node.flips == [frozenset({"chat"})], "uploads were never on"
    flag_world.file.write_text("flags:\n  chat: 100%\n")
    await shows(node, True)


async def test_a_look_that_takes_long_does_not_make_a_half_file_a_whole_one(
    flag_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.nodes.flags.board._HALF_SETTLE_S", 60.0)
    flag_world.file.write_text(ON.replace('state: "on"', 'state: "off"'))
    node = await flag_world.node()
    whole = OFF.replace('state: "on"', 'state: "off"')
    look, answer = node.board._source.look, threading.Event()
    looks: list[float] = []

    def slow(known: str | None) -> Look:
        looks.append(time.monotonic())
        found = look(known)
        if len(looks) == 2:
            assert answer.wait(30)
        return found

    node.board._source.look = slow  # type: ignore[method-assign]
    flag_world.file.write_text(whole.split("  uploads", 1)[0])
    node.board._file_wake.set()
    await until(lambda: looks)
    node.board._file_wake.set()  # another look at once
    await until(lambda: len(looks) == 2)
    flag_world.file.write_text(whole)
    # What it has to stand for ends after that look began, and before it comes back.
    monkeypatch.setattr("hub.nodes.flags.board._HALF_SETTLE_S", looks[1] - looks[0] + 0.2)
    await asyncio.sleep(0.4)
    answer.set()
    await shows(node, False)
    assert node.flips == [frozenset({"chat"})], "uploads were never on"


async def test_something_that_is_no_file(flag_world: World) -> None:
    flag_world.file.write_text(ON)
    node = await flag_world.node(flags_recheck_s=0.1)
    flag_world.file.unlink()
    os.mkfifo(flag_world.file)
    await until(lambda: node.board.problem is not None and "no regular file" in node.board.problem.message)
    flag_world.file.unlink()
    flag_world.file.write_text(OFF)
    await shows(node, False)


async def test_without_notifications_it_is_looked_at(flag_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "no more handles")

    monkeypatch.setattr(watcher, "watch", refuse)
    node = await flag_world.node(flags_recheck_s=0.1)
    flag_world.file.write_text(ON)
    await shows(node, True)


async def test_a_node_does_not_start_with_a_file_that_is_wrong(flag_world: World) -> None:
    flag_world.file.write_text("flags:\n  chat: 101%\n")
    with pytest.raises(ConfigError, match=r"HUB_FLAGS_FILE is invalid\. .*line 2"):
        await flag_world.unready()
    flag_world.file.unlink()
    with pytest.raises(ConfigError, match="there is no such file"):
        await flag_world.unready()


async def test_no_file_and_the_one_that_ships(
    flag_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await flag_world.node(flags_file="")
    assert dict(node.board.values(ANN)) == {}
    assert node.board.on("chat", ANN)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "feature_flags.yaml").unlink()
    shipped = FlagSource(bare_settings()).path
    assert shipped is not None
    assert shipped.parent != tmp_path
    (tmp_path / "feature_flags.yaml").write_text(FILE)
    assert FlagSource(bare_settings()).path == Path("feature_flags.yaml")


async def test_boards_leave_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text(FILE)
    settings = bare_settings(flags_file=str(file))
    hub, database = FanOut(), await Database.open(settings)
    control = Control("me", hub.broker, hub.dispatcher)
    threads, handles = threading.active_count(), len(os.listdir("/proc/self/fd"))
    boards = [FlagBoard(settings, database, control, FlagMetrics(CollectorRegistry())) for _ in range(20)]
    for board in boards:
        await board.start()
    assert threading.active_count() >= threads + 20
    file.write_text(ON)
    await until(lambda: all(board.on("chat", ANN) for board in boards))
    for board in boards:
        board.retire()
    for board in boards:
        await board.close()
    named = [thread for thread in threading.enumerate() if thread.name == "flags file"]
    assert named == []
    # The library's own thread closes its handles when it has seen that it is to end.
    await until(lambda: len(os.listdir("/proc/self/fd")) <= handles)
    await database.close()
    await hub.close()
