"""What was sent: detect or check its type, check its size."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TypeVar

from hub.api import ErrorCode, HubError, bad_request

E = TypeVar("E", bound=StrEnum)


class ContentType(StrEnum):
    """What a source may be. The value is what stands on the wire."""

    TEXT = "text"
    HTML = "html"
    MARKDOWN = "markdown"


_DETECTED_CHARS = 10_000
_HTML = re.compile(
    r"<(?:!doctype|/?(?:html|head|body|p|div|span|h[1-6]|ul|ol|li|table|t[rdh]|a|b|i|u|em|strong|br|hr|img|pre|code|"
    r"blockquote|section|article|script|style|iframe|svg|math|form|input|video|audio|details)(?=[\s/>])|!--)",
    re.IGNORECASE,
)
_MARKDOWN = re.compile(
    r"^ {0,3}(?:#{1,6}[ \t]|[-*+][ \t]|\d{1,9}[.)][ \t]|>|```|~~~|\|.*\|[ \t]*$)|"
    r"\*\*\S|(?<!\w)__\S|`[^`\n]+`|\[[^\]\n]{0,200}\]\([^)\s]|~~\S",
    re.MULTILINE,
)


def content_type(source: str, declared: str | None) -> ContentType:
    """The declared type, or the one that the beginning of ``source`` looks like. Raises ``content_type``."""
    if declared is None:
        return detect(source)
    try:
        return ContentType(declared)
    except ValueError:
        known = ", ".join(ContentType)
        raise HubError(ErrorCode.CONTENT_TYPE, f"content_type is none of: {known}; leave it out to detect it") from None


def one_of(kind: type[E], value: object, field: str) -> E:
    """``value`` as one of an enumeration's. Raises ``bad_request`` that names the field and what it may be."""
    for member in kind:
        if member == value:
            return member
    raise bad_request(f"{field} is one of: {', '.join(kind)}")


def detect(source: str) -> ContentType:
    """HTML when it begins with a tag or has one and no Markdown; Markdown when there is some of its syntax; else text.

    Only the beginning is looked at.
    """
    start = source[:_DETECTED_CHARS].lstrip()
    if _HTML.match(start):
        return ContentType.HTML
    if _MARKDOWN.search(start):
        return ContentType.MARKDOWN
    return ContentType.HTML if _HTML.search(start) else ContentType.TEXT


def check_size(source: str, max_bytes: int) -> None:
    """Raises ``bad_request`` when it is no text, ``empty_content`` or ``too_large``."""
    if not isinstance(source, str):
        raise bad_request("content is a string")
    if not source.strip():
        raise HubError(ErrorCode.EMPTY_CONTENT, "content is empty; send some text")
    size = len(source) if source.isascii() else len(source.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        raise HubError(
            ErrorCode.TOO_LARGE,
            f"content has {size} bytes, at most {max_bytes} are accepted; send it in parts",
            details={"bytes": size, "max_bytes": max_bytes},
        )
