"""What clients ask for: params of the methods, checked and with their defaults. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from hub.api import ErrorCode, HubError, bad_request

T = TypeVar("T")

DEFAULT_TYPE: Final = "document"

MetaKey = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]
# Metadata are tags of events too, and what PostgreSQL keeps as JSON has no zeros.
MetaText = Annotated[str, Meta(max_length=256, pattern=r"^[^\x00]*$")]
MetaValue = MetaText | int | float | bool
Topics = Annotated[list[str], Meta(max_length=100)]
Key = Annotated[str, Meta(min_length=1, max_length=128)]

_METADATA_NAMES: Final = 32
_SHOWN_CHARACTERS: Final = 100
_METADATA_BYTES: Final = 16_384  # of JSON; events have to have room for it

_SHA256 = re.compile("[0-9a-f]{64}")


class Create(Struct, frozen=True):
    """``upload.create`` and ``upload.begin``."""

    filename: str
    size: Annotated[int, Meta(ge=0, le=2**53)]
    document_type: str = DEFAULT_TYPE
    sha256: str | None = None
    metadata: Mapping[str, Any] = {}
    """As ``metadata`` checks them, which names what is wrong."""
    key: Key | None = None
    shares: Topics = []


class OneUpload(Struct, frozen=True):
    """``upload.resume``, ``pause``, ``cancel``, ``status``."""

    upload: str


class ListUploads(Struct, frozen=True):
    """``upload.list``; ``after``: the ``next`` of the page before."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    state: (
        Literal["receiving", "received", "checking", "available", "rejected", "cancelled", "expired", "joined"] | None
    ) = None
    after: Annotated[str, Meta(max_length=64)] | None = None


class ShareUpload(Struct, frozen=True):
    """``upload.share`` and ``upload.unshare``."""

    upload: str
    topics: Topics


class LinkUpload(Struct, frozen=True):
    """``upload.link``; ``expires_s`` None: what is usual."""

    upload: str
    expires_s: Annotated[int, Meta(ge=1)] | None = None


def asked(kind: type[T], params: Mapping[str, Any], method: str) -> T:
    """``params`` as what ``method`` takes. Raises ``bad_request`` that names the param."""
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise bad_request(f"{method}: {error}") from None


def metadata(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same for metadata, whichever way it came; and what only tags demand."""
    if len(values) > _METADATA_NAMES:
        raise bad_request(f"metadata: there are {len(values)} names; at most {_METADATA_NAMES} are allowed")
    for name, value in values.items():
        if not _is(name, MetaKey):
            shown = name[:_SHOWN_CHARACTERS]
            raise bad_request(f"metadata: {shown!r} is no name; write 1 to 64 of the characters A-Z a-z 0-9 _ . -")
        if not _is(value, MetaValue):
            text = "has to be a text of up to 256 characters without zeros, a number or a boolean"
            raise bad_request(f"metadata: {name!r} {text}")
        if not _is_tag(value):
            raise bad_request(f"metadata: {name!r} is a number that not every client can read; send it as a text")
    if len(msgspec.json.encode(values)) > _METADATA_BYTES:
        raise bad_request(f"metadata: it is more than {_METADATA_BYTES} bytes of JSON")
    return values


def _is(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _is_tag(value: Any) -> bool:
    if isinstance(value, float):
        # Written out in full, as the database does, it is no longer than a text may be.
        return value == 0 or 1e-100 <= abs(value) < 2.0**63
    return not isinstance(value, int) or -(2**63) <= value < 2**64


def check_sha256(text: str | None) -> str | None:
    """A sha256 in hexadecimal, in lower case. Raises ``bad_request``."""
    if text is None:
        return None
    lower = text.lower()
    if not _SHA256.fullmatch(lower):
        raise bad_request("'sha256' must be 64 hexadecimal digits")
    return lower


def check_size(size: int, most: int) -> int:
    """Raises ``empty_content`` and ``too_large``."""
    if size == 0:
        raise HubError(ErrorCode.EMPTY_CONTENT, "the file is empty; there is nothing to upload")
    if size > most:
        text = f"the file has {size} bytes; at most {most} are allowed"
        raise HubError(ErrorCode.TOO_LARGE, text, details={"limit": most})
    return size
