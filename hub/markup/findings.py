"""What looks like an attack, by kind: counted, never shown. Whatever is found here is harmless after ``sanitise``.

A count is for the log and the metrics; no decision hangs on it, so a false alarm costs nothing.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from enum import StrEnum

from hub.markup.allowed import SCHEMES, words


class Finding(StrEnum):
    """The kinds. The value is a metric's label."""

    SCRIPT = "script"  # a script element
    HANDLER = "handler"  # an on… attribute
    ADDRESS = "address"  # javascript:, vbscript:, data: and the like
    STYLE = "style"  # a style element; an expression, a url or an escape in CSS
    EMBED = "embed"  # another document, a form, a redirection
    FOREIGN = "foreign"  # SVG, MathML and templates: where mutation begins
    NESTING = "nesting"  # deeper than the limit
    COMPLEX = "complex"  # Markdown that takes the parser too long; it is shown as text
    CONTROL = "control"  # null bytes and other control characters, halves of surrogate pairs
    BIDI = "bidi"  # characters that reverse what follows


Findings = Counter[Finding]

_SUSPECT_TAGS = {
    **dict.fromkeys(("script",), Finding.SCRIPT),
    **dict.fromkeys(("style", "link"), Finding.STYLE),
    **dict.fromkeys(
        words(
            "iframe frame frameset fencedframe object embed applet layer portal form button textarea select base meta"
        ),
        Finding.EMBED,
    ),
    **dict.fromkeys(words("svg math template noscript xmp plaintext annotation-xml foreignobject"), Finding.FOREIGN),
}
_ADDRESSES = words(
    "href src action formaction xlink:href data poster background srcdoc srcset lowsrc dynsrc cite code codebase "
    "from to values content"
)
_CSS = re.compile(r"expression|url\s*\(|@import|behaviou?r|-moz-binding|javascript|\\|/\*", re.IGNORECASE)
_IGNORED_IN_SCHEMES = re.compile(r"[\x00-\x20\x7f-\x9f\xad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_MARKDOWN_ADDRESS = re.compile(r"(?:\]\(\s*<?|\]:\s*<?|<)([^\s<>()]{1,2048})")


def suspect_tag(name: str) -> Finding | None:
    """For a tag's name in lower case, with its slash when it begins with one."""
    return _SUSPECT_TAGS.get(name.rpartition(":")[2])


def suspect_attribute(name: str, value: str) -> Finding | None:
    """For an attribute's name in lower case and its value as written, references not resolved."""
    if name.startswith("on") and len(name) > 4:
        return Finding.HANDLER
    if name == "style":
        return Finding.STYLE if _CSS.search(html.unescape(value)) else None
    if name in _ADDRESSES and suspect_address(value):
        return Finding.ADDRESS
    return None


def suspect_address(value: str) -> bool:
    """Whether a browser would find a scheme that we do not allow; it skips blanks and control characters."""
    scheme = _SCHEME.match(_IGNORED_IN_SCHEMES.sub("", html.unescape(value)))
    return scheme is not None and scheme[1].lower() not in SCHEMES


def in_markdown(source: str, found: Findings) -> None:
    """Counts addresses of links, images, definitions and autolinks."""
    if ":" in source or "&" in source:
        count = sum(map(suspect_address, _MARKDOWN_ADDRESS.findall(source)))
        if count:
            found[Finding.ADDRESS] += count
