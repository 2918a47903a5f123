"""The encoded event body that the broker carries (see ``hub.fanout.broker``): one place that knows its members."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from hub.errors import ErrorCode, HubError
from hub.protocol.codec import check_data
from hub.protocol.frames import Tags


class _Body(Struct, omit_defaults=True, gc=False):
    id: str
    name: str
    data: Any
    tags: Tags | msgspec.Raw | None = None
    by: str | None = None


class _NameAndData(Struct, gc=False):
    name: str
    data: Any


class _Author(Struct, gc=False):
    by: str | None = None


_encoder = msgspec.json.Encoder()
_name_and_data_decoder = msgspec.json.Decoder(_NameAndData)
_members_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_author_decoder = msgspec.json.Decoder(_Author)


def encode_body(
    id: str,
    name: str,
    data: Any | msgspec.Raw,
    tags: Tags | msgspec.Raw | None,
    by: str | None,
) -> bytes:
    """``{"id":…,"name":…,"data":…,"tags"?:…,"by"?:…}`` as UTF-8. A ``Raw`` goes in as it is and must be valid JSON.

    How large the data may be is the caller's to check. Raises ``TypeError`` for values that JSON does not have.
    """
    return _encoder.encode(_Body(id, name, data, tags or None, by))


def name_and_data(body: bytes) -> tuple[str, Any]:
    """What a service published, without what the hub added."""
    found = _name_and_data_decoder.decode(body)
    return found.name, found.data


def encode_data(data: Any, max_bytes: int) -> bytes:
    """An event's data. Raises ``bad_request`` for what JSON does not have, ``too_large`` beyond ``max_bytes``."""
    try:
        encoded = _encoder.encode(data)
    except Exception:
        check_data(data)  # says what is wrong with it
        raise
    # Its size first: to look at millions of numbers one by one would keep everybody waiting for seconds.
    if len(encoded) > max_bytes:
        raise HubError(ErrorCode.TOO_LARGE, f"'data' has {len(encoded)} bytes; at most {max_bytes} are allowed")
    check_data(data)
    return encoded


def replace_data(body: bytes, data: bytes) -> bytes:
    """A body with other data, encoded already; every other member is as it was."""
    return _encoder.encode(_members_decoder.decode(body) | {"data": msgspec.Raw(data)})


def author(body: bytes) -> str | None:
    """The user who caused it. None: nobody, or it cannot be read."""
    try:
        return _author_decoder.decode(body).by
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
