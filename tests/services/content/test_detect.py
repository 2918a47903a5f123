"""Types found out and declared; choices checked."""

from __future__ import annotations

import pytest

from hub.api import ErrorCode, HubError
from services.content.pipeline.detect import ContentType, detect, one_of
from services.content.pipeline.units import Unit


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("just a line", "text"),
        ("2 < 3 and 5 > 4", "text"),
        ("a * b * c, see e.g. [1] and snake_case", "text"),
        ("<p>a</p>", "html"),
        ("<!DOCTYPE html><html>", "html"),
        ("<!-- c --><p>a</p>", "html"),
        ("hello <b>you</b>", "html"),
        ("<h1># not a heading</h1>", "html"),
        ("# Title", "markdown"),
        ("some **bold** text", "markdown"),
        ("- a\n- b", "markdown"),
        ("1. a", "markdown"),
        ("use `<div>` here", "markdown"),
        ("```\n<p>\n```", "markdown"),
        ("| a | b |\n|---|---|", "markdown"),
        ("[a](https://e.example)", "markdown"),
        ("a\n<br>\n- b", "markdown"),
    ],
)
def test_the_type_is_found_out(source: str, expected: str) -> None:
    assert detect(source) is ContentType(expected)


def test_detection_looks_at_the_beginning_only() -> None:
    assert detect("x" * 20_000 + "<p>") is ContentType.TEXT
    assert detect("[" * 10_000 + "`" + "*" * 10_000) is ContentType.TEXT


def test_an_unknown_choice_is_named() -> None:
    assert one_of(Unit, "word", "chunk_by") is Unit.WORD
    for value in ("letter", 7, None):
        with pytest.raises(HubError, match="chunk_by is one of: auto, word, sentence, paragraph") as refused:
            one_of(Unit, value, "chunk_by")
        assert refused.value.code is ErrorCode.BAD_REQUEST
