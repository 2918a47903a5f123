"""Characters that no document needs, taken out of source and of what its references name; escaping in one form."""

from __future__ import annotations

import html
import re

from hub.markup.findings import Finding, Findings

# Controls do nothing in a document but end C strings and hide schemes. Embeddings, overrides and isolates make text
# read otherwise than it is ("Trojan Source") and leak into what follows when it comes in pieces; right-to-left text
# needs none of them, and dir= does what they were for. Marks (U+200E, U+200F, U+061C) stay: they turn nothing round.
_CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff"
_BIDI = "\u202a-\u202e\u2066-\u2069"
_UNWANTED = re.compile(f"[{_CONTROL}{_BIDI}]")
_ONE_BIDI = re.compile(f"[{_BIDI}]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_CARRIAGE_RETURN = re.compile(r"\r\n?")
_SPECIAL = re.compile("[&<>\xa0]")


def clean_characters(source: str, found: Findings) -> str:
    """``source`` with newlines as ``\\n`` and without what is unwanted; adds to ``found``."""
    if "\r" in source:
        source = _CARRIAGE_RETURN.sub("\n", source)
    unwanted = _UNWANTED.findall(source)
    if not unwanted:
        return source
    if _PAIR.search(source):  # came in two pieces
        source = source.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
        unwanted = _UNWANTED.findall(source)
    bidi = len(_ONE_BIDI.findall("".join(unwanted)))
    if bidi:
        found[Finding.BIDI] += bidi
    if len(unwanted) > bidi:
        found[Finding.CONTROL] += len(unwanted) - bidi
    return _UNWANTED.sub("", source)


def resolve(markup: str, found: Findings) -> str:
    """The text that ``markup`` without tags means: references resolved, unwanted characters among them gone."""
    if "&" not in markup:
        return markup
    text = html.unescape(markup)
    return clean_characters(text, found) if "&#" in markup else text


def escape(text: str) -> str:
    """``text`` as it stands between tags, the way an HTML serialiser writes it."""
    if _SPECIAL.search(text) is None:
        return text
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\xa0", "&nbsp;")


def escape_value(text: str) -> str:
    """``text`` as it stands in an attribute, between double quotes."""
    return escape(text).replace('"', "&quot;")
