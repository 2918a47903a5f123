"""Assembling content of several parts: who comes late, what is lost, what begins anew."""

from __future__ import annotations

from typing import Any

import pytest

from hub.client.content import ContentAssembler


def block(run: str, index: int, number: int, html: str) -> list[dict[str, Any]]:
    chunk = {"run": run, "index": index, "op": "open", "block": number, "html": html, "text": html}
    return [chunk, {**chunk, "index": index + 1, "op": "close", "html": "", "text": "\n"}]


def start(run: str, index: int, number: int) -> dict[str, Any]:
    return {"run": run, "index": index, "block": number}


def assembled(*parts: list[dict[str, Any]]) -> ContentAssembler:
    document = ContentAssembler()
    for part in parts:
        for chunk in part:
            document.apply(chunk)
    return document


def test_who_comes_when_the_beginning_is_not_kept_any_more_begins_with_what_is_there() -> None:
    document = ContentAssembler()
    assert not document.begin(start("b", 8, 3))
    for chunk in [*block("b", 8, 3, "<p>3</p>"), *block("b", 10, 4, "<p>4</p>")]:
        assert document.apply(chunk)
    assert not document.begin(start("c", 12, 5))
    assert document.blocks == ["<p>3</p>", "<p>4</p>"]


def test_a_part_that_follows_takes_nothing_away() -> None:
    document = assembled(block("a", 0, 0, "<p>0</p>"))
    assert not document.begin(start("b", 2, 1))
    document.apply(block("b", 2, 1, "<p>1</p>")[0])
    assert not document.begin(start("a", 0, 0)), "a repetition"
    assert document.html == "<p>0</p><p>1</p>"


@pytest.mark.parametrize(("index", "number", "left"), [(0, 0, ""), (2, 1, "<p>0</p>"), (4, 2, "<p>0</p><p>1</p>")])
def test_a_stream_that_begins_anew_replaces_what_was_lost(index: int, number: int, left: str) -> None:
    document = ContentAssembler()
    document.begin(start("a", 0, 0))
    chunks = [*block("a", 0, 0, "<p>0</p>"), *block("a", 2, 1, "<p>1</p>"), block("a", 4, 2, "<p>2</p>")[0]]
    for chunk in chunks:
        document.apply(chunk)
    assert document.begin(start("b", index, number))
    assert document.html == left
    assert not document.apply(chunks[-1]), "of the other one"
    for chunk in block("b", index, number, "<p>new</p>"):
        assert document.apply(chunk)
    assert document.html == left + "<p>new</p>"
    assert document.text.endswith("<p>new</p>\n")


def test_a_part_that_does_not_follow_is_a_hole() -> None:
    document = assembled(block("a", 0, 0, "<p>0</p>"))
    with pytest.raises(ValueError, match="began with chunk 4 where 2"):
        document.begin(start("b", 4, 2))


def test_what_begins_before_all_that_is_there_replaces_it() -> None:
    document = ContentAssembler()
    document.begin(start("b", 8, 3))
    for chunk in block("b", 8, 3, "<p>3</p>"):
        document.apply(chunk)
    assert document.begin(start("c", 0, 0))
    for chunk in block("c", 0, 0, "<p>0</p>"):
        document.apply(chunk)
    assert not document.begin(start("d", 2, 1))
    assert document.blocks == ["<p>0</p>"]
