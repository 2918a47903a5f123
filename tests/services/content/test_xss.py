"""The corpus: over 1000 cases by kind, each as HTML, Markdown and text, whole and live; nothing of it survives.

``tests/markup/xss_cases.json`` holds name and source. The same cases are for the tests in a browser.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hub.api import ErrorCode, HubError
from hub.markup.findings import Finding
from hub.markup.sanitise import Sanitiser
from services.content.pipeline.chunks import Chunk
from services.content.pipeline.detect import ContentType
from services.content.pipeline.pipeline import Pipeline
from services.content.pipeline.units import Unit
from tests.markup.safety import TAGS, faults
from tests.services.content.shown import prefixes

CASES: dict[str, str] = json.loads((Path(__file__).parents[2] / "markup" / "xss_cases.json").read_text())
PIPELINE = Pipeline()
SANITISER = Sanitiser(100)

# By the beginning of a case's name: what is counted in it when it comes as HTML.
COUNTED = {
    "script-": {Finding.SCRIPT, Finding.CONTROL, Finding.FOREIGN},
    "handler-1": {Finding.HANDLER},
    "link-scheme": {Finding.ADDRESS, Finding.BIDI},
    "embed-": {Finding.EMBED, Finding.HANDLER, Finding.ADDRESS},
    "svg-math": {Finding.FOREIGN, Finding.HANDLER, Finding.SCRIPT},
}
# Nothing in these is what it tries to look like, to a browser either.
QUIET = {"script-11", "script-35", "link-scheme-34", "link-scheme-35", "link-scheme-52", "embed-32", "svg-math-50"}


# Elsewhere in an address it is no scheme.
SCRIPT = re.compile(r"^[^\w/?#]*[a-z]*script:|^data:|url|expression")


class Strict(HTMLParser):
    """A second pair of eyes, of another make."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            self.bad.append(tag)
        for name, value in attrs:
            squeezed = "".join((value or "").split()).lower()
            if name.startswith("on") or (name in ("href", "src", "style") and SCRIPT.search(squeezed)):
                self.bad.append(f"{name}={value}")

    def handle_comment(self, data: str) -> None:
        self.bad.append(f"comment {data}")

    def handle_decl(self, decl: str) -> None:
        self.bad.append(f"declaration {decl}")

    def handle_pi(self, data: str) -> None:
        self.bad.append(f"instruction {data}")


def streams(source: str) -> Iterator[list[Chunk]]:
    """Every way in which a source can come."""
    for kind in ContentType:
        for unit in (Unit.WORD, Unit.PARAGRAPH):
            yield list(PIPELINE.document(source, kind, unit).document.chunks())
    for kind in (ContentType.MARKDOWN, ContentType.TEXT):
        live = PIPELINE.live(kind)
        chunks = [chunk for character in source for chunk in live.feed(character)]
        yield chunks + live.finish()


@pytest.mark.parametrize("name", CASES)
def test_no_prefix_does_anything(name: str) -> None:
    try:
        for chunks in streams(CASES[name]):
            for prefix in prefixes(chunks):
                assert faults(prefix) == []
                assert SANITISER.clean(prefix) == prefix
                parser = Strict()
                parser.feed(prefix)
                parser.close()
                assert parser.bad == []
    except HubError as error:
        if error.code is not ErrorCode.EMPTY_CONTENT:
            raise


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(tuple(COUNTED)) and name not in QUIET])
def test_it_is_counted(name: str) -> None:
    prepared = PIPELINE.document(CASES[name], ContentType.HTML)
    try:
        prepared.document.html  # noqa: B018 - makes it
    except HubError as error:
        if error.code is not ErrorCode.EMPTY_CONTENT:
            raise
    expected = next(found for start, found in COUNTED.items() if name.startswith(start))
    assert expected & set(prepared.findings), prepared.findings


def test_the_corpus_is_large_enough() -> None:
    assert len(CASES) >= 300
    assert len(set(CASES.values())) == len(CASES)
