"""What the synchronous parts of the fan-out want done later: a topic healed, a subscription caught up.

``Delivery`` and ``Dispatcher`` run errands; ``Healer`` and ``CatchUp`` perform them and use both. This object stands
between them, so that each can be built and tested without the other.
"""

from __future__ import annotations

from collections.abc import Callable

from hub.topics.publication import Publication
from hub.topics.subscriptions import LocalTopic, Subscription


class Errands:
    """Two requests, and four notices. The composition root names who takes them before anything is delivered."""

    __slots__ = ("catch_up", "doubted", "ephemeral", "gapped", "heal", "live")

    heal: Callable[[LocalTopic], None]
    """History must be read for the whole live set of a topic."""
    catch_up: Callable[[Subscription], None]
    """History must be read for one subscription."""
    live: Callable[[Subscription], None]
    """A subscription of a kind with presence gets from now on what comes."""
    ephemeral: Callable[[LocalTopic, Publication], None]
    """What is not kept has come for a topic of such a kind; it has not been written to anybody yet."""
    doubted: Callable[[LocalTopic], None]
    """What is not kept may have been lost for a topic of such a kind."""
    gapped: Callable[[Subscription], None]
    """A subscription was told of a gap."""

    def __init__(self) -> None:
        self.live = self.doubted = self.gapped = _nobody
        self.ephemeral = _nobody

    def performed_by(self, *, heal: Callable[[LocalTopic], None], catch_up: Callable[[Subscription], None]) -> None:
        """Names who performs the requests."""
        self.heal = heal
        self.catch_up = catch_up

    def watched_by(
        self,
        *,
        live: Callable[[Subscription], None],
        ephemeral: Callable[[LocalTopic, Publication], None],
        doubted: Callable[[LocalTopic], None],
    ) -> None:
        """Names who keeps presence. They are called in the middle of a delivery: quick, and without raising."""
        self.live = live
        self.ephemeral = ephemeral
        self.doubted = doubted


def _nobody(*_: object) -> None:
    pass
