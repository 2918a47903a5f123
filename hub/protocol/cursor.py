"""A cursor: where a client of server-sent events or polling stands in all its topics, as one text. Pure.

Whoever brings it back goes on there, on any node. It holds nothing secret and grants nothing: what it names is
permitted anew, and a client that changes it harms itself alone. Its inside may change with every version of the hub.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Iterable
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from hub.errors import HubError, bad_request
from hub.protocol.frames import MAX_TOPICS_PER_FRAME, Filter, SeqNumber

_PLAIN: Final = b"\x01"
_DEFLATED: Final = b"\x02"
_DEFLATE_FROM_BYTES: Final = 512
_DEFLATE_LEVEL: Final = 1
_WHO_BYTES: Final = 8
_HOW: Final = "leave it out to begin anew"

_Epoch = Annotated[str, Meta(max_length=64)]
_Count = Annotated[int, Meta(ge=0, le=2**53)]


class Standing(Struct, frozen=True, array_like=True):
    """One topic: everything up to this position was written to the client. No epoch: a kind without history."""

    topic: str
    epoch: _Epoch
    seq: SeqNumber
    ack: bool = False
    filter: Filter | None = None
    presence: tuple[_Epoch, _Count] | None = None
    """The version of who is present that the client knows."""


class Cursor(Struct, frozen=True, array_like=True):
    """Where a client stands. New fields go to the end, with a default: nodes of two versions read each other's."""

    who: bytes
    """See ``digest_of``."""
    session: Annotated[str, Meta(max_length=64)]
    connection: Annotated[str, Meta(max_length=64)]
    number: _Count
    """Of the answer that it came with; polling only."""
    asked: _Count
    """See ``digest_of_topics``."""
    flags: _Count
    """Which flags the client knows of, as a digest."""
    topics: Annotated[tuple[Standing, ...], Meta(max_length=MAX_TOPICS_PER_FRAME)]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Cursor)


def encode_cursor(cursor: Cursor) -> bytes:
    """As text that may stand in a URL, a header and JSON as it is."""
    plain = _encoder.encode(cursor)
    small = len(plain) < _DEFLATE_FROM_BYTES
    packed = _PLAIN + plain if small else _DEFLATED + zlib.compress(plain, _DEFLATE_LEVEL)
    return base64.urlsafe_b64encode(packed).rstrip(b"=")


def decode_cursor(text: str, who: bytes, most_topics: int, most_bytes: int) -> Cursor:
    """Raises ``bad_request`` for what is no cursor, is another user's, or of another version of the hub.

    Also for one that says more than a connection may have, or has more bytes when it is unpacked: few can become many.
    """
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        cursor = _decoder.decode(_unpacked(packed, most_bytes))
    except (ValueError, binascii.Error, zlib.error, msgspec.MsgspecError, RecursionError):
        raise _refused("'cursor' cannot be read") from None
    if cursor.who != who:
        raise _refused("'cursor' is of another user or organisation")
    if len(cursor.topics) > most_topics:
        raise _refused(f"'cursor' has more than {most_topics} topics")
    return cursor


def digest_of(org: str, user: str) -> bytes:
    """Whose a cursor is, so that it is not mistaken for somebody else's."""
    return hashlib.blake2b(f"{org}\0{user}".encode(), digest_size=_WHO_BYTES).digest()


def digest_of_topics(names: Iterable[str]) -> int:
    """Tells whether a client asks for other topics than before. 0: it asks for none."""
    wanted = sorted(set(names))
    return zlib.crc32("\n".join(wanted).encode()) or 1 if wanted else 0


def _unpacked(packed: bytes, most_bytes: int) -> bytes:
    kind, rest = packed[:1], packed[1:]
    if kind == _PLAIN:
        return rest
    if kind != _DEFLATED:
        raise _refused("'cursor' is of another version of the hub")
    reader = zlib.decompressobj()
    plain = reader.decompress(rest, most_bytes)
    if not reader.eof or reader.unused_data:
        raise _refused("'cursor' cannot be read")
    return plain


def _refused(what: str) -> HubError:
    return bad_request(f"{what}; {_HOW}")
