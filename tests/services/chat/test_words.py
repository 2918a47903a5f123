"""Both vocabularies and the bodies of clients: pure functions, by what comes out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hub.errors import ErrorCode, HubError
from services.content.chat.ai_sdk import UiMessageStream
from services.content.chat.bodies import UiBody
from services.content.chat.sse import ServerSentEvents, event
from services.content.chat.words import Metrics
from services.content.pipeline import Chunk, Complexity
from tests.services.chat.reading import events, parts

METRICS = Metrics("s", "openai", 5, 2, 8.0, Complexity.LOW, 0.3)
CHUNKS = [Chunk(0, "open", 0, "<p>one</p>", "one"), Chunk(1, "close", 0, "", "\n")]
FAILED = HubError(ErrorCode.UPSTREAM_FAILED, "openai failed", retry_after_ms=1500, details={"provider": "openai"})
ERROR = {
    "code": "upstream_failed",
    "message": "openai failed",
    "retry": "later",
    "retry_after_ms": 1500,
    "details": {"provider": "openai"},
}


def test_server_sent_events() -> None:
    words = ServerSentEvents()
    told = words.start("s") + words.text("one", CHUNKS) + words.text("", []) + words.complete(METRICS)
    assert events(told.decode()) == [
        ("stream_start", {"stream": "s"}, None),
        ("chunk", {"index": 0, "op": "open", "block": 0, "html": "<p>one</p>", "text": "one"}, "0"),
        ("chunk", {"index": 1, "op": "close", "block": 0, "html": "", "text": "\n"}, "1"),
        ("stream_complete", msgspec.to_builtins(METRICS), None),
    ]
    assert events(words.error(FAILED).decode()) == [("stream_error", ERROR, None)]


@pytest.mark.parametrize("text", ["a\nb", "a\r\n\r\nevent: x", "\u2028", "data: [DONE]\n\n"])
def test_no_text_can_end_its_event(text: str) -> None:
    assert events(event("chunk", {"text": text}).decode()) == [("chunk", {"text": text}, None)]


def test_ui_message_stream() -> None:
    words = UiMessageStream()
    told = words.start("s") + words.text("one ", CHUNKS) + words.text("", []) + words.text("two", [])
    assert parts((told + words.complete(METRICS)).decode()) == [
        {"type": "start", "messageId": "s"},
        {"type": "start-step"},
        {"type": "text-start", "id": "text-0"},
        {"type": "text-delta", "id": "text-0", "delta": "one "},
        {"type": "text-delta", "id": "text-0", "delta": "two"},
        {"type": "text-end", "id": "text-0"},
        {"type": "finish-step"},
        {"type": "finish"},
    ]


def test_ui_message_stream_with_chunks() -> None:
    words = UiMessageStream(with_chunks=True)
    told = parts((words.text("one", CHUNKS) + words.complete(METRICS)).decode())
    chunks = [part for part in told if part["type"] == "data-chunk"]
    assert chunks == [{"type": "data-chunk", "data": msgspec.to_builtins(chunk), "transient": True} for chunk in CHUNKS]


def test_ui_message_stream_that_fails() -> None:
    ending = [
        {"type": "data-error", "data": ERROR, "transient": True},
        {"type": "error", "errorText": "openai failed"},
    ]
    silent, spoken = UiMessageStream(), UiMessageStream()
    assert parts(silent.error(FAILED).decode()) == ending
    told = parts((spoken.text("one", []) + spoken.error(FAILED)).decode())
    assert told[-3:] == [{"type": "text-end", "id": "text-0"}, *ending]


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["a\r", "\nb"], "a\nb"),
        (["a\r", "b\r"], "a\nb\n"),
        (["\r"], "\n"),
        (["a\x00\u202eb", "\x07", "c\u2066"], "abc"),
        (["é", "👩‍👩‍👧"], "é👩‍👩‍👧"),
    ],
)
def test_the_text_is_cleaned_across_pieces(pieces: list[str], text: str) -> None:
    words = UiMessageStream()
    told = b"".join(words.text(piece, []) for piece in pieces) + words.complete(METRICS)
    deltas = [part["delta"] for part in parts(told.decode()) if part["type"] == "text-delta"]
    assert "".join(deltas) == text
    assert all(deltas)


def conversation(*messages: tuple[str, list[dict[str, Any]]]) -> list[tuple[str, str]]:
    body = {
        "id": "c",
        "trigger": "submit-message",
        "messages": [{"id": "m", "role": r, "parts": p} for r, p in messages],
    }
    found = msgspec.json.decode(msgspec.json.encode(body), type=UiBody).conversation()
    return [(message.role, message.content) for message in found]


def text(*texts: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, "state": "done"} for text in texts]


def test_what_use_chat_sends() -> None:
    assert conversation(
        ("user", text("one")),
        ("assistant", [{"type": "step-start"}, {"type": "reasoning", "text": "hm"}, *text("two", "three")]),
        ("user", [{"type": "file", "url": "data:,x"}, *text("four")]),
    ) == [("user", "one"), ("assistant", "two\n\nthree"), ("user", "four")]


def test_messages_without_text_go_but_for_the_last() -> None:
    nothing = [{"type": "tool-x", "output": {"text": {}}}]
    assert conversation(("user", text("one")), ("assistant", nothing), ("user", nothing), ("user", text("two"))) == [
        ("user", "one"),
        ("user", "two"),
    ]
    assert conversation(("user", text("one")), ("user", nothing)) == [("user", "one"), ("user", "")]
    assert conversation() == []


def test_a_greeting_is_the_pages_own() -> None:
    assert conversation(("assistant", text("Hello!")), ("assistant", text("?")), ("user", text("one"))) == [
        ("user", "one")
    ]
    assert conversation(("assistant", text("Hello!"))) == [("assistant", "Hello!")]


def test_a_text_that_is_none() -> None:
    with pytest.raises(HubError, match=r"messages\[0\]"):
        conversation(("user", [{"type": "text", "text": 5}]))
    with pytest.raises(msgspec.ValidationError, match="role"):
        conversation(("system", text("You are a pirate")))
