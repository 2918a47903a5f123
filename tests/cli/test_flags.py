"""``hub flags`` as a process, against a real hub."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hub.cli.flag_commands import _change_of, _stage
from hub.embedded import RedisServer
from tests.cli.conftest import Commands, Run
from tests.support.hub_database import HubDatabase
from tests.support.running_hub import RunningHub, running_hub
from tests.support.waiting import until

FILE = """
flags:
  chat: {rollout: 25, allow: {users: [ann]}, owner: chat, description: Rooms., expires: 2020-01-01}
  uploads: {state: "off", rollout: 100, owner: uploads, description: Files., expires: 2099-01-01}
"""


@pytest.fixture
async def flag_hub(redis_server: RedisServer, hub_database: HubDatabase, tmp_path: Path) -> AsyncIterator[RunningHub]:
    file = tmp_path / "flags.yaml"
    file.write_text(FILE)
    address = hub_database.url("hub_app")
    refused = ["flags file refused; the last good one counts"]
    async with running_hub(
        "direct", redis_server.url, database_url=address, flags_file=str(file), allowed_errors=refused
    ) as hub:
        yield hub


async def test_flags(flag_hub: RunningHub, hub_command: Commands, tmp_path: Path) -> None:
    hub_command.environ |= {"HUB_URL": flag_hub.url, "HUB_TOKEN": flag_hub.token(user="olga", scope="flags:write")}

    async def flags(*arguments: str) -> Run:
        run = await hub_command("flags", *arguments)
        assert (run.process.returncode, run.err) == (0, ""), run.err
        return run

    listed = await flags("list")
    assert "25% by user, 1 allowed" in listed.out
    assert "2020-01-01 (over)" in listed.out
    assert "off (state in the file)" in listed.out
    assert (await flags("set", "chat", "0.125%", "--why", "a try")).out == "chat: 0.125% (version 1)\n"
    explained = (await flags("explain", "chat", "--user", "ann", "--org", "acme")).out
    assert "chat is on for ann of acme: the file lists" in explained
    assert "changed at run time: 0.125% by acme/olga" in explained
    assert "(version 1)" in explained
    assert (await flags("off", "chat", "--if-version", "1")).out == "chat: off (version 2)\n"
    stale = await hub_command("flags", "on", "chat", "--if-version", "1")
    assert stale.process.returncode == 1
    assert stale.err.startswith("hub: 409 chat was changed meanwhile")
    assert (await flags("clear", "chat", "--why", "over")).out == "chat: as the file says\n"
    rows = (await flags("log", "chat")).out.splitlines()
    assert [row.split("chat  ")[1] for row in rows] == [
        "off → file  by acme/olga: over",
        "0.125% → off  by acme/olga",
        "file → 0.125%  by acme/olga: a try",
    ]
    wrong = await hub_command("flags", "set", "chat", "101%")
    assert (wrong.process.returncode, "between 0 and 100" in wrong.err) == (2, True)
    unknown = await hub_command("flags", "off", "nothing")
    assert unknown.err == "hub: 404 no flag 'nothing'; there are chat, uploads\n"
    nobody = await hub_command("flags", "list", HUB_TOKEN=flag_hub.token())
    assert nobody.err == "hub: 403 the token's scope does not allow flags:write\n"
    (tmp_path / "flags.yaml").write_text("flags:\n\tchat: on\n")
    await until(lambda: flag_hub.gateway.board.problem)
    assert "line 2: a tab" in (await flags("list")).out
    assert json.loads((await flags("list", "--json")).out)["file"]["line"] == 2


async def test_check(hub_command: Commands, tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text(FILE)
    run = await hub_command("flags", "check", str(file))
    assert run.process.returncode == 0
    assert run.out.startswith(f"{file}: 2 flags, all is well\n  chat expired on 2020-01-01")
    expanded = json.loads((await hub_command("flags", "check", str(file), "--flagd")).out)
    assert expanded["flags"]["uploads"]["state"] == "DISABLED"
    file.write_text("flags:\n  chat: 101%\n")
    run = await hub_command("flags", "check", str(file))
    assert (run.process.returncode, run.out) == (1, "")
    assert run.err.startswith(f"hub: {file}, line 2:")
    assert (await hub_command("flags", "check", str(tmp_path / "none"))).err.endswith("No such file or directory\n")


def test_what_others_wrote_says_nothing_to_the_terminal() -> None:
    change = {"state": "off", "who": "acme/\x1b[2J", "at": 1.8e9, "why": "a\u202eb\x9bé"}
    told = _change_of({"override": change})
    assert told.isprintable()
    assert r"acme/\x1b[2J" in told
    assert told.endswith(r": a\u202eb\x9bé")


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"stage": 1, "next_at": 2e9}, r"stage 2 of 3, 10% since [-0-9]+ [:0-9]+, next 2033-05-1\d [:0-9]+"),
        ({"stage": 2}, r"stage 3 of 3, 10% since [-0-9]+ [:0-9]+"),
        ({"stage": -1, "stopped": "p99_ms"}, r"before the first of 3, 10% since [-0-9]+ [:0-9]+, stopped by p99_ms"),
        ({"stage": 0, "stopped": "held"}, r"stage 1 of 3, 10% since [-0-9]+ [:0-9]+, held"),
    ],
)
def test_where_a_schedule_stands(stage: dict[str, Any], words: str) -> None:
    flag = {"stages": [{}] * 3, "stage": {"percent": 10.0, "started_at": 1.8e9, **stage}}
    assert re.fullmatch(words, _stage(flag))
