"""The token of one client: asked for before every connection, asked for anew when it was refused."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable

from hub.client.errors import HubClosed
from hub.client.options import ClientOptions
from hub.client.transport import ABNORMAL, CannotConnect, Ended
from hub.protocol.codes import CloseCode, Reconnect

TokenSource = Callable[[], "str | Awaitable[str]"]

# A second refusal in a row means that a fresh token did not help either.
_MAX_REFUSALS = 2
# Of what is left of a token's life: what passes before the next one is asked for.
_SPENT = (0.25, 0.5, 0.75)


class Tokens:
    """``given``: whether there is a source at all."""

    def __init__(self, source: TokenSource | None, options: ClientOptions) -> None:
        self._source = source
        self._timeout_s = options.token_timeout_s
        self._token: str | None = None  # the newest
        self._refusals = 0
        self._asked_at = -math.inf
        self._early = 0
        self.given = source is not None

    async def fresh(self) -> str | None:
        """A token, or None without a source. Raises ``CannotConnect``; ``HubClosed`` for the one that was refused."""
        if self._source is None:
            return None
        self._asked_at = asyncio.get_running_loop().time()
        refused = self._token if self._refusals else None
        try:
            async with asyncio.timeout(self._timeout_s):
                given = self._source()
                self._token = await given if inspect.isawaitable(given) else given
        except Exception as problem:
            raise CannotConnect(Ended(ABNORMAL, f"get_token failed: {type(problem).__name__}: {problem}")) from problem
        if refused is not None and self._token == refused:
            raise HubClosed(CloseCode.UNAUTHENTICATED, "the hub refused this token, and get_token has no other")
        return self._token

    def renewal_pause_s(self, expires_in_s: float) -> float:
        """Before a renewal that the hub asks for: none, as a rule.

        A token that lives no longer than the hub's notice is expiring from its first moment: what is given instead may
        be no better. A growing part of its life passes before the source is asked again.
        """
        if asyncio.get_running_loop().time() - self._asked_at >= expires_in_s:
            self._early = 0
            return 0.0
        self._early += 1
        return expires_in_s * _SPENT[min(self._early, len(_SPENT)) - 1]

    def latest(self) -> str | None:
        """The newest that was given."""
        return self._token

    def accepted(self) -> None:
        """The hub has welcomed its bearer."""
        self._refusals = 0

    def refused(self, ended: Ended) -> Reconnect:
        """What to do next. Raises ``HubClosed`` when another token would not help."""
        self._refusals += 1
        if self._source is None or self._refusals >= _MAX_REFUSALS:
            raise HubClosed(ended.code, ended.reason)
        return "now"
