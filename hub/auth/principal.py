"""Who is connected: user, organisation, scope, expiry. Made from a verified token or ticket and from nothing else."""

from __future__ import annotations

from functools import lru_cache

from msgspec import Struct

from hub.orgs import OrgId


class Principal(Struct, frozen=True):
    """A verified client. ``expires_at`` and ``issued_at`` are seconds since 1970; 0: the token did not say."""

    user: str
    org: OrgId
    scope: tuple[str, ...]
    expires_at: float
    issued_at: float = 0.0
    name: str = ""

    def allows(self, action: str, target: str = "") -> bool:
        """Whether the scope allows ``action`` (``subscribe``, ``publish``, ``call``, ``admin`` …) on ``target``.

        A scope word is ``action:target`` or ``action``; ``*`` ends a pattern (PROTOCOL section 8).
        """
        word = f"{action}:{target}" if target else action
        exact, prefixes = _patterns(self.scope)
        return word in exact or any(word.startswith(prefix) for prefix in prefixes)


@lru_cache(maxsize=4096)  # clients of one kind have the same scope; evicted ones are made again
def _patterns(scope: tuple[str, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    exact = frozenset(word for word in scope if not word.endswith("*"))
    return exact, tuple(word[:-1] for word in scope if word.endswith("*"))
