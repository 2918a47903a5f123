"""What "safe and well-formed" means, written down a second time: shares nothing with ``hub.markup`` but the intent."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator


def _words(text: str) -> set[str]:
    return set(text.split())


VOID = _words("br col hr img input wbr")
_INLINE = _words(
    "br img input wbr a abbr b bdi bdo cite code del em i ins kbd label mark q s samp small span strike strong sub sup "
    "time u var"
)
TOP_LEVEL = _words(
    "p h1 h2 h3 h4 h5 h6 ul ol li dl dt dd blockquote pre hr table caption colgroup col thead tbody tfoot tr td th div "
    "section article header footer main nav aside address figure figcaption details summary"
)
TAGS = _INLINE | TOP_LEVEL
ATTRIBUTES = _words(
    "dir lang style title href target rel class span open src alt width height type checked disabled data-checked "
    "data-type data-color data-id data-label value reversed start colspan rowspan colwidth scope datetime"
)

_TOKEN = re.compile(r'<(/?)([a-z][a-z0-9]*)((?: [a-z-]+="[^"<>]*")*)>|([^<>]+)')
_ATTRIBUTE = re.compile(r' ([a-z-]+)="([^"]*)"')
_REFERENCE = re.compile(r"&(?!amp;|lt;|gt;|nbsp;|quot;)")
_UNWANTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_DECLARATION = re.compile(r"[a-z-]+: [#a-zA-Z0-9 ,.%/'_-]+(?:\([0-9., %/]+\))?")


def faults(markup: str) -> list[str]:
    """What is wrong with ``markup``; empty: it is well-formed and nothing in it can do anything."""
    found = []
    if _UNWANTED.search(markup):
        found.append("unwanted character")
    if _REFERENCE.search(markup):
        found.append("a reference that is cut or not canonical")
    stack: list[str] = []
    at = 0
    while at < len(markup):
        token = _TOKEN.match(markup, at)
        if token is None:
            return [*found, f"no token at {markup[at : at + 40]!r}"]
        at = token.end()
        found += _token_faults(*token.groups(), stack)
    return found + [f"{name} not closed" for name in stack]


def _token_faults(slash: str | None, name: str, attributes: str, text: str | None, stack: list[str]) -> Iterator[str]:
    if text is not None:
        if not stack:
            yield f"text outside of any block: {text[:40]!r}"
    elif slash:
        if not stack or stack.pop() != name:
            yield f"end tag {name} out of order"
    else:
        if name not in (TAGS if stack else TOP_LEVEL):
            yield f"tag {name}"
        if name not in VOID:
            stack.append(name)
        yield from _attribute_faults(name, attributes)


def _attribute_faults(tag: str, attributes: str) -> Iterator[str]:
    seen = dict(_ATTRIBUTE.findall(attributes))
    if len(seen) != len(_ATTRIBUTE.findall(attributes)):
        yield "an attribute twice"
    for name, written in seen.items():
        value = html.unescape(written)
        if name not in ATTRIBUTES or name.startswith("on"):
            yield f"attribute {name}"
        if name == "href" and not re.match(r"(?:https?|mailto|tel):|(?![^/?#]*:)", value, re.IGNORECASE):
            yield f"address {value!r}"
        if name == "src" and not value.lower().startswith("https://"):
            yield f"image {value!r}"
        if name == "style" and not all(_DECLARATION.fullmatch(one) for one in value.split("; ")):
            yield f"style {value!r}"
        if name == "class" and not value.startswith("language-"):
            yield f"class {value!r}"
    if tag == "a" and seen.get("rel") != "noopener noreferrer nofollow":
        yield "a link without rel"
    if tag == "input" and (seen.get("type") != "checkbox" or "disabled" not in seen):
        yield "an input that is no box"
