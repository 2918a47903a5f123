"""One-use tickets: a verified principal, put aside in Redis under a random name for a short time.

A ticket stands for the token it was issued for and never outlives it. ``hub.auth.credentials`` reads it from a request;
whether its user has been thrown out meanwhile is asked at admission.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from hub.auth.principal import Principal
from hub.errors import ErrorCode, HubError
from hub.orgs import OrgId, ticket_key
from hub.redis import Command, Redis

_RANDOM_BYTES: Final = 32
_TICKET: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class TicketRequest(Struct, frozen=True):
    """For whom a ticket is wanted, which session it goes on with, and how long it is good."""

    principal: Principal
    session: str | None
    ttl_s: float


class _Record(Struct, frozen=True, array_like=True):
    """What lies in Redis. New fields go to the end, with a default: nodes of two versions read each other's tickets."""

    user: str
    org: str
    scope: tuple[str, ...]
    expires_at: float
    issued_at: float
    name: str
    session: str | None


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Record).decode


class Tickets:
    """Issues and redeems tickets. Every method raises (or holds) ``unavailable`` when Redis does not answer.

    ``clock`` is seconds since 1970.
    """

    def __init__(self, redis: Redis, clock: Callable[[], float] = time.time) -> None:
        self._redis = redis
        self._clock = clock

    async def issue(self, principal: Principal, session: str | None = None, *, ttl_s: float) -> str:
        """A ticket for ``ttl_s`` seconds or the rest of the token's life; ``token_expired`` if that is nothing."""
        (ticket,) = await self.issue_many([TicketRequest(principal, session, ttl_s)])
        if isinstance(ticket, HubError):
            raise ticket
        return ticket

    async def issue_many(self, requests: Sequence[TicketRequest]) -> list[str | HubError]:
        """The same for many, in one batch; one outcome each, in the order asked."""
        now = self._clock()
        outcomes: list[str | HubError] = []
        waiting: list[int] = []
        commands: list[Command] = []
        for index, request in enumerate(requests):
            life_ms = int(min(request.ttl_s, request.principal.expires_at - now) * 1000)
            if life_ms < 1:
                outcomes.append(HubError(ErrorCode.TOKEN_EXPIRED, "the token has expired; get a fresh one"))
                continue
            ticket = secrets.token_urlsafe(_RANDOM_BYTES)
            commands.append(Command(ticket_key(ticket), ("SET", ticket_key(ticket), _record(request), "PX", life_ms)))
            waiting.append(index)
            outcomes.append(ticket)
        for index, answer in zip(waiting, await self._redis.batch(commands), strict=True):
            if isinstance(answer, HubError):
                outcomes[index] = answer
        return outcomes

    async def redeem(self, ticket: str) -> tuple[Principal, str | None]:
        """The principal and session of a ticket, which is thereby used up, whoever else tries at the same time.

        Raises ``unauthenticated``, with the same text for unknown, used and expired ones.
        """
        if not _TICKET.fullmatch(ticket):
            raise _refused()
        key = ticket_key(ticket)
        value = await self._redis.command(key, "GETDEL", key)
        if value is None:
            raise _refused()
        try:
            record = _decode(value)
        except msgspec.MsgspecError:
            raise _refused() from None
        if record.expires_at <= self._clock():
            raise _refused()
        return _principal(record), record.session


def _record(request: TicketRequest) -> bytes:
    who = request.principal
    return _encode(_Record(who.user, str(who.org), who.scope, who.expires_at, who.issued_at, who.name, request.session))


def _principal(record: _Record) -> Principal:
    # The organisation was a verified token's claim when the ticket was issued, and only the hub writes tickets.
    return Principal(
        user=record.user,
        org=OrgId.from_claim(record.org),
        scope=record.scope,
        expires_at=record.expires_at,
        issued_at=record.issued_at,
        name=record.name,
    )


def _refused() -> HubError:
    return HubError(
        ErrorCode.UNAUTHENTICATED, "the ticket is unknown, used or expired; get a new one from POST /v1/tickets"
    )
