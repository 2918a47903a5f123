"""What clients send to the chat route: our own body, and that of the AI SDK's ``useChat``. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from hub.api import bad_request
from services.content.assistant import Message


class ChatBody(msgspec.Struct, frozen=True):
    """Our own body; unknown fields are ignored."""

    messages: list[Message]
    provider: str | None = None


class UiPart(msgspec.Struct, frozen=True):
    """A part of a message. Of types that are not ``text`` nothing else is looked at."""

    type: str
    text: Any = None

    def __repr__(self) -> str:
        """Without the text, which does not belong into logs."""
        return f"<UiPart {self.type}>"


class UiMessage(msgspec.Struct, frozen=True):
    """A message as ``useChat`` keeps it."""

    role: Literal["user", "assistant"]
    parts: list[UiPart]


class UiBody(msgspec.Struct, frozen=True):
    """The body of ``DefaultChatTransport``; ``provider`` comes from its option ``body``. Other fields are ignored."""

    messages: list[UiMessage]
    provider: str | None = None

    def conversation(self) -> Sequence[Message]:
        """The texts of the messages. Files, tools, reasoning and whatever else there may be is left out.

        What is then empty goes, but for the last message: an answer that never came, a file alone. So does what an
        assistant said before anybody asked: a greeting is the page's own. Raises ``bad_request``.
        """
        messages = list(self._texts())
        kept = [message for message in messages[:-1] if message.content.strip()] + messages[-1:]
        while len(kept) > 1 and kept[0].role == "assistant":
            del kept[0]
        return kept

    def _texts(self) -> Iterator[Message]:
        for number, message in enumerate(self.messages):
            texts = [part.text for part in message.parts if part.type == "text"]
            if not all(isinstance(text, str) for text in texts):
                raise bad_request(f"messages[{number}]: a part of type text has a 'text' that is no string")
            yield Message(message.role, "\n\n".join(texts))
