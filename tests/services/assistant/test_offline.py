"""The built-in writer: the same for the same prompt, well-formed Markdown, and an ending for what others began."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from services.content.assistant import parse_prompt
from services.content.assistant.offline import OfflineWriter, offline_text
from services.content.assistant.scripts import PLATFORMS
from tests.services.assistant.conftest import assistant_settings, chat, written

PROMPTS = [chat("What is *this*?"), chat("<script>`x`</script>" * 50), chat("**")] + [
    parse_prompt({"kind": "script", "topic": "Bread | and <b>butter</b>", "platform": platform}, assistant_settings())
    for platform in PLATFORMS
]


@pytest.mark.parametrize("prompt", PROMPTS, ids=repr)
async def test_it_shows_what_markdown_can_do(prompt: object) -> None:
    text, outcome = await written(assistant_settings(), prompt)  # type: ignore[arg-type]
    again, _ = await written(assistant_settings(), prompt)  # type: ignore[arg-type]
    assert text == again == offline_text(prompt)  # type: ignore[arg-type]
    assert (outcome.provider, outcome.error) == ("offline", None)
    html = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    for tag in ("<h2>", "<ul>", "<ol>", "<table>", "<pre>", "<strong>", "<em>", "<blockquote>"):
        assert tag in html
    assert "<b>" not in html
    assert "<script>" not in html


async def test_it_comes_word_by_word() -> None:
    pieces = [piece async for piece in OfflineWriter(1e6).generate(chat())]
    assert len(pieces) > 50
    assert all(len(piece.split()) <= 1 for piece in pieces)


@pytest.mark.parametrize(
    ("before", "fence"), [("# A\n\ntext", False), ("```py\nx = 1", True), ("```\na\n```\nb", False)]
)
def test_an_ending_closes_what_is_open(before: str, fence: bool) -> None:
    ending = offline_text(chat().continued(before))
    assert ending.startswith("\n```" if fence else "\n\n---")
    html = MarkdownIt("commonmark").render(before + ending)
    assert "<hr" in html
    assert "<strong>built-in writer</strong>" in html
