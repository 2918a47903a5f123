"""How long to wait before the next attempt to connect. Pure: time and sockets belong to ``hub.client.link``."""

from __future__ import annotations

import random

from hub.client.options import ClientOptions
from hub.protocol.codes import Reconnect

# 2**n grows past any float long before a client gives up.
_MAX_DOUBLINGS = 16


class Backoff:
    """Full jitter over a doubling bound; the first attempt after ``now`` comes almost at once."""

    def __init__(self, options: ClientOptions, rng: random.Random | None = None) -> None:
        self._options = options
        self._rng = rng or random.Random()
        self._attempt = 0

    def reset(self) -> None:
        """The last connection was a good one: start from the shortest pause again."""
        self._attempt = 0

    def next_s(self, when: Reconnect = "later") -> float:
        """Seconds until the next attempt. ``when``: the close code's advice; it matters for the first attempt only."""
        options = self._options
        attempt, self._attempt = self._attempt, self._attempt + 1
        if when == "now" and attempt == 0:
            return self._rng.uniform(0, options.now_jitter_s)
        bound = min(options.backoff_max_s, options.backoff_base_s * 2 ** min(attempt, _MAX_DOUBLINGS))
        return max(options.backoff_floor_s, self._rng.uniform(0, bound))
