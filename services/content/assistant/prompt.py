"""What a client may ask for: params of ``assistant.generate`` -> a checked ``Prompt``.

How a script is asked for is in ``scripts``; how a provider is told is the provider's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from hub.api import ErrorCode, HubError, Settings, bad_request
from services.content.assistant.scripts import CHAT_RULES, PLATFORMS, ScriptOrder, script_request, script_rules

SHORTEST_SCRIPT_S = 5

CONTINUE = (
    "Your answer above was cut off. Go on exactly where it stops, in the middle of a word if need be. "
    "Repeat nothing of it, and say nothing about the interruption."
)


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str

    def __repr__(self) -> str:
        """Without the content, which does not belong into logs."""
        return f"<Message of {self.role}>"


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be written. Every text in it can be encoded as UTF-8; first and last message are the user's."""

    kind: Literal["script", "chat"]
    rules: str = field(repr=False)
    messages: tuple[Message, ...] = field(repr=False)
    script: ScriptOrder | None = None
    written: str = field(default="", repr=False)
    """What another provider had written when it failed; the text goes on after it."""

    def continued(self, written: str) -> Prompt:
        """The same, for a provider that takes over after ``written``."""
        return replace(self, written=written)

    def params(self) -> dict[str, Any]:
        """What ``parse_prompt`` makes this of again."""
        if self.script is not None:
            order = self.script
            return {"kind": "script", "topic": order.topic, "platform": order.platform, "duration_s": order.duration_s}
        return {"kind": "chat", "messages": [{"role": said.role, "content": said.content} for said in self.messages]}

    def turns(self) -> Sequence[Message]:
        """The conversation as a provider is given it.

        What is written stands as the assistant's own turn, with a request to go on after it: a text to be completed
        (prefill) is refused by many models.
        """
        if not self.written.strip():
            return self.messages
        return (*self.messages, Message("assistant", self.written), Message("user", CONTINUE))


class _Script(msgspec.Struct, frozen=True, tag_field="kind", tag="script"):
    topic: str
    platform: str = "general"
    duration_s: int = 60


class _Chat(msgspec.Struct, frozen=True, tag_field="kind", tag="chat"):
    messages: list[Message]


def parse_prompt(params: Mapping[str, Any], settings: Settings) -> Prompt:
    """A prompt from the params of ``assistant.generate``; unknown fields are ignored.

    Raises ``HubError``: ``bad_request``, ``empty_content``, ``too_large``.
    """
    try:
        wanted = msgspec.convert(params, _Script | _Chat)
    except msgspec.ValidationError as error:
        raise bad_request(f"assistant.generate: {error}") from error
    return _script(wanted, settings) if isinstance(wanted, _Script) else chat_prompt(wanted.messages, settings)


def _script(wanted: _Script, settings: Settings) -> Prompt:
    _bounded("the topic", _utf8_bytes("topic", wanted.topic), settings.assistant_max_topic_bytes)
    topic = " ".join(wanted.topic.split())
    if not topic:
        raise HubError(ErrorCode.EMPTY_CONTENT, "'topic' is empty; say what the script is about")
    if wanted.platform not in PLATFORMS:
        raise bad_request(f"'platform' must be one of {', '.join(PLATFORMS)}")
    longest = settings.assistant_max_duration_s
    if not SHORTEST_SCRIPT_S <= wanted.duration_s <= longest:
        raise bad_request(f"'duration_s' must be between {SHORTEST_SCRIPT_S} and {longest}")
    order = ScriptOrder(topic, wanted.platform, wanted.duration_s)
    return Prompt("script", script_rules(order), (Message("user", script_request(order)),), order)


def chat_prompt(messages: Sequence[Message], settings: Settings) -> Prompt:
    """A prompt of kind ``chat``. Raises as ``parse_prompt`` does."""
    if not messages:
        raise HubError(ErrorCode.EMPTY_CONTENT, "'messages' is empty; send at least one of role user")
    if len(messages) > settings.assistant_max_messages:
        raise HubError(ErrorCode.TOO_LARGE, f"{len(messages)} messages; at most {settings.assistant_max_messages}")
    total = 0
    for index, message in enumerate(messages):
        if not message.content.strip():
            raise HubError(ErrorCode.EMPTY_CONTENT, f"messages[{index}] has no content")
        total += _utf8_bytes(f"messages[{index}].content", message.content)
    _bounded("the messages together", total, settings.assistant_max_prompt_bytes)
    if messages[0].role != "user" or messages[-1].role != "user":
        raise bad_request("the first and the last of 'messages' must be of role user")
    return Prompt("chat", CHAT_RULES, tuple(messages))


def _utf8_bytes(name: str, text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise bad_request(f"'{name}' holds half a surrogate pair") from error


def _bounded(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise HubError(ErrorCode.TOO_LARGE, f"{what}: {size} bytes; at most {limit}")
