"""The built-in writer: Markdown without a key and without a network, the same for the same prompt.

It has nothing to say. It shows what a text looks like while it is written: headings, lists, a table, code, emphasis.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator

from services.content.assistant.prompt import Prompt
from services.content.assistant.scripts import PLATFORMS, ScriptOrder, clock

_PIECES = re.compile(r"\s*\S+|\s+\Z")
_FENCE = re.compile(r"^ {0,3}```", re.MULTILINE)
_QUOTED_CHARACTERS = 120


class OfflineWriter:
    """The provider ``offline``; it writes ``words_per_s`` and cannot fail."""

    name = "offline"

    def __init__(self, words_per_s: float) -> None:
        self._pause_s = 1 / words_per_s

    async def generate(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        """See ``Provider``. After somebody else's text it closes what is open and adds an ending of its own."""
        for piece in _PIECES.findall(offline_text(prompt)):
            await asyncio.sleep(self._pause_s)
            yield piece

    async def close(self) -> None:
        """See ``Provider``."""


def offline_text(prompt: Prompt) -> str:
    """All that it writes for ``prompt``."""
    if prompt.written.strip():
        fence = "\n```" if len(_FENCE.findall(prompt.written)) % 2 else ""
        return fence + _ENDING
    if prompt.script is not None:
        return _script(prompt.script)
    return _CHAT.format(question=_one_line(prompt.messages[-1].content), turns=len(prompt.messages))


def _script(order: ScriptOrder) -> str:
    platform = PLATFORMS[order.platform]
    topic = _one_line(order.topic)
    parts = order.timed_parts()
    text = [f"# {topic}\n\n*A script of {clock(order.duration_s)} for {platform.name}.* {platform.manner}\n\n"]
    for part, start, end in parts:
        text.append(
            f"## {part.title} ({clock(start)}–{clock(end)})\n\n"
            f"Here we talk about **{topic}**: {part.purpose}. "
            f"There is room for about {max(3, round((end - start) * platform.words_per_s))} words.\n\n"
            f"- *Seen:* {part.title.lower()}, one clear picture\n"
            f"- *Heard:* a calm voice; ~~music~~ silence where it matters\n\n"
        )
    rows = "".join(f"| {clock(start)}–{clock(end)} | {part.title} | {part.purpose} |\n" for part, start, end in parts)
    text.append(f"| time | part | what for |\n|---|---|---|\n{rows}\n")
    text.append(
        f"```yaml\nplatform: {order.platform}\nduration_s: {order.duration_s}\nwords: {order.words}\n```\n\n"
        "1. Read it aloud once, with a watch.\n2. Strike out every word that is not missed.\n\n"
        "> Written by the built-in writer. Set `HUB_ASSISTANT_PROVIDERS` for one that knows the topic.\n"
    )
    return "".join(text)


def _one_line(text: str) -> str:
    """As much of it as fits on a line, with nothing that Markdown would read as more than words."""
    line = re.sub(r"[\\`*_\[\]<>|#~]+", " ", text)
    line = " ".join(line.split()) or "your question"
    return line if len(line) <= _QUOTED_CHARACTERS else line[: _QUOTED_CHARACTERS - 1].rstrip() + "…"


_CHAT = """\
## About: {question}

This is the **built-in writer**. It needs *neither a key nor a network*, and knows nothing: it shows how an answer \
arrives while it is written.

- It read your last message; the conversation has {turns} so far.
- It writes the same answer to the same question, every time.
- A real model answers as soon as one is set up:

```sh
export HUB_ASSISTANT_PROVIDERS=openai,offline
export HUB_ASSISTANT_OPENAI_MODEL=…
hub serve
```

| provider | needs | writes |
|---|---|---|
| `openai` | a model, most often a key | what its model knows |
| `anthropic` | a model and a key | what its model knows |
| `offline` | nothing | this |

> A stream that breaks is taken up where it stopped. Try it: reload the page while this is being written.

1. Ask something else.
2. Watch the text unfold.
"""

_ENDING = """

---

*The text above breaks off: whoever wrote it is gone, and only the **built-in writer** is left. It ends it in good \
order and adds nothing.*
"""
