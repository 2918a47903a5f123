"""Subscriptions that flags keep from some transports, or from all, and what has to change for that. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from hub.client.subscription import State, Subscription
from hub.client.wire import Refusal

_FLAG = "flag"


class _Why(Struct, frozen=True):
    refusal: Refusal
    flags: frozenset[str]
    """One of them keeps it from here. Empty: nobody knows which."""

    def away_from(self, transport: str) -> bool:
        """Whether it is to be had, but not over this one."""
        return bool(self.refusal.fallback) and transport not in self.refusal.fallback


class SwitchedOff:
    """``flags`` are always all that are known of the client's user, by name."""

    def __init__(self) -> None:
        self._why: dict[Subscription, _Why] = {}

    def add(self, subscription: Subscription, refusal: Refusal, flags: Mapping[str, bool]) -> None:
        """The hub has refused it, or ended it, by a flag: of those that are off, where it does not say which."""
        named = (refusal.details or {}).get(_FLAG)
        off = (named,) if isinstance(named, str) else (flag for flag, on in flags.items() if not on)
        self._why[subscription] = _Why(refusal, frozenset(off))

    def discard(self, subscription: Subscription) -> None:
        """Nobody wants it any more."""
        self._why.pop(subscription, None)

    def joined(self, subscription: Subscription, transport: str) -> None:
        """It is live over ``transport``. Where that is its fallback, it is still kept from the others."""
        why = self._why.get(subscription)
        if why is not None and (not why.refusal.fallback or why.away_from(transport)):
            del self._why[subscription]

    def on_again(self, flags: Mapping[str, bool]) -> list[Subscription]:
        """Something was switched on: takes out those that may have waited for it."""
        back = [one for one, why in self._why.items() if not why.flags or any(flags.get(f, True) for f in why.flags)]
        for one in back:
            del self._why[one]
        return back

    def elsewhere(self, transport: str) -> tuple[str, ...]:
        """Transports over which something is to be had that is missing on this one. Empty: nothing is."""
        return next((refusal.fallback for _, refusal in self.missing(transport)), ())

    def missing(self, transport: str) -> list[tuple[Subscription, Refusal]]:
        """What is missing on this one and is to be had over another."""
        return [
            (one, why.refusal) for one, why in self._why.items() if one.state is State.OUT and why.away_from(transport)
        ]

    def keeps_from(self, transport: str, flags: Mapping[str, bool]) -> bool:
        """Whether something wanted is known not to be had over this one."""
        return any(
            why.away_from(transport) and why.flags and not any(flags.get(f, True) for f in why.flags)
            for why in self._why.values()
        )
