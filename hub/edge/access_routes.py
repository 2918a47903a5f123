"""POST /v1/tickets and POST /v1/admin/kick: a ticket for whoever cannot send a token, and throwing a user out."""

from __future__ import annotations

import time
from typing import Annotated, Final

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.params import SkipValidation
from msgspec import Meta, Struct

from hub.edge.authenticate import HubRequest, require_scope
from hub.edge.gateway import Gateway
from hub.edge.http_bodies import json_body
from hub.edge.openapi import KickOperation, problem_responses
from hub.fanout.control import Kick


class Ticket(Struct):
    """A ticket for one connection: ``/ws?ticket=…``."""

    ticket: str
    expires_in_ms: int


class KickRequest(Struct):
    """Whom to throw out: the ``sub`` of their tokens."""

    user: Annotated[str, Meta(min_length=1, max_length=256)]


class Kicked(Struct):
    """From now on tokens of the user that were issued up to ``refused_before`` (seconds since 1970) are refused."""

    user: str
    refused_before: float


_kick: Final = msgspec.json.Decoder(KickRequest)


@post(
    "/v1/tickets",
    status_code=200,
    summary="Get a one-use ticket for a connection",
    responses=problem_responses(401, 503),
)
async def issue_ticket(request: HubRequest, gateway: NamedDependency[SkipValidation[Gateway]]) -> Ticket:
    """A ticket that stands for the caller's token once, for a short time, and never outlives it."""
    principal, life_s = request.user, gateway.settings.ticket_ttl_s
    ticket = await gateway.tickets.issue(principal, ttl_s=life_s)
    left_ms = int(min(float(life_s), principal.expires_at - time.time()) * 1000)
    return Ticket(ticket, max(0, left_ms))


@post(
    "/v1/admin/kick",
    status_code=200,
    summary="Throw a user out",
    operation_class=KickOperation,
    responses=problem_responses(400, 401, 403, 413, 415, 503),
)
async def kick(request: HubRequest, gateway: NamedDependency[SkipValidation[Gateway]]) -> Kicked:
    """Refuses every token of a user of the caller's organisation issued until now, and closes their connections.

    Needs the scope ``admin``. A fresh token lets the user in again: withdraw access at the issuer first.
    """
    require_scope(request.user, "admin")
    user = (await json_body(request, _kick)).user
    org = request.user.org
    cutoff = await gateway.admission.revoke(org, user, gateway.settings.token_max_life_s)
    await gateway.control.send(Kick(str(org), user, cutoff))
    return Kicked(user, cutoff)
