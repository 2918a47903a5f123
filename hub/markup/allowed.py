"""What may reach an editor: the tags, attributes and values that Tiptap's nodes and marks need, and nothing else.

Tables only. ``fence`` reads them before the HTML parser, ``sanitise`` after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping


def words(text: str) -> frozenset[str]:
    """The words of a table's line."""
    return frozenset(text.split())


BLOCK_TAGS = words(
    "p h1 h2 h3 h4 h5 h6 ul ol li dl dt dd blockquote pre hr table caption colgroup col thead tbody tfoot tr td th "
    "div section article header footer main nav aside address figure figcaption details summary"
)
"""Tags that stand on lines of their own. Everything else flows within a line."""

INLINE_TAGS = words(
    "a abbr b bdi bdo br cite code del em i img input ins kbd label mark q s samp small span strike strong sub sup "
    "time u var wbr"
)
TAGS = BLOCK_TAGS | INLINE_TAGS
VOID_TAGS = words("br col hr img input wbr")
HEADINGS = words("h1 h2 h3 h4 h5 h6")

OPAQUE_TAGS = words("script style title textarea iframe noembed noframes noscript xmp plaintext template")
"""What stands inside them is no text of the document; it goes with them."""

# No id and no name: they would shadow variables of the page (DOM clobbering). No class but a code block's language:
# an application's own classes can cover its whole window.
_EVERYWHERE = frozenset({"dir", "lang", "style", "title"})
_CELL = frozenset({"colspan", "rowspan", "colwidth"})
CHECKBOX = {"type": "checkbox", "disabled": ""}
"""Every input becomes this: a task list's box. One that takes text could ask for a password."""

_OWN: Mapping[str, frozenset[str]] = {
    "a": frozenset({"href", "target"}),
    "code": frozenset({"class"}),
    "col": frozenset({"span"}),
    "colgroup": frozenset({"span"}),
    "details": frozenset({"open"}),
    "img": frozenset({"src", "alt", "width", "height"}),
    "input": frozenset({"checked", *CHECKBOX}),
    "li": frozenset({"data-checked", "data-type", "value"}),
    "mark": frozenset({"data-color"}),
    "ol": frozenset({"reversed", "start", "type"}),
    "pre": frozenset({"class"}),
    "span": frozenset({"data-id", "data-label", "data-type"}),
    "td": _CELL,
    "th": _CELL | {"scope"},
    "time": frozenset({"datetime"}),
    "ul": frozenset({"data-type"}),
}
ATTRIBUTES: Mapping[str, frozenset[str]] = {tag: _EVERYWHERE | _OWN.get(tag, frozenset()) for tag in TAGS}

SCHEMES = frozenset({"http", "https", "mailto", "tel"})
LINK_REL = "noopener noreferrer nofollow"
MAX_VALUE_CHARS = 1000
MAX_URL_CHARS = 2048
MAX_ATTRIBUTES = 32
"""A tag's attributes after that many are dropped: parsers compare each with each."""

_COLOUR = r"#[0-9a-f]{3,8}|[a-z]{3,24}|(?:rgb|hsl)a?\([0-9.,%/ ]{1,40}\)"
_LENGTH = r"(?:\d{1,4}(?:\.\d{1,4})?(?:px|em|rem|pt|%|ch)?|auto)"
_STYLE: Mapping[str, str] = {
    "background-color": _COLOUR,
    "color": _COLOUR,
    "font-family": r"[a-z0-9 ,_'-]{1,100}",
    "font-size": _LENGTH,
    "font-style": "normal|italic|oblique",
    "font-weight": r"normal|bold|bolder|lighter|[1-9]00",
    "height": _LENGTH,
    "line-height": r"\d{1,2}(?:\.\d{1,3})?|normal",
    "min-width": _LENGTH,
    "text-align": "left|right|center|justify|start|end",
    "text-decoration": "none|underline|line-through|underline line-through|line-through underline",
    "vertical-align": "baseline|sub|super|top|middle|bottom",
    "width": _LENGTH,
}
_STYLE_VALUES = {name: re.compile(pattern, re.IGNORECASE | re.ASCII) for name, pattern in _STYLE.items()}
_SCHEME = re.compile(r"[^:/?#]*:")


def safe_style(value: str) -> str | None:
    """The declarations that are safe, in canonical form; None when there are none.

    A value must match in full what its property may be, so that no url(), escape, comment or function gets by.
    """
    kept = []
    for declaration in value.split(";"):
        name, _, what = declaration.partition(":")
        name, what = name.strip().lower(), what.strip()
        pattern = _STYLE_VALUES.get(name)
        if pattern is not None and pattern.fullmatch(what):
            kept.append(f"{name}: {what}")
    return "; ".join(kept) or None


def safe_link(value: str) -> str | None:
    """An address with a safe scheme, or a relative one."""
    if len(value) > MAX_URL_CHARS or not value.isprintable() or " " in value:
        return None
    scheme = _SCHEME.match(value)
    return value if scheme is None or scheme[0][:-1].lower() in SCHEMES else None


def safe_image(value: str) -> str | None:
    """An address that begins with https://; anything else could be a script, a tracker in clear text or a bomb."""
    return safe_link(value) if value[:8].lower() == "https://" else None


def _short(value: str) -> str | None:
    return value if len(value) <= MAX_VALUE_CHARS else None


def _flag(_value: str) -> str:
    return ""


def _matching(pattern: str) -> Callable[[str], str | None]:
    whole = re.compile(pattern, re.ASCII).fullmatch
    return lambda value: value if whole(value) else None


_SAFE_VALUES: Mapping[str, Callable[[str], str | None]] = {
    "alt": _short,
    "checked": _flag,
    "class": _matching(r"language-[A-Za-z0-9_+#.-]{1,40}"),
    "colspan": _matching(r"[1-9]\d{0,2}"),
    "colwidth": _matching(r"\d{1,5}(?:,\d{1,5}){0,99}"),
    "data-checked": _matching("true|false"),
    "data-color": _matching(f"(?i:{_COLOUR})"),
    "data-id": _short,
    "data-label": _short,
    "data-type": _matching("taskList|taskItem|mention"),
    "datetime": _matching(r"[0-9A-Za-z:+. -]{1,40}"),
    "dir": _matching("(?i:ltr|rtl|auto)"),
    "disabled": _flag,
    "height": _matching(r"\d{1,4}%?"),
    "href": safe_link,
    "lang": _matching(r"[A-Za-z0-9-]{1,35}"),
    "open": _flag,
    "rel": _matching(LINK_REL),
    "reversed": _flag,
    "rowspan": _matching(r"[1-9]\d{0,2}"),
    "scope": _matching("row|col|rowgroup|colgroup"),
    "span": _matching(r"[1-9]\d{0,2}"),
    "src": safe_image,
    "start": _matching(r"-?\d{1,9}"),
    "style": safe_style,
    "target": _matching("_blank"),
    "title": _short,
    "type": _matching("[1aAiI]|checkbox"),
    "value": _matching(r"-?\d{1,9}"),
    "width": _matching(r"\d{1,4}%?"),
}


def safe_value(_tag: str, name: str, value: str) -> str | None:
    """An attribute's value as it may stand, or None; references in it are resolved, as a parser sees it."""
    safe = _SAFE_VALUES.get(name)
    return safe(value) if safe is not None else None
