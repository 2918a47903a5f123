"""What a handshake or HTTP request brings: where its token stands, which subprotocol it speaks, where it comes from.

Pure: reads headers and query, verifies nothing. Tokens go to ``hub.auth.tokens``, tickets to ``hub.auth.tickets``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from enum import Enum
from typing import Final, Literal
from urllib.parse import parse_qsl

from msgspec import Struct

from hub.errors import ErrorCode, HubError

Headers = Iterable[tuple[bytes, bytes]]
"""As ASGI gives them; names in any case."""

Encoding = Literal["json", "msgpack"]

SUBPROTOCOLS: Final[dict[str, Encoding]] = {"hub.v1.json": "json", "hub.v1.msgpack": "msgpack"}
BEARER_SUBPROTOCOL: Final = "base64url.bearer.hub."
_ANY_VERSION: Final = "hub.v"
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")
_ORIGIN: Final = re.compile(r"(https?)://([^/?#@\s]+)")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class Place(Enum):
    """Where the token stands, in the order in which the places are looked at (PROTOCOL section 2)."""

    HEADER = 1
    SUBPROTOCOL = 2
    TICKET = 3
    HELLO = 4
    """Nowhere in the request: it has to come in the ``hello`` frame."""

    @property
    def answers_by_status(self) -> bool:
        """Whether a bad token is answered by HTTP 401 before the upgrade.

        Elsewhere a browser could not read the status: the socket is opened and closed with 4401.
        """
        return self is Place.HEADER


class Credentials(Struct, frozen=True):
    """The token or ticket as it was found, unverified. Its repr hides it."""

    place: Place
    secret: str = ""
    """The JWT, for ``Place.TICKET`` the ticket, for ``Place.HELLO`` nothing."""

    def __repr__(self) -> str:
        return f"Credentials({self.place.name})"


class CredentialsError(HubError):
    """``unauthenticated``: something stands in ``place``, but it is malformed."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(ErrorCode.UNAUTHENTICATED, message)
        self.place = place


class Subprotocol(Struct, frozen=True):
    """The outcome of the subprotocol offer."""

    encoding: Encoding = "json"
    echo: str | None = None
    """What the answer's ``Sec-WebSocket-Protocol`` says; None: nothing. Never the one with the token."""
    spoken: bool = True
    """False: the client only speaks versions that this hub does not; open and close with 4405."""


def find_credentials(headers: Headers, query: bytes) -> Credentials:
    """The first token or ticket in the request, for WebSocket and HTTP alike.

    ``Authorization`` of another scheme than Bearer is a proxy's business and not looked at. Raises ``CredentialsError``
    when the first place that holds something holds something malformed; later places are then not tried.
    """
    given = list(headers)
    bearers = [token for token in map(_bearer, _values(given, b"authorization")) if token is not None]
    if bearers:
        return Credentials(
            Place.HEADER, _only(bearers, Place.HEADER, "send one 'Authorization: Bearer <token>' header")
        )
    offered = [name for name in _offered(given) if name.startswith(BEARER_SUBPROTOCOL)]
    if offered:
        how = f"send one subprotocol {BEARER_SUBPROTOCOL}<base64url(token) without padding>"
        return Credentials(Place.SUBPROTOCOL, _decoded(_only(offered, Place.SUBPROTOCOL, how), how))
    tickets = [value for name, value in parse_qsl(_text(query), keep_blank_values=True) if name == "ticket"]
    if tickets:
        return Credentials(Place.TICKET, _only(tickets, Place.TICKET, "send one '?ticket=<ticket>'"))
    return Credentials(Place.HELLO)


def choose_subprotocol(headers: Headers) -> Subprotocol:
    """The first offered subprotocol that the hub speaks; none offered: JSON, and nothing is echoed."""
    offered = _offered(headers)
    for name in offered:
        if name in SUBPROTOCOLS:
            return Subprotocol(SUBPROTOCOLS[name], echo=name)
    return Subprotocol(spoken=not any(name.startswith(_ANY_VERSION) for name in offered))


def origin_allowed(headers: Headers, allowed: tuple[str, ...]) -> bool:
    """Whether a browser page of this ``Origin`` may come in.

    Allowed are: no ``Origin`` (not a browser), one in ``allowed`` (``*`` for any), and the hub's own host.
    ``Origin: null`` and repeated headers are foreign.
    """
    given = list(headers)
    origins = _values(given, b"origin")
    if not origins or "*" in allowed:
        return True
    if len(origins) > 1:
        return False
    origin = origins[0].lower()
    return origin in {entry.lower().rstrip("/") for entry in allowed} or _same_host(origin, _values(given, b"host"))


def _same_host(origin: str, hosts: list[str]) -> bool:
    parts = _ORIGIN.fullmatch(origin)
    if parts is None or len(hosts) != 1:
        return False
    # The port that the scheme implies may be left out; by which scheme the hub is reached, only the proxy knows.
    port = _DEFAULT_PORTS[parts[1]]
    return parts[2].removesuffix(port) == hosts[0].lower().removesuffix(port)


def _bearer(value: str) -> str | None:
    """The token of an ``Authorization`` value; None: another scheme."""
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _offered(headers: Headers) -> list[str]:
    lines = _values(headers, b"sec-websocket-protocol")
    return [name for line in lines for name in (part.strip() for part in line.split(",")) if name]


def _only(found: list[str], place: Place, how: str) -> str:
    if len(found) != 1:
        raise CredentialsError(place, f"the token stands there {len(found)} times; {how}")
    if not found[0].isascii() or found[0].split() != [found[0]]:
        raise CredentialsError(place, f"the token is malformed; {how}")
    return found[0]


def _decoded(subprotocol: str, how: str) -> str:
    encoded = subprotocol.removeprefix(BEARER_SUBPROTOCOL)
    try:
        if not _BASE64URL.fullmatch(encoded):
            raise ValueError
        return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode("ascii")
    except (ValueError, binascii.Error):
        raise CredentialsError(Place.SUBPROTOCOL, f"the token is malformed; {how}") from None


def _values(headers: Headers, wanted: bytes) -> list[str]:
    return [_text(value).strip() for name, value in headers if name.lower() == wanted]


def _text(value: bytes) -> str:
    # Headers and query strings declare no encoding; latin-1 cannot fail, and what is not ASCII is refused later.
    return value.decode("latin-1")
