"""``hub upload`` as a process, against a scripted hub: what is shown, Ctrl-C, going on, exit codes."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cli.conftest import Commands
from tests.client.scripted_hub import Peer, ScriptedHub, eventually
from tests.client.scripted_uploads import Data, Document, Refused, ScriptedUploads

BYTES = bytes(range(256)) * 200


@pytest.fixture
def uploads(hub: ScriptedHub) -> ScriptedUploads:
    return ScriptedUploads(hub)


@pytest.fixture
def file(hub_command: Commands) -> str:
    (hub_command.folder / "a file.csv").write_bytes(BYTES)
    return "a file.csv"


async def test_a_file(hub: ScriptedHub, uploads: ScriptedUploads, hub_command: Commands, file: str) -> None:
    run = await hub_command(
        "upload", file, "--type", "csv", "--meta", "guest_id=7", "--name", "guests.csv", "--sha256",
        "--share", "chat:lobby", HUB_URL=hub.url,
    )  # fmt: skip
    assert (run.out, run.process.returncode) == ("up0\n", 0)
    lines = run.err.splitlines()
    assert lines[-1].startswith("hub: a file.csv: available: text/csv, 51.2 kB")
    assert "hub: a file.csv: checking" in lines
    assert any("uploading" in line and "%" in line for line in lines)
    params = uploads.only.params
    assert (params["document_type"], params["metadata"], params["filename"]) == ("csv", {"guest_id": 7}, "guests.csv")
    assert (len(params["sha256"]), params["shares"]) == (64, ["chat:lobby"])
    assert uploads.only.content == BYTES
    run = await hub_command("upload", file, "--json", HUB_URL=hub.url)
    assert msgspec.json.decode(run.out)["document_type"] == "document"


async def test_ctrl_c_pauses_and_says_how_to_go_on(
    hub: ScriptedHub, uploads: ScriptedUploads, hub_command: Commands, file: str
) -> None:
    async def half(_: Peer, document: Document, __: Data) -> bool:
        return document.accepted > 20_000

    uploads.faults = half
    run = await hub_command.start("upload", file, HUB_URL=hub.url)
    await run.shows("uploading 30 %", where="err")
    run.signal(signal.SIGINT)
    assert await run.ends() == 130
    assert run.out == ""
    assert "go on with: hub upload --resume up0 'a file.csv'" in run.err
    assert uploads.only.paused
    uploads.faults = None
    run = await hub_command("upload", "--resume", "up0", file, HUB_URL=hub.url)
    assert (run.out, run.process.returncode) == ("up0\n", 0)
    assert uploads.only.content == BYTES


async def test_what_goes_wrong(hub: ScriptedHub, uploads: ScriptedUploads, hub_command: Commands, file: str) -> None:
    uploads.verdict = {"code": "unsupported_media", "message": "it is a PNG; choose --type image"}
    run = await hub_command("upload", file, HUB_URL=hub.url)
    assert (run.out, run.process.returncode) == ("", 1)
    assert run.err.endswith("hub: a file.csv: unsupported_media: it is a PNG; choose --type image\n")
    run = await hub_command("upload", "missing.csv", HUB_URL=hub.url)
    assert run.process.returncode == 2
    run = await hub_command("upload", file, "--resume", "up0", "--type", "csv", HUB_URL=hub.url)
    assert run.process.returncode == 2
    assert "--resume goes on" in run.err
    run = await hub_command("upload", file, "--meta", "guest id=7", HUB_URL=hub.url)
    assert run.process.returncode == 2
    assert "'guest id' cannot name metadata" in run.err


async def test_what_is_no_file(hub: ScriptedHub, uploads: ScriptedUploads, hub_command: Commands) -> None:
    os.mkfifo(hub_command.folder / "pipe")
    for source in ("pipe", "-", "/dev/stdin"):
        run = await hub_command("upload", source, HUB_URL=hub.url)
        assert run.process.returncode == 2
        assert "write it to a file first" in run.err
    assert not uploads.calls


async def test_going_on_with_another_file(
    hub: ScriptedHub, uploads: ScriptedUploads, hub_command: Commands, file: str
) -> None:
    uploads.documents["up0"] = Document("up0", {"filename": "f", "size": 7, "document_type": "csv", "metadata": {}})
    run = await hub_command("upload", "--resume", "up0", file, HUB_URL=hub.url)
    assert run.process.returncode == 1
    assert run.err.endswith("give the file that it was begun with\n")


async def test_ctrl_c_when_the_hub_cannot_be_told(
    hub: ScriptedHub, uploads: ScriptedUploads, hub_command: Commands, file: str
) -> None:
    async def half(_: Peer, document: Document, __: Data) -> bool:
        return document.accepted > 20_000

    uploads.faults = half
    uploads.refuse["upload.pause"] = [Refused("unavailable", "the database is away", "later")]
    run = await hub_command.start("upload", file, HUB_URL=hub.url)
    await run.shows("uploading 30 %", where="err")
    run.signal(signal.SIGINT)
    assert await run.ends() == 130
    assert "go on with: hub upload --resume up0" in run.err
    assert "the hub could not be told of the pause" in run.err


async def test_taken_over(hub: ScriptedHub, uploads: ScriptedUploads, hub_command: Commands, file: str) -> None:
    async def taken(_: Peer, document: Document, __: Data) -> bool:
        if document.accepted > 20_000:
            await uploads.close(document, "conflict", "another connection has gone on with this upload")
        return False

    uploads.faults = taken
    run = await hub_command("upload", file, HUB_URL=hub.url)
    assert run.process.returncode == 1
    assert "another connection has gone on" in run.err
    assert run.err.endswith("go on with: hub upload --resume up0 'a file.csv'\n")


async def test_on_a_terminal(hub: ScriptedHub, uploads: ScriptedUploads, hub_command: Commands, file: str) -> None:
    gate = asyncio.Event()

    async def wait(_: Peer, document: Document, __: Data) -> bool:
        if document.accepted > 20_000:
            await gate.wait()
        return False

    uploads.faults = wait
    screen = Screen()
    try:
        process = await screen.run(hub_command, "upload", file, HUB_URL=hub.url)
        await eventually(lambda: "a file.csv uploading" in screen.text and "/51.2 kB" in screen.text)
        gate.set()
        async with asyncio.timeout(60):
            assert await process.wait() == 0
        await eventually(lambda: "available: text/csv" in screen.text)
    finally:
        screen.close()


class Screen:
    """A terminal in which a command runs: what it has shown."""

    def __init__(self) -> None:
        self._ours, self._theirs = pty.openpty()
        self._bytes = b""
        asyncio.get_running_loop().add_reader(self._ours, self._read)

    @property
    def text(self) -> str:
        return self._bytes.decode(errors="replace")

    async def run(self, commands: Commands, *arguments: str, **environ: str) -> asyncio.subprocess.Process:
        from tests.cli.conftest import HUB

        env: dict[str, Any] = {**os.environ, "TERM": "xterm", "COLUMNS": "120", **commands.environ, **environ}
        streams = {"stdin": self._theirs, "stdout": self._theirs, "stderr": self._theirs}
        return await asyncio.create_subprocess_exec(*HUB, *arguments, cwd=Path(commands.folder), env=env, **streams)

    def _read(self) -> None:
        self._bytes += os.read(self._ours, 65536)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        os.close(self._theirs)
