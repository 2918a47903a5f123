"""``hub fake-llm`` as a process."""

from __future__ import annotations

import re
import signal
import socket

import httpx

from hub.fake_llm.behaviour import ENDS
from tests.cli.conftest import Commands


async def test_it_serves_until_it_is_told_to_stop(hub_command: Commands) -> None:
    run = await hub_command.start("fake-llm", "--port", "0", "--tokens", "3", "--tokens-per-s", "0", "--end", "length")
    await run.shows("/fake/behaviour")
    found = re.search(r"fake language models at (\S+)", run.out)
    assert found is not None
    async with httpx.AsyncClient(base_url=found[1]) as client:
        answer = await client.post("/v1/messages", json={"model": "any"})
    assert answer.json()["stop_reason"] == "max_tokens"
    assert f"HUB_ASSISTANT_OPENAI_BASE_URL={found[1]}/v1" in run.out
    run.signal(signal.SIGINT)
    assert await run.ends() == 130


async def test_the_help_names_every_end(hub_command: Commands) -> None:
    run = await hub_command("fake-llm", "--help")
    words = set(re.findall(r"\w+", run.out))
    assert not set(ENDS) - words


async def test_mistakes(hub_command: Commands) -> None:
    run = await hub_command("fake-llm", "--end", "explode")
    assert run.process.returncode == 2
    assert "explode" in run.err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        run = await hub_command("fake-llm", "--port", port)
    assert run.process.returncode == 2
    assert f"hub: cannot listen on 127.0.0.1 port {port}" in run.err
    assert "set --host or --port" in run.err
