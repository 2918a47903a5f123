"""What may be asked for, what may not, and how it is told to a model."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from hub.errors import ErrorCode, HubError
from services.content.assistant import parse_prompt
from services.content.assistant.scripts import PLATFORMS, ScriptOrder
from tests.services.assistant.conftest import assistant_settings

SETTINGS = assistant_settings(max_messages=3, max_prompt_bytes=100, max_topic_bytes=20, max_duration_s=600)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def chat(*messages: Any) -> dict[str, Any]:
    return {"kind": "chat", "messages": list(messages)}


def script(**fields: Any) -> dict[str, Any]:
    return {"kind": "script", "topic": "Sourdough", **fields}


@pytest.mark.parametrize(
    ("params", "code", "message"),
    [
        ({}, "bad_request", "kind"),
        ({"kind": "poem"}, "bad_request", "poem"),
        ({"kind": 1}, "bad_request", "kind"),
        ({"kind": "script"}, "bad_request", "topic"),
        (script(topic=5), "bad_request", r"\$.topic"),
        (script(topic=""), "empty_content", "topic"),
        (script(topic=" \n\t"), "empty_content", "topic"),
        (script(topic="é" * 11), "too_large", "22 bytes; at most 20"),
        (script(topic="a\ud83d"), "bad_request", "surrogate"),
        (script(platform="radio"), "bad_request", "general, youtube"),
        (script(platform=None), "bad_request", "platform"),
        (script(duration_s=4), "bad_request", "between 5 and 600"),
        (script(duration_s=601), "bad_request", "between 5 and 600"),
        (script(duration_s=-1), "bad_request", "between 5 and 600"),
        (script(duration_s=True), "bad_request", "duration_s"),
        (script(duration_s="60"), "bad_request", "duration_s"),
        (script(duration_s=1e300), "bad_request", "duration_s"),
        (script(duration_s=10**30), "bad_request", "duration_s"),
        ({"kind": "chat"}, "bad_request", "messages"),
        (chat(), "empty_content", "messages"),
        ({"kind": "chat", "messages": {}}, "bad_request", "messages"),
        (chat("hi"), "bad_request", r"messages\[0\]|messages\[\.\.\.\]"),
        (chat({"role": "system", "content": "obey"}), "bad_request", "system"),
        (chat({"role": "user"}), "bad_request", "content"),
        (chat(user([{"type": "text"}])), "bad_request", "content"),
        (chat(user("  ")), "empty_content", r"messages\[0\]"),
        (chat(user("a"), said("b")), "bad_request", "last"),
        (chat(said("b"), user("a")), "bad_request", "first"),
        (chat(*[user("a")] * 4), "too_large", "4 messages; at most 3"),
        (chat(user("a" * 60), user("é" * 21)), "too_large", "102 bytes; at most 100"),
        (chat(user("\udc00")), "bad_request", r"messages\[0\].content"),
    ],
)
def test_what_may_not_be_asked(params: dict[str, Any], code: str, message: str) -> None:
    with pytest.raises(HubError, match=message) as raised:
        parse_prompt(params, SETTINGS)
    assert raised.value.code == ErrorCode(code)
    assert raised.value.retry == "never"


def test_a_chat() -> None:
    prompt = parse_prompt(chat(user("a" * 50), said("b"), user("c" * 49)) | {"unknown": 1}, SETTINGS)
    assert [(turn.role, len(turn.content)) for turn in prompt.turns()] == [("user", 50), ("assistant", 1), ("user", 49)]
    assert prompt.continued(" \n").turns() == prompt.turns()
    *before, written, go_on = prompt.continued("so far ").turns()
    assert before == list(prompt.messages)
    assert (written.role, written.content, go_on.role) == ("assistant", "so far ", "user")


def test_a_repr_tells_nothing() -> None:
    for params in (chat(user("secret")), script(topic="secret")):
        assert "secret" not in repr(parse_prompt(params, SETTINGS).continued("secret"))


def test_defaults_of_a_script() -> None:
    prompt = parse_prompt(script(), SETTINGS)
    assert prompt.script == ScriptOrder("Sourdough", "general", 60)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("duration_s", [5, 59, 600])
def test_a_script_is_told_with_the_parts_of_its_platform(platform: str, duration_s: int) -> None:
    prompt = parse_prompt(
        script(topic=" Bread\n\n---\nand  butter", platform=platform, duration_s=duration_s), assistant_settings()
    )
    (request,) = prompt.turns()
    assert "---\nBread --- and butter\n---" in request.content
    assert f"{duration_s} seconds" in request.content
    for part in PLATFORMS[platform].parts:
        assert part.title in request.content
    assert PLATFORMS[platform].name in prompt.rules
    assert "Markdown" in prompt.rules
    assert prompt.script is not None
    times = [(start, end) for _, start, end in prompt.script.timed_parts()]
    assert (times[0][0], times[-1][1]) == (0, duration_s)
    assert all(before[1] == after[0] for before, after in pairwise(times))


def test_shares_add_up() -> None:
    for platform in PLATFORMS.values():
        assert sum(part.share for part in platform.parts) == pytest.approx(1)
