"""What the synchronous parts of the fan-out want done later: a topic healed, a subscription caught up.

``Delivery`` and ``Dispatcher`` run errands; ``Healer`` and ``CatchUp`` perform them and use both. This object stands
between them, so that each can be built and tested without the other.
"""

from __future__ import annotations

from collections.abc import Callable

from hub.topics.subscriptions import LocalTopic, Subscription


class Errands:
    """Two requests. ``performed_by`` is called once, by the composition root, before anything is delivered."""

    __slots__ = ("catch_up", "heal")

    heal: Callable[[LocalTopic], None]
    """History must be read for the whole live set of a topic."""
    catch_up: Callable[[Subscription], None]
    """History must be read for one subscription."""

    def performed_by(self, *, heal: Callable[[LocalTopic], None], catch_up: Callable[[Subscription], None]) -> None:
        """Names who performs them."""
        self.heal = heal
        self.catch_up = catch_up
