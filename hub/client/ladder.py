"""Which transport comes next: down where one does not get through or is switched off, and up again. Pure; no clock."""

from __future__ import annotations

import random
from collections.abc import Sequence

from msgspec.structs import replace

from hub.client.options import ClientOptions, TransportName
from hub.client.refusals import passes
from hub.client.transport import ABNORMAL, Ended

# 2**n grows past any float long before anybody stops trying.
_MAX_DOUBLINGS = 16
# Nodes hear of a change within a second. So long another one may not know yet what this client was told.
_SPREAD_S = 5.0


class Ladder:
    """The transports of one client, the best on top. ``now`` is any clock's time in seconds that only goes forward."""

    def __init__(self, options: ClientOptions, rng: random.Random | None = None) -> None:
        self._options = options
        self._rng = rng or random.Random()
        self._names = options.transports
        self._at = 0
        self._proven: set[TransportName] = set()
        self._failures = 0
        self._refused: dict[TransportName, Ended] = {}
        self._up_since: float | None = None
        self._vain = 0
        self._cuts: dict[TransportName, int] = {}
        self.climb_at: float | None = None
        """When to try what is above. None: nothing is, or nothing has worked yet."""
        self.too_early = False
        """Whether the last attempt was refused by a flag, or met a late request of this client's own. The caller's."""
        self._told_at: float | None = None

    @property
    def current(self) -> TransportName:
        """To be used now."""
        return self._names[self._at]

    @property
    def above(self) -> Sequence[TransportName]:
        """Better ones, the best first."""
        return self._names[: self._at]

    @property
    def others(self) -> bool:
        """Whether there is another one to go to."""
        return len(self._names) > 1

    def welcomed(self, name: TransportName, now: float) -> None:
        """It works: it is what is used from here on, until something else is learnt."""
        self._at = self._names.index(name)
        self._proven.add(name)
        self._failures = 0
        self._refused.clear()
        if self._at > 0:
            self._left_top(now)
        if self._at == 0:
            self._up_since = now if self._up_since is None else self._up_since
            self.climb_at = None
        elif self.climb_at is None:
            # A connection that is lost now and then must not put this off each time.
            self.climb_at = now + self._pause_s()

    def failed(self, ended: Ended, now: float, lived_s: float | None = None) -> Ended | None:
        """``current`` failed, ``lived_s`` after its welcome or before. None: try ``current`` now; else the end that
        counts.

        When every transport was refused for good, by whomever, that is the refusal of the best one. Once one has
        worked, what somebody on the way says is never for good: the status is left out then.
        """
        if ended.disabled and self.fall_to(ended.fallback, now) is not None:
            return None
        if not ended.in_the_way:
            self._refused.clear()
            if lived_s is None or not self._is_cut(ended, lived_s):
                return ended
            self._go_to(self._at + 1, now)
            return None
        self._failures += 1
        if self._proven:
            ended = replace(ended, http_status=None)
        if ended.http_status is not None and not passes(ended.http_status):
            self._refused.setdefault(self.current, ended)
        else:
            self._refused.clear()
        if len(self._refused) == len(self._names):
            return self._refused[self._names[0]]
        if not self.others:
            return ended
        patient = self.current in self._proven and lived_s is None
        if self._failures >= (self._options.attempts_of_proven if patient else 1):
            self._go_to((self._at + 1) % len(self._names), now)
        return None

    def lasted(self, name: TransportName, lived_s: float) -> None:
        """A connection over ``name`` was left, or has ended."""
        if lived_s >= self._options.short_life_s:
            self._cuts.pop(name, None)

    def fall_to(self, names: Sequence[str], now: float) -> TransportName | None:
        """The first of ``names`` that this client has is ``current`` from here on. None: it is already, or has none."""
        if self.current in names:
            return None
        for name in names:
            if name in self._names:
                self._go_to(self._names.index(name), now, asked=True)
                return self.current
        return None

    def not_climbed(self, now: float, *, in_vain: bool) -> None:
        """Nothing above works: a longer pause if that was ``in_vain``, the same one if flags were the reason.

        Only a moment, where it was ``too_early`` after something was switched on.
        """
        if self.too_early and self._told_at is not None and now - self._told_at < _SPREAD_S:
            pause_s = self._options.move_jitter_s * self._rng.uniform(0.5, 1.0)
            self.climb_at = now + max(self._options.backoff_floor_s, pause_s)
            return
        self._vain += in_vain
        self.climb_at = now + self._pause_s()

    def climb_soon(self, now: float) -> None:
        """Something was switched on: worth an attempt now, spread a little."""
        if self._at > 0:
            self._told_at = now
            self.climb_at = now + self._rng.uniform(0, self._options.move_jitter_s)

    def _is_cut(self, ended: Ended, lived_s: float) -> bool:
        """Whether connections over ``current`` break off again and again, and there is a step down."""
        name = self.current
        self.lasted(name, lived_s)
        if ended.code != ABNORMAL or lived_s >= self._options.short_life_s:
            return False
        # Kept on a climb: one more end of that kind is enough then.
        self._cuts[name] = self._cuts.get(name, 0) + 1
        return self._cuts[name] >= self._options.cuts_to_leave and self._at + 1 < len(self._names)

    def _go_to(self, at: int, now: float, *, asked: bool = False) -> None:
        if at > 0:
            self._left_top(now, asked=asked)
        self._at = at
        self._failures = 0

    def _left_top(self, now: float, *, asked: bool = False) -> None:
        if self._up_since is not None:
            # Up for a moment only is as good as in vain: no flapping. Unless the hub has asked for it.
            stayed = now - self._up_since >= self._options.upgrade_after_s
            self._vain = 0 if stayed else self._vain + (not asked)
            self._up_since = None

    def _pause_s(self) -> float:
        doubled: float = self._options.upgrade_after_s * 2 ** min(self._vain, _MAX_DOUBLINGS)
        return min(self._options.upgrade_max_s, doubled) * self._rng.uniform(0.75, 1.0)
