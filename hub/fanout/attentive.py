"""How far behind those are who acknowledge topics that are paced, and which of them their writers should wait for.

Kept by ``membership``: a subscription is here from its join to its end. ``hub.nodes.attention`` looks at it.
"""

from __future__ import annotations

from hub.topics.subscriptions import LocalTopic, Subscription


class Attentive:
    """Subscriptions with a window to topics of paced kinds.

    One is attentive while it acknowledges: as long as what it owes is not older than ``patience_s`` without anything
    new acknowledged. Whoever owes nothing has this time from when there is something again.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        # What it had acknowledged, and since when it has not acknowledged more although it could have. Bounded by the
        # connections of this node and their topics.
        self._seen: dict[Subscription, tuple[int, float]] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, sub: Subscription) -> None:
        """A subscription was made; those that are of no concern here are passed over."""
        if sub.window and sub.topic.kind.paced:
            self._seen[sub] = (-1, 0.0)

    def discard(self, sub: Subscription) -> None:
        """A subscription has ended."""
        self._seen.pop(sub, None)

    def lags(self, now: float, least: int) -> dict[LocalTopic, int]:
        """By topic, how many events the slowest attentive one is behind, where that is more than ``least``.

        To be called several times in ``patience_s``: acknowledgements are noticed here. ``now``: monotonic seconds.
        """
        lags: dict[LocalTopic, int] = {}
        for sub, (acked, since) in self._seen.items():
            behind = _behind(sub)
            if behind == 0 or sub.acked != acked:
                self._seen[sub] = (sub.acked, now)
            elif now - since > self._patience_s:
                continue
            if behind > max(least, lags.get(sub.topic, 0)):
                lags[sub.topic] = behind
        return lags


def _behind(sub: Subscription) -> int:
    """Events that were sent and not acknowledged, and those that are still to be sent."""
    owed = len(sub.unacked or ())
    # While the epochs differ the topic is being healed, or the subscription reads its first page.
    to_come = sub.topic.top - sub.seq if sub.epoch == sub.topic.epoch else 0
    return owed + max(0, to_come)
