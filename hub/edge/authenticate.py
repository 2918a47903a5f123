"""Who sends an HTTP request: the one gate in front of everything under ``/v1`` and ``/ofrep``.

A route opens itself to everybody with ``opt={PUBLIC: True}`` (server-sent events, whose clients cannot send headers,
then look at their ticket themselves). WebSockets have their own handshake.
"""

from __future__ import annotations

from typing import Any, Final

from litestar import Request
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send

from hub.auth.credentials import Headers, Place, find_credentials
from hub.auth.principal import Principal
from hub.edge.flag_gate import check_path
from hub.edge.gateway import Gateway
from hub.errors import ErrorCode, HubError

GUARDED: Final = ("/v1/", "/ofrep/")
PUBLIC: Final = "public"

HubRequest = Request[Principal, Any, Any]
"""A request that came through the gate: ``request.user`` is its principal."""


async def authenticate(gateway: Gateway, headers: Headers) -> Principal:
    """The principal of ``Authorization: Bearer <token>``; tickets and subprotocols do not count here.

    Raises ``unauthenticated``, ``token_expired`` or, while the issuer's keys cannot be had, ``unavailable``.
    """
    bearer = [(name, value) for name, value in headers if name.lower() == b"authorization"]
    credentials = find_credentials(bearer, b"")
    if credentials.place is not Place.HEADER:
        raise HubError(ErrorCode.UNAUTHENTICATED, "no token; send it as 'Authorization: Bearer <token>'")
    principal = await gateway.verifier.verify(credentials.secret)
    await gateway.admission.check_revoked(principal)
    return principal


def require_scope(principal: Principal, word: str) -> None:
    """Raises ``forbidden`` unless the token's scope has ``word``."""
    if not principal.allows(word):
        raise HubError(ErrorCode.FORBIDDEN, f"the token's scope does not allow {word}")


class Gate(ASGIMiddleware):
    """Runs before anything of a route does, so that nobody without a token can make the hub read a body."""

    scopes = (ScopeType.HTTP,)
    exclude_opt_key = PUBLIC

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Sets ``request.user``; see ``authenticate`` for what is raised."""
        # OPTIONS tells which methods there are and nothing else.
        if scope["path"].startswith(GUARDED) and scope.get("method") != "OPTIONS":
            scope["user"] = await authenticate(self._gateway, scope["headers"])
            check_path(self._gateway, scope["user"], scope["path"])
        await next_app(scope, receive, send)
