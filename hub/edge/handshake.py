"""Before a WebSocket is accepted: origin, room, version, token. Says how to answer; the sockets do it.

PROTOCOL section 2: a bad token in the Authorization header is answered by HTTP 401, a foreign origin by 403. Where a
browser could not read the status, the socket is opened and closed with a code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from hub.auth.credentials import (
    Credentials,
    CredentialsError,
    Place,
    Subprotocol,
    choose_subprotocol,
    find_credentials,
    origin_allowed,
)
from hub.edge.arrival import Arrival
from hub.edge.gateway import Gateway
from hub.edge.problems import PROBLEM_JSON, problem, problem_headers
from hub.errors import ErrorCode, HubError
from hub.protocol.codec import Encoding
from hub.protocol.codes import CloseCode

WEBSOCKET_PATH: Final = "/ws"

Headers = Sequence[tuple[bytes, bytes]]


class Accepted(Struct, frozen=True):
    """Upgrade; ``subprotocol`` is echoed if there is one."""

    arrival: Arrival
    subprotocol: str | None


class Refused(Struct, frozen=True):
    """Answer with this status and problem+json body (RFC 9457) instead of upgrading."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


async def shake_hands(gateway: Gateway, headers: Headers, query: bytes) -> Accepted | Refused:
    """Decides on one upgrade request. Never raises ``HubError``."""
    if not origin_allowed(headers, gateway.settings.allowed_origins):
        return refuse(HubError(ErrorCode.FORBIDDEN, "this origin is not allowed; see HUB_ALLOWED_ORIGINS"))
    full = gateway.connections.no_room()
    if full is not None and gateway.connections.overrun:
        return refuse(full)
    chosen = choose_subprotocol(headers)
    if not chosen.spoken:
        text = "of the versions hub.v1.json and hub.v1.msgpack none was offered"
        refused = (CloseCode.VERSION, HubError(ErrorCode.BAD_REQUEST, text))
        return Accepted(Arrival(Encoding.JSON, Credentials(Place.HELLO), refused=refused), None)
    if full is not None:
        encoding = Encoding("hub.v1." + chosen.encoding)
        refused = (CloseCode.OVER_CAPACITY, full)
        return Accepted(Arrival(encoding, Credentials(Place.HELLO), refused=refused), chosen.echo)
    return await _authenticate(gateway, headers, query, chosen)


async def _authenticate(gateway: Gateway, headers: Headers, query: bytes, chosen: Subprotocol) -> Accepted | Refused:
    encoding = Encoding("hub.v1." + chosen.encoding)
    place = Place.HEADER
    try:
        credentials = find_credentials(headers, query)
        place = credentials.place
        principal, session = None, None
        if place is Place.TICKET:
            principal, session = await gateway.tickets.redeem(credentials.secret)
        elif place is not Place.HELLO:
            principal = await gateway.verifier.verify(credentials.secret)
    except HubError as error:
        if isinstance(error, CredentialsError):
            place = error.place
        if place.answers_by_status:
            return refuse(error, brought=True)
        unavailable = error.code is ErrorCode.UNAVAILABLE
        code = CloseCode.OVER_CAPACITY if unavailable else CloseCode.UNAUTHENTICATED
        return Accepted(Arrival(encoding, Credentials(place), refused=(code, error)), chosen.echo)
    return Accepted(Arrival(encoding, Credentials(place), principal, session), chosen.echo)


def refuse(error: HubError, *, brought: bool = False) -> Refused:
    """A HubError as an HTTP answer. ``brought``: the request had the header Authorization."""
    headers = problem_headers(error, error.http_status, brought=brought)
    body = msgspec.json.encode(problem(error))
    return Refused(error.http_status, [("content-type", PROBLEM_JSON), *headers.items()], body)


UPGRADE_REQUIRED: Final = Refused(
    426,
    [("content-type", PROBLEM_JSON), ("upgrade", "websocket"), ("connection", "upgrade")],
    refuse(HubError(ErrorCode.BAD_REQUEST, "this is a WebSocket; connect with ws:// or wss://")).body,
)

BAD_UPGRADE: Final = refuse(HubError(ErrorCode.BAD_REQUEST, "no WebSocket handshake of version 13 (RFC 6455)"))
