"""The scope words of routes: those of the methods that do the same over the socket."""

from __future__ import annotations

from hub.api import ErrorCode, HubError, Principal


def require(principal: Principal, method: str) -> None:
    """Raises ``forbidden`` unless the token's scope allows to call ``method``."""
    if not principal.allows("call", method):
        raise HubError(ErrorCode.FORBIDDEN, f"the token's scope does not allow call:{method}")
