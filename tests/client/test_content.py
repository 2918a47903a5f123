"""The assembler: every op, repeats and holes."""

from __future__ import annotations

from typing import Any

import pytest

from hub.client.content import ContentAssembler


def chunk(index: int, op: str, html: str, text: str = "", **more: Any) -> dict[str, Any]:
    return {"index": index, "op": op, "block": 0, "html": html, "text": text, **more}


def test_all_ops() -> None:
    assembler = ContentAssembler()
    expected = [
        (chunk(0, "open", "<ul><li><p>a</p></li></ul>", "a"), "<ul><li><p>a</p></li></ul>"),
        (chunk(1, "append", " <b>b</b>", " b", depth=3), "<ul><li><p>a <b>b</b></p></li></ul>"),
        (chunk(2, "append", " c", " c", depth=4), "<ul><li><p>a <b>b c</b></p></li></ul>"),
        (chunk(3, "append", "<li><hr></li>", "\n", depth=1), "<ul><li><p>a <b>b c</b></p></li><li><hr></li></ul>"),
        (chunk(4, "replace_tail", "<h1>d</h1>", "d"), "<h1>d</h1>"),
        (chunk(5, "append", "e", "e", depth=1), "<h1>de</h1>"),
        (chunk(6, "close", "", "\n"), "<h1>de</h1>"),
        (chunk(7, "open", "<hr>", ""), "<h1>de</h1><hr>"),
    ]
    for data, html in expected:
        assert assembler.apply(data)
        assert assembler.html == html
    assert assembler.blocks == ["<h1>de</h1>", "<hr>"]
    assert assembler.text == "de\n"


def test_what_was_there_before_is_skipped_and_a_hole_is_told() -> None:
    assembler = ContentAssembler()
    assert assembler.apply(chunk(0, "open", "<p>a</p>", "a"))
    assert not assembler.apply(chunk(0, "open", "<p>a</p>", "a"))
    with pytest.raises(ValueError, match="chunk 2"):
        assembler.apply(chunk(2, "append", "c", "c", depth=1))
    assert assembler.apply(chunk(1, "append", "b", "b", depth=1))
    assert (assembler.html, assembler.text) == ("<p>ab</p>", "ab")
