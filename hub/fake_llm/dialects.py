"""The two APIs as bytes: streams of server-sent events, whole answers, errors. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from hub.fake_llm.behaviour import End

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}

# How an end is called: in order; at the model's limit; against the model's will.
_OPENAI_REASONS: dict[End, str] = {"length": "length", "withheld": "content_filter"}
_ANTHROPIC_REASONS: dict[End, str] = {"length": "max_tokens", "withheld": "refusal"}


class Dialect(Protocol):
    """One API. Each method gives the bytes of one part of an answer."""

    name: str
    path: str

    def opening(self, model: str) -> bytes:
        """What comes before the first token."""
        ...

    def token(self, model: str, text: str) -> bytes:
        """A piece of text; also one that ends in half a surrogate pair."""
        ...

    def closing(self, model: str, end: End, tokens: int) -> bytes:
        """What comes after the last token."""
        ...

    def sign_of_life(self) -> bytes:
        """Something that is no text."""
        ...

    def error_event(self) -> bytes:
        """A failure in the middle of the stream."""
        ...

    def error(self, status: int, kind: str) -> bytes:
        """The body of an answer that is an error."""
        ...

    def whole(self, model: str, text: str, end: End, tokens: int) -> bytes:
        """An answer that was not to be streamed."""
        ...


class OpenAi:
    """Chat completions."""

    name = "openai"
    path = "/v1/chat/completions"

    def opening(self, model: str) -> bytes:
        """See ``Dialect``."""
        return self._chunk(model, [_choice({"role": "assistant", "content": ""})])

    def token(self, model: str, text: str) -> bytes:
        """See ``Dialect``."""
        return self._chunk(model, [_choice({"content": text})])

    def closing(self, model: str, end: End, tokens: int) -> bytes:
        """See ``Dialect``. With the usage in a chunk without choices, as it comes when asked for."""
        reason = self._chunk(model, [_choice({}, _OPENAI_REASONS.get(end, "stop"))])
        return reason + self._chunk(model, [], usage=_usage(tokens)) + b"data: [DONE]\n\n"

    def sign_of_life(self) -> bytes:
        """See ``Dialect``."""
        return b": still thinking\n\n"

    def error_event(self) -> bytes:
        """See ``Dialect``."""
        return _event({"error": {"message": "The server had an error", "type": "server_error", "code": None}})

    def error(self, status: int, kind: str) -> bytes:
        """See ``Dialect``. Real ones repeat a part of the key; so does this one, for whoever would show it."""
        kind = kind or _ERROR_TYPES.get(status, "server_error")
        return _json(
            {"error": {"message": "Incorrect API key provided: sk-**", "type": kind, "param": None, "code": kind}}
        )

    def whole(self, model: str, text: str, end: End, tokens: int) -> bytes:
        """See ``Dialect``."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": _OPENAI_REASONS.get(end, "stop"), "logprobs": None}
        return _json({**_completion(model, "chat.completion"), "choices": [choice], "usage": _usage(tokens)})

    def _chunk(self, model: str, choices: Sequence[dict[str, Any]], **more: Any) -> bytes:
        return _event({**_completion(model, "chat.completion.chunk"), "choices": choices, **more})


class Anthropic:
    """Messages."""

    name = "anthropic"
    path = "/v1/messages"

    def opening(self, model: str) -> bytes:
        """See ``Dialect``."""
        block = {"index": 0, "content_block": {"type": "text", "text": ""}}
        start = {"message": _message(model, [], None, 0)}
        return _named("message_start", start) + _named("content_block_start", block) + self.sign_of_life()

    def token(self, model: str, text: str) -> bytes:
        """See ``Dialect``."""
        return _named("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": text}})

    def closing(self, model: str, end: End, tokens: int) -> bytes:
        """See ``Dialect``."""
        delta = {"stop_reason": _ANTHROPIC_REASONS.get(end, "end_turn"), "stop_sequence": None}
        return (
            _named("content_block_stop", {"index": 0})
            + _named("message_delta", {"delta": delta, "usage": {"output_tokens": tokens}})
            + _named("message_stop", {})
        )

    def sign_of_life(self) -> bytes:
        """See ``Dialect``."""
        return _named("ping", {})

    def error_event(self) -> bytes:
        """See ``Dialect``."""
        return _named("error", {"error": {"type": "overloaded_error", "message": "Overloaded"}})

    def error(self, status: int, kind: str) -> bytes:
        """See ``Dialect``."""
        kind = kind or _ERROR_TYPES.get(status, "api_error")
        return _json({"type": "error", "error": {"type": kind, "message": "invalid x-api-key sk-**"}})

    def whole(self, model: str, text: str, end: End, tokens: int) -> bytes:
        """See ``Dialect``."""
        reason = _ANTHROPIC_REASONS.get(end, "end_turn")
        return _json(_message(model, [{"type": "text", "text": text}], reason, tokens))


DIALECTS: dict[str, Dialect] = {dialect.path: dialect for dialect in (OpenAi(), Anthropic())}


def _completion(model: str, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-fake", "object": kind, "created": 1_700_000_000, "model": model}


def _choice(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}


def _message(model: str, content: list[dict[str, Any]], reason: str | None, tokens: int) -> dict[str, Any]:
    return {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": tokens},
    }


def _named(kind: str, data: dict[str, Any]) -> bytes:
    return f"event: {kind}\n".encode() + _event({"type": kind, **data})


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + _json(data) + b"\n\n"


def _json(data: dict[str, Any]) -> bytes:
    """The standard library's: it writes half a surrogate pair as the escape that it is."""
    return json.dumps(data, separators=(",", ":")).encode("ascii")
