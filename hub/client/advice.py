"""What the end of a connection means for the next attempt. Which transport that one uses says the ``Ladder``."""

from __future__ import annotations

from hub.client.errors import HubClosed
from hub.client.refusals import passes
from hub.client.tokens import Tokens
from hub.client.transport import Ended
from hub.protocol.codes import CLOSE_SPECS, CloseCode, Reconnect


def advice_after(ended: Ended, tokens: Tokens) -> Reconnect:
    """When to try again. Raises ``HubClosed`` when trying again unchanged is no use."""
    if ended.disabled:
        return "later"  # it may be switched on again
    if ended.http_status is not None:
        return _after_status(ended.http_status, ended, tokens)
    try:
        advice = CLOSE_SPECS[CloseCode(ended.code)].reconnect
    except ValueError:
        # Not the hub's own word: a proxy, a dying process, a lost network.
        return "later"
    if ended.code == CloseCode.UNAUTHENTICATED:
        return tokens.refused(ended)
    if advice == "never":
        raise HubClosed(ended.code, ended.reason)
    return advice


def _after_status(status: int, ended: Ended, tokens: Tokens) -> Reconnect:
    if status == 401 and not ended.in_the_way:
        return tokens.refused(Ended(CloseCode.UNAUTHENTICATED, ended.reason))
    if status in (401, 403):
        raise HubClosed(CloseCode.FORBIDDEN, ended.reason)
    if not passes(status):
        raise HubClosed(status, ended.reason)
    return "later"
