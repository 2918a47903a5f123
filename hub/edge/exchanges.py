"""GET and POST of /v1/sse and /v1/poll: who asks, for what, and which connection serves it (PROTOCOL section 7).

The request comes whole and the answer goes over a ``Line``; which server reads and writes them is theirs.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog

from hub.auth.credentials import Credentials, Place, find_credentials, origin_allowed
from hub.auth.principal import Principal
from hub.edge.arrival import Arrival
from hub.edge.asking import Asking, hello_of, read_asking, wait_of
from hub.edge.connection import Connection
from hub.edge.gateway import Gateway
from hub.edge.http_line import Answer, Incoming, LeftError, Line, body_too_large, json_answer, problem_answer
from hub.edge.poll_socket import PollSocket
from hub.edge.problems import HttpError
from hub.edge.requests import adopt
from hub.edge.sse_socket import SseSocket
from hub.errors import ErrorCode, HubError, bad_request
from hub.fanout.turnstile import Step
from hub.protocol.codec import Encoding
from hub.protocol.cursor import Cursor, decode_cursor, digest_of

SSE_PATH: Final = "/v1/sse"
POLL_PATH: Final = "/v1/poll"
METHODS: Final = ("GET", "POST")

log = structlog.get_logger(__name__)


async def exchange(gateway: Gateway, request: Incoming, line: Line) -> None:
    """Serves one request. Returns when its answer is under way or a connection has its line; never raises."""
    try:
        if request.path == POLL_PATH:
            await _poll(gateway, request, line)
        else:
            await _stream(gateway, request, line)
    except LeftError:
        return
    except HubError as error:
        gateway.metrics.error(error.code)
        line.answer(problem_answer(error, brought=request.header(b"authorization") is not None))
    except Exception:
        log.exception("exchange failed", path=request.path)
        line.answer(problem_answer(HubError(ErrorCode.INTERNAL, "a fault of the hub; it is in its log")))


def not_allowed() -> Answer:
    """For methods that these paths do not know."""
    error = bad_request("this path knows GET and POST")
    return problem_answer(HttpError(error, 405, {"allow": ", ".join(METHODS)}))


async def _stream(gateway: Gateway, request: Incoming, line: Line) -> None:
    _check_origin(gateway, request)
    _check_room(gateway)
    body, arrival = await _body_of(gateway, request, line)
    asking = read_asking(request, body, gateway.settings)
    await gateway.turnstile.turn(Step.HANDSHAKE)
    arrival = arrival or await _identify(gateway, request, asking.token)
    await _pay(gateway, arrival)
    cursor = _cursor(gateway, asking, arrival)
    if not line.lost:
        _check_room(gateway)  # once more: many may have waited for their turn
        socket = SseSocket(gateway, line, asking.asked or (cursor.asked if cursor is not None else 0))
        socket.run(Connection(gateway, socket, _going_on(arrival, asking, cursor)), hello_of(asking, cursor))


async def _poll(gateway: Gateway, request: Incoming, line: Line) -> None:
    _check_origin(gateway, request)
    body, arrival = await _body_of(gateway, request, line)
    asking = read_asking(request, body, gateway.settings)
    wait_s = wait_of(asking, gateway.settings)
    if asking.cursor is None:
        _check_room(gateway)
        await gateway.turnstile.turn(Step.HANDSHAKE)
    arrival = arrival or await _identify(gateway, request, asking.token)
    await _pay(gateway, arrival)
    cursor = _cursor(gateway, asking, arrival)
    asked = asking.asked
    moved = None
    if cursor is not None and asked in (0, cursor.asked):
        asked, moved = cursor.asked, cursor
        found = _found(gateway, cursor, arrival)
        if found is not None:
            await _refresh(gateway, found, arrival)
        if found is not None and not line.lost and _socket_of(found).go_on(line, cursor, wait_s):
            return
        if (word := _last_word(gateway, cursor, arrival)) is not None:
            line.answer(json_answer(word))
            return
    if cursor is not None:
        _check_room(gateway)
        await gateway.turnstile.turn(Step.HANDSHAKE)
    if not line.lost:
        _check_room(gateway)
        socket = PollSocket(gateway, line, wait_s, asked, moved)
        socket.run(Connection(gateway, socket, _going_on(arrival, asking, cursor)), hello_of(asking, cursor))


def _check_origin(gateway: Gateway, request: Incoming) -> None:
    if not origin_allowed(request.headers, gateway.settings.allowed_origins):
        raise HubError(ErrorCode.FORBIDDEN, "this origin is not allowed; see HUB_ALLOWED_ORIGINS")


async def _body_of(gateway: Gateway, request: Incoming, line: Line) -> tuple[bytes, Arrival | None]:
    """The body. One that is still to come is read when it is known who sends it, or is no larger than a hello."""
    settings = gateway.settings
    most = settings.http_hello_bytes
    if request.body is not None and len(request.body) <= most:
        return request.body, None
    arrival = None
    if find_credentials(request.headers, request.query).place is not Place.HELLO:
        most = settings.max_message_bytes
        if request.body is None:
            await gateway.turnstile.turn(Step.HANDSHAKE)
            arrival = await _identify(gateway, request, None)
    if request.body is None:
        return await line.body(most), arrival
    if len(request.body) > most:
        raise body_too_large(most)
    return request.body, None


def _check_room(gateway: Gateway) -> None:
    full = gateway.connections.no_room()
    if full is not None:
        raise full


async def _identify(gateway: Gateway, request: Incoming, token: str | None) -> Arrival:
    """By a header, a ticket (which is used up) or the hello's ``token``.

    Whether the user was thrown out is asked when the connection is admitted.
    """
    credentials = find_credentials(request.headers, request.query)
    session = None
    if credentials.place is Place.TICKET:
        principal, session = await gateway.tickets.redeem(credentials.secret)
    elif credentials.place is Place.HELLO:
        if token is None:
            text = "no token; send it as 'Authorization: Bearer <token>', or a ticket of POST /v1/tickets as '?ticket='"
            raise HubError(ErrorCode.UNAUTHENTICATED, text)
        principal = await gateway.verifier.verify(token)
    else:
        principal = await gateway.verifier.verify(credentials.secret)
    return Arrival(Encoding.JSON, Credentials(credentials.place), principal, session)


def _cursor(gateway: Gateway, asking: Asking, arrival: Arrival) -> Cursor | None:
    if asking.cursor is None:
        return None
    who, settings = _principal(arrival), gateway.settings
    digest = digest_of(who.org, who.user)
    return decode_cursor(asking.cursor, digest, settings.max_topics_per_connection, settings.max_message_bytes)


async def _pay(gateway: Gateway, arrival: Arrival) -> None:
    """Each request costs a frame. Who asks too often waits for his answer, so a client that is only quick goes on."""
    wait_s = gateway.admission.askings.spend(_principal(arrival))
    if wait_s:
        await asyncio.sleep(wait_s)


def _going_on(arrival: Arrival, asking: Asking, cursor: Cursor | None) -> Arrival:
    if cursor is None or asking.resume is not None:
        return arrival
    if asking.asked not in (0, cursor.asked):
        cursor = msgspec.structs.replace(cursor, number=0)  # it begins anew, with other topics
    return msgspec.structs.replace(arrival, cursor=cursor)


def _found(gateway: Gateway, cursor: Cursor, arrival: Arrival) -> Connection | None:
    """The connection that gave out this cursor, if it is here and may go on for whoever asks."""
    found = gateway.connections.of_id(cursor.connection)
    if found is None or not isinstance(found.socket, PollSocket):
        return None
    mine, who = found.verified, _principal(arrival)
    # With another scope everything is permitted anew.
    return found if (mine.org, mine.user, mine.scope) == (who.org, who.user, who.scope) else None


def _last_word(gateway: Gateway, cursor: Cursor, arrival: Arrival) -> bytes | None:
    who = _principal(arrival)
    return gateway.connections.last_word(cursor.connection, str(who.org), who.user, cursor.number)


async def _refresh(gateway: Gateway, connection: Connection, arrival: Arrival) -> None:
    """A request that bears a newer token says what an ``auth`` frame would."""
    fresh = _principal(arrival)
    if fresh.expires_at > connection.verified.expires_at:
        await adopt(gateway, connection, fresh)


def _socket_of(connection: Connection) -> PollSocket:
    assert isinstance(connection.socket, PollSocket)  # noqa: S101 - looked at by _found
    return connection.socket


def _principal(arrival: Arrival) -> Principal:
    assert arrival.principal is not None  # noqa: S101 - set by _identify
    return arrival.principal
