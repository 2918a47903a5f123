"""What is left to chance: seeds that stay the same unless somebody wants new ones, and faults dealt like cards."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Sequence
from typing import Generic, TypeVar

_SEEDS = 1_000_000

T = TypeVar("T")


def oracle_seed(scenario: str) -> int:
    """The scenario's own, the same in every run; ORACLE_SEED sets another one, or ``random``: a new one each time."""
    wanted = os.environ.get("ORACLE_SEED")
    if wanted == "random":
        return random.SystemRandom().randrange(_SEEDS)
    return int(wanted) if wanted else zlib.crc32(scenario.encode()) % _SEEDS


class Deck(Generic[T]):
    """Deals each card once, then all of them again in another order."""

    def __init__(self, seed: int, cards: Sequence[T]) -> None:
        self._random = random.Random(seed)
        self._cards = list(cards)
        self._left: list[T] = []

    def deal(self, least: int, most: int) -> list[T]:
        """So many different ones; fewer when the deck comes to its end."""
        count = self._random.randint(least, most)
        self._left = self._left or self._random.sample(self._cards, len(self._cards))
        return [self._left.pop() for _ in range(min(count, len(self._left)))]
