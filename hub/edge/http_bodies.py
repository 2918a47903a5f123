"""Request bodies: what they say they are, and JSON in them, with errors that say what to change."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from litestar import Request
from litestar.exceptions import InternalServerException

from hub.errors import ErrorCode, HubError, bad_request

_UTF8: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})
_T = TypeVar("_T")


async def read_body(request: Request[Any, Any, Any]) -> bytes:
    """The whole body, up to the route's ``request_max_body_size``."""
    try:
        return await request.body()
    except InternalServerException:
        # So the framework calls a client that went away while it was sending.
        raise bad_request("the body ended before its announced length") from None


async def json_body(request: Request[Any, Any, Any], decoder: msgspec.json.Decoder[_T]) -> _T:
    """The value in a body that must be JSON. Raises ``content_type``, ``too_large`` and ``bad_request``."""
    content_type = media_type(request)
    if content_type and not is_json(content_type):
        raise refused_type(content_type, "send application/json")
    return decode_json(await read_body(request), decoder)


def media_type(request: Request[Any, Any, Any]) -> str:
    """The content type without its parameters, in lower case; "" when there is none.

    Raises ``content_type`` when it names a charset that is not UTF-8.
    """
    name, options = request.content_type
    charset = options.get("charset", "utf-8").strip("\"'").lower()
    if charset not in _UTF8:
        raise refused_type(name, "send it as UTF-8")
    return name.strip().lower()


def is_json(content_type: str) -> bool:
    """Whether this is JSON, by its name or by its suffix."""
    return content_type in {"application/json", "text/json"} or content_type.endswith("+json")


def refused_type(content_type: str, what_to_do: str) -> HubError:
    """``content_type`` is not accepted."""
    return HubError(ErrorCode.CONTENT_TYPE, f"content type {content_type[:100]!r} is not accepted here; {what_to_do}")


def decode_json(data: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[_T], *, in_pieces: bool = False) -> _T:
    """The value in ``data``. Raises ``bad_request``; the message names the field, never its value.

    ``in_pieces``: the caller decodes what stays raw piece by piece, and one that is no UTF-8 must not spoil the others.
    """
    try:
        if isinstance(data, bytes) and not in_pieces:
            data.decode()  # what stays raw is not looked at below
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise bad_request(str(error)) from None
    except RecursionError:
        raise bad_request("the JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise bad_request("the body is not valid JSON in UTF-8") from None
