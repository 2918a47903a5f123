"""Answers over HTTP that take long: what ends a connection ends them too.

A connection is told to go and closed; such an answer is told to end, and with what words it ends is its own matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

from hub.auth.principal import Principal
from hub.errors import ErrorCode, HubError

Ending = asyncio.Future[HubError]


class Answers:
    """Those of one node. Lives on its event loop."""

    def __init__(self) -> None:
        self._open: dict[Ending, Principal] = {}
        self._draining = False

    @contextlib.contextmanager
    def answering(self, principal: Principal) -> Iterator[Ending]:
        """While an answer is written. Done when it must end, with what to tell: the token has expired, the user was
        thrown out, or the node leaves. Raises ``unavailable`` when it is leaving already."""
        if self._draining:
            raise _leaving()
        loop = asyncio.get_running_loop()
        ending: Ending = loop.create_future()
        expiry = loop.call_later(max(0.0, principal.expires_at - time.time()), _end, ending, _expired())
        self._open[ending] = principal
        try:
            yield ending
        finally:
            del self._open[ending]
            expiry.cancel()
            ending.cancel()

    def drain(self) -> None:
        """The node leaves: all end, and none begins."""
        self._draining = True
        for ending in self._open:
            _end(ending, _leaving())

    def kick(self, org: str, user: str, issued_before: float, error: HubError) -> None:
        """Ends those of a user whose token was issued before, or does not say when it was."""
        for ending, principal in self._open.items():
            if (str(principal.org), principal.user) == (org, user) and principal.issued_at <= issued_before:
                _end(ending, error)


def _end(ending: Ending, error: HubError) -> None:
    if not ending.done():
        ending.set_result(error)


def _leaving() -> HubError:
    return HubError(ErrorCode.UNAVAILABLE, "this node is leaving; ask again, and another one answers", retry="now")


def _expired() -> HubError:
    return HubError(ErrorCode.TOKEN_EXPIRED, "the token has expired; ask again with a fresh one")
