"""flagd's buckets: where somebody stands among all, by the hash of flag and user or organisation.

The same as flagd-core's ``fractional``, which takes six times as long; it is drawn for every connection.
"""

from __future__ import annotations

from typing import Final

import mmh3

from hub.flags.changes import WHOLE

_ARRAY_OF_TWO: Final = b"\x82"


class Buckets:
    """Of one flag."""

    def __init__(self, flag: str) -> None:
        self._flag = flag
        self._head = _ARRAY_OF_TWO + _text(flag)

    def of_user(self, user: str) -> int:
        """Thousandths of a percent, from 0; whoever is below a flag's percentage has it.

        Raises ``UnicodeEncodeError`` for half a character.
        """
        return _place(self._head + _text(user))

    def of_org(self, org: str) -> int:
        """The same, for all of an organisation."""
        return _place(_text(self._flag + org))


def _place(data: bytes) -> int:
    return (mmh3.hash(data, signed=False) * WHOLE) >> 32


def _text(value: str) -> bytes:
    """As CBOR (RFC 8949) has it."""
    data = value.encode()
    length = len(data)
    if length < 24:
        return bytes((0x60 + length,)) + data
    if length < 256:
        return bytes((0x78, length)) + data
    if length < 65_536:
        return b"\x79" + length.to_bytes(2, "big") + data
    return b"\x7a" + length.to_bytes(4, "big") + data
