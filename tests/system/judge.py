"""The verdict: what Redis holds at the end, what was acknowledged, and what every client has seen, held together.

Redis is read here with plain commands, so that a fault in the hub's own reading cannot hide another one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import redis

from hub.orgs import OrgId
from hub.topics.topic import Topic
from tests.system.publisher import Entry
from tests.system.witness import Witness

_MOST_SHOWN = 20


@dataclass(slots=True)
class Truth:
    """One topic as Redis has it."""

    topic: str
    epoch: str
    top: int
    numbers: dict[int, int]
    """Number of the event by ``seq``, of everything kept."""


def read_truth(link: redis.Redis, org: str, topics: Iterable[str]) -> dict[str, Truth]:
    """All topics. ``link`` decodes its responses, and finds the right node of a cluster."""
    truths = {}
    for text in topics:
        kind, _, key = text.partition(":")
        names = Topic(OrgId.from_claim(org), kind, key).names
        epoch, top = link.hmget(names.position, "epoch", "seq")
        numbers = {}
        for entry_id, fields in link.xrange(names.history):
            numbers[int(entry_id.split("-")[0])] = msgspec.json.decode(fields["body"])["data"]["number"]
        truths[text] = Truth(text, epoch or "", int(top or 0), numbers)
    return truths


@dataclass(slots=True)
class Figures:
    """What one scenario came to; ``faults`` must be empty."""

    scenario: str
    seed: int = 0
    published: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    gaps: int = 0
    epoch_changes: int = 0
    """Of the gaps, those without a range."""
    repeats: int = 0
    """Events that came again after a reconnect by session, as the protocol allows."""
    reconnects: int = 0
    heal_s: float = math.nan
    notes: list[str] = field(default_factory=list)
    """What was done, where that was drawn by lot."""
    faults: list[str] = field(default_factory=list)

    def require_clean(self) -> None:
        """Fails with everything that is needed to see what happened, and to run it again."""
        if self.faults:
            shown = "\n  ".join(self.faults[:_MOST_SHOWN])
            raise AssertionError(
                f"{self.scenario} (ORACLE_SEED={self.seed}): {len(self.faults)} faults; lost {self.lost}, "
                f"duplicated {self.duplicated}, out of order {self.out_of_order} {self.notes or ''}\n  {shown}"
            )


def judge(
    figures: Figures,
    witnesses: Sequence[Witness],
    entries: Mapping[int, Entry],
    truths: Mapping[str, Truth],
    *,
    keeps_data: bool,
) -> None:
    """Fills ``figures``. ``keeps_data``: nothing that was acknowledged may be missing from Redis."""
    for truth in truths.values():
        figures.faults += _check_truth(truth, entries, keeps_data=keeps_data, lost=figures)
    for witness in witnesses:
        figures.faults += witness.complaints
        figures.faults += _check_witness(figures, witness, truths[witness.topic], entries)
    counts: Counter[str] = sum((witness.counts for witness in witnesses), Counter())
    figures.published = sum(entry.acknowledged for entry in entries.values())
    figures.delivered += counts["events"]
    figures.lost += counts["lost"]
    figures.duplicated += counts["duplicated"]
    figures.out_of_order += counts["out of order"]
    figures.repeats += counts["repeats"]
    figures.gaps += sum(len(witness.gaps) for witness in witnesses)
    figures.epoch_changes += sum(gap.reason == "epoch_changed" for item in witnesses for gap in item.gaps)


def _check_truth(truth: Truth, entries: Mapping[int, Entry], *, keeps_data: bool, lost: Figures) -> list[str]:
    """Redis against the ledger."""
    faults = []
    times = Counter(truth.numbers.values())
    twice = [number for number, often in times.items() if often > 1]
    lost.duplicated += len(twice)
    faults += [f"{truth.topic}: number {number} happened {times[number]} times in one epoch" for number in twice]
    for seq, number in truth.numbers.items():
        entry = entries.get(number)
        if entry is None or entry.topic != truth.topic:
            faults.append(f"{truth.topic}: number {number} at {seq} was never published here")
    first = min(truth.numbers, default=truth.top + 1)
    mine = [entry for entry in entries.values() if entry.topic == truth.topic and entry.acknowledged]
    for entry in mine:
        if entry.number in times or (entry.epoch == truth.epoch and entry.seq < first):
            continue
        # What SQL has committed survives the Redis server that had it; the rest survives with the server's data.
        if keeps_data or entry.way == "sql" or entry.epoch == truth.epoch:
            if first > 1 and keeps_data:
                continue  # trimmed; the witnesses tell whether it was delivered
            lost.lost += 1
            faults.append(f"{truth.topic}: number {entry.number} ({entry.way}) was acknowledged and is not there")
    order = [entries[number].outbox_number for _, number in sorted(truth.numbers.items()) if number in entries]
    committed = [number for number in order if number]
    if committed != sorted(committed):
        lost.out_of_order += 1
        faults.append(f"{truth.topic}: SQL events do not stand in the order of their commits")
    return faults


def _check_witness(figures: Figures, witness: Witness, truth: Truth, entries: Mapping[int, Entry]) -> list[str]:
    """One client against Redis and the ledger."""
    faults = []
    where = f"{witness.who} {witness.topic}"
    if (witness.epoch, witness.seq) != (truth.epoch, truth.top):
        faults.append(f"{where}: ended at {witness.epoch}/{witness.seq}, the top is {truth.epoch}/{truth.top}")
    missing = [
        seq
        for seq, number in truth.numbers.items()
        if number not in witness.numbers and not witness.covers(truth.epoch, seq)
    ]
    if missing:
        figures.lost += len(missing)
        faults.append(f"{where}: {len(missing)} events never came, the first is {truth.epoch}/{min(missing)}")
    invented = [number for number in witness.numbers if number not in entries or entries[number].topic != witness.topic]
    if invented:
        faults.append(f"{where}: events {invented[:5]} were never published there")
    wrong = [
        place
        for place, number in witness.seen.items()
        if place.epoch == truth.epoch and truth.numbers.get(place.seq, number) != number
    ]
    if wrong:
        faults.append(f"{where}: {len(wrong)} events differ from those in Redis, the first is {wrong[0]}")
    return faults
