"""The README keeps its word: its service is complete, and works when it is pasted."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from hub.embedded import RedisServer
from hub.protocol.frames import Event
from services.main import SERVICES
from tests.support.raw_client import raw_client
from tests.support.running_hub import running_hub

README = Path(__file__).parent.parent / "README.md"


def pasted_service() -> Any:
    """The function that the README's example defines."""
    (code,) = re.findall(r"```python\n# services/notes\.py\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    return names["notes"]


async def test_the_service_of_the_readme_works(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with running_hub("direct", redis_server.url, factories=[*SERVICES, pasted_service()]) as hub:
        reader_token, writer_token = hub.token(user="reader"), hub.token(user="writer")
        async with (
            raw_client(hub.url, reader_token) as reader,
            raw_client(hub.url, writer_token) as writer,
        ):
            await reader.hello(subscribe=[{"topic": "notes:board"}])
            await writer.hello()
            answer = await writer.result({"type": "call", "method": "notes.add", "params": {"text": "hi"}})
            event = await reader.expect(Event)
            assert (event.name, event.data, event.by, event.seq) == (
                "note.added",
                {"text": "hi"},
                "writer",
                answer["seq"],
            )
            await writer.refusal({"type": "call", "method": "notes.add", "params": {}}, "bad_request")
    assert not os.listdir(tmp_path), "tests leave nothing in the folder they run in"
