"""How many texts one user, or one address, may ask for, and how many are written for a user at once."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from hub.api import ErrorCode, HubError, Principal, Settings, SharedLimits, ip_block

_RETRY_AFTER_MS = 1000


class AssistantLimits:
    """Of one node; made once. Requests are counted over all nodes; answers at once, by each process for itself."""

    def __init__(self, limits: SharedLimits, settings: Settings) -> None:
        self._users = limits.bucket(
            "assistant",
            per_second=settings.assistant_requests_per_minute / 60,
            burst=settings.assistant_requests_burst,
        )
        self._addresses = limits.bucket(
            "assistant-ip",
            per_second=settings.assistant_ip_requests_per_minute / 60,
            burst=settings.assistant_ip_requests_burst,
        )
        self._most = settings.assistant_max_per_user
        self._writing: Counter[tuple[str, str]] = Counter()

    async def spend(self, principal: Principal, address: str = "") -> None:
        """One text is asked for, from ``address`` if that is known. Raises ``rate_limited``."""
        # The user first: who is over a limit of his own uses up nothing of those who share his address.
        await self._users.spend(principal.org, principal.user)
        if address:
            await self._addresses.spend(principal.org, f"ip:{ip_block(address)}")

    @contextlib.contextmanager
    def writing(self, principal: Principal) -> Iterator[None]:
        """While an answer is written for the user. Raises ``rate_limited`` when there are as many as may be."""
        user = (str(principal.org), principal.user)
        if self._writing[user] >= self._most:
            text = f"{self._most} texts are being written for you; wait for one to end"
            raise HubError(ErrorCode.RATE_LIMITED, text, retry_after_ms=_RETRY_AFTER_MS)
        self._writing[user] += 1
        try:
            yield
        finally:
            self._writing[user] -= 1
            if not self._writing[user]:
                del self._writing[user]
