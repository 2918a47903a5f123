"""Carries the outbox to Redis: every committed row, per topic in the order of the commits, once.

A node relays the shards whose locks its connection holds; when the connection is lost it stops, and any node goes on.
That repeats rows, never reorders them: idempotency keys turn the repeats into duplicates. Reading and settling rows is
``hub.database.outbox``.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Sequence
from enum import Enum, auto

import msgspec
import structlog

from hub.config import Settings
from hub.database.outbox import Outbox, OutboxRow, open_outbox
from hub.errors import HubError
from hub.fanout.bodies import encode_body
from hub.fanout.broker import Broker, ConditionFailed, Draft, Published, ServerChanged
from hub.orgs import OrgId
from hub.protocol.codec import check_data
from hub.telemetry import Metrics
from hub.topics.kinds import TopicKind, TopicKinds
from hub.topics.topic import Topic, parse_topic

_log = structlog.get_logger(__name__)

_FIRST_PAUSE_S = 0.05
# A turn ends well before PostgreSQL takes this session for hung.
_TURN_SHARE = 1 / 3


class _Unpublishable(Exception):
    """This row can never be published; the text says why."""


class _UnknownTopic(_Unpublishable):
    """No service of this node registers such a topic; during a deployment another node may."""


class _Backoff:
    """Pauses that double up to a limit, with jitter, until something succeeds."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._next_s = _FIRST_PAUSE_S

    def reset(self) -> None:
        self._next_s = _FIRST_PAUSE_S

    async def sleep(self) -> None:
        pause_s = self._next_s * random.uniform(0.5, 1)
        self._next_s = min(self._next_s * 2, self._longest_s)
        await asyncio.sleep(pause_s)


class _Run:
    """The rows of one topic in a batch, in order."""

    def __init__(self, row: OutboxRow) -> None:
        self.name = (row.org, row.topic)
        self.rows = deque([row])
        self.server = row.server
        """Where the relayed rows of this topic are, and so where the next one must go."""


class _Outcome:
    """What a turn has done, to be written down in one go."""

    def __init__(self) -> None:
        self.relayed: list[tuple[int, str | None]] = []
        self.kinds: Counter[str] = Counter()
        self.failed: list[tuple[int, str]] = []
        self.moved: dict[tuple[str, str], str] = {}
        self.blocked: list[tuple[str, str]] = []


class _Progress(Enum):
    NOTHING_TO_DO = auto()
    ALL = auto()
    """What is pending now was committed after the look, and its notification is yet to be waited for."""
    SOME = auto()
    STUCK = auto()


class OutboxRelay:
    """The relay of one node: ``start``, ``close``. It survives outages of Redis and PostgreSQL."""

    def __init__(self, settings: Settings, broker: Broker, kinds: TopicKinds, metrics: Metrics | None = None) -> None:
        self._settings = settings
        self._broker = broker
        self._kinds = kinds
        self._metrics = metrics
        self._outbox: Outbox | None = None
        self._task: asyncio.Task[None] | None = None
        self.relayed = 0
        """Rows brought to Redis by this node, repeats included."""
        self.failed = 0
        """Rows that could never be published."""

    def start(self) -> None:
        """Begins, whether PostgreSQL and Redis are there or not."""
        self._task = asyncio.create_task(self.run(), name="outbox relay")

    async def close(self) -> None:
        """Stops; what is under way is left to whoever relays next."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def connected(self) -> bool:
        """Whether it stands by to relay, with shards or without."""
        return self._outbox is not None and not self._outbox.closed

    @property
    def held(self) -> frozenset[int]:
        """Shards that this node relays now."""
        return self._outbox.held if self._outbox is not None and not self._outbox.closed else frozenset()

    def count(self, outcome: _Outcome) -> None:
        """Adds what one turn has relayed."""
        self.relayed += len(outcome.relayed)
        if self._metrics is not None:
            for kind, count in outcome.kinds.items():
                self._metrics.published(kind, "outbox", count)

    async def run(self) -> None:
        """Relays until cancelled. After a lost connection it begins anew, with a growing pause."""
        pause = _Backoff(self._settings.reconnect_max_s)
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                async with open_outbox(self._settings) as outbox:
                    self._outbox = outbox
                    await outbox.take_shards()
                    await _Shift(self, outbox, self._settings, self._broker, self._kinds).work()
            except HubError as error:
                _log.warning("outbox relay interrupted", reason=error.message, cause=repr(error.__cause__))
            except Exception:
                # Nobody else would notice that events no longer leave.
                _log.exception("outbox relay failed")
            finally:
                self._outbox = None
            if loop.time() - began > self._settings.reconnect_max_s:
                pause.reset()
            await pause.sleep()


class _Shift:
    """What a relay does with one connection, until it is lost."""

    def __init__(
        self, relay: OutboxRelay, outbox: Outbox, settings: Settings, broker: Broker, kinds: TopicKinds
    ) -> None:
        self._relay = relay
        self._outbox = outbox
        self._settings = settings
        self._broker = broker
        self._kinds = kinds
        self._blocked: dict[tuple[str, str], float] = {}
        self._servers: frozenset[str] = frozenset()
        self._next_rounds = 0.0
        self._overdue = False
        self._checked: frozenset[int] = frozenset()

    async def work(self) -> None:
        pause = _Backoff(self._settings.reconnect_max_s)
        loop = asyncio.get_running_loop()
        while True:
            if loop.time() >= self._next_rounds:
                await self._look_around()
                self._next_rounds = loop.time() + self._settings.outbox_poll_s
            progress = await self._turn()
            if progress is _Progress.STUCK:
                await pause.sleep()
                continue
            if progress is not _Progress.NOTHING_TO_DO:
                pause.reset()
            if progress is not _Progress.SOME:
                await self._rest()

    async def _rest(self) -> None:
        """Until there is something to relay, or to look around for."""
        if self._overdue and not self._outbox.woken:
            # One batch at a time, so that a long tail does not hold up what is new.
            self._overdue = await self._outbox.purge()
        else:
            await self._outbox.wait(max(0.0, self._next_rounds - asyncio.get_running_loop().time()))

    async def _look_around(self) -> None:
        """Free shards, other Redis servers, rows whose time is over."""
        await self._outbox.take_shards()
        if not self._outbox.held:
            return
        await self._check_servers()
        self._overdue = await self._outbox.purge()

    async def _check_servers(self) -> None:
        """Relays again what was on a server that is gone, also for topics that stay quiet."""
        held = self._outbox.held
        try:
            servers = frozenset((await self._broker.servers()).values())
        except HubError:
            return
        if not servers or (servers == self._servers and held == self._checked):
            return
        reopened = await self._outbox.reopen_gone(servers)
        # Only now: when the statement fails it has to be repeated.
        self._servers, self._checked = servers, held
        if reopened:
            _log.warning("redis server changed; outbox rows are relayed again", rows=reopened)

    async def _turn(self) -> _Progress:
        if not self._outbox.held:
            return _Progress.NOTHING_TO_DO
        now = asyncio.get_running_loop().time()
        self._blocked = {name: until for name, until in self._blocked.items() if until > now}
        rows = await self._outbox.pending(self._blocked)
        if not rows:
            return _Progress.NOTHING_TO_DO
        outcome = await self._publish(rows, now + self._settings.outbox_hang_s * _TURN_SHARE)
        await self._settle(outcome)
        if self._is_everything(rows) and len(outcome.relayed) + len(outcome.failed) == len(rows):
            return _Progress.ALL
        if outcome.relayed or outcome.failed or outcome.moved:
            return _Progress.SOME
        return _Progress.STUCK

    def _is_everything(self, rows: Sequence[OutboxRow]) -> bool:
        """Whether nothing else was pending in the held shards, but for blocked topics."""
        settings = self._settings
        return len(rows) < settings.outbox_batch and sum(row.bytes for row in rows) < settings.outbox_batch_bytes

    async def _publish(self, rows: Sequence[OutboxRow], deadline: float) -> _Outcome:
        """Publishes in rounds, one row per topic and round: a row that is refused must not be overtaken by the next."""
        outcome = _Outcome()
        runs = _runs(rows)
        loop = asyncio.get_running_loop()
        while runs and loop.time() < deadline and not self._outbox.closed:
            sent = [(run, draft) for run in runs if (draft := self._next_draft(run, outcome)) is not None]
            if not sent:
                break
            for (run, draft), answer in zip(sent, await self._send([draft for _, draft in sent]), strict=True):
                _take(run, draft, answer, outcome)
            runs = [run for run, _ in sent if run.rows]
        return outcome

    async def _send(self, drafts: list[Draft]) -> Sequence[Published | HubError | ConditionFailed]:
        try:
            return await self._broker.publish_many(drafts)
        except HubError as error:
            return [error] * len(drafts)

    def _next_draft(self, run: _Run, outcome: _Outcome) -> Draft | None:
        """The run's first row that can be published; those before it fail."""
        while run.rows:
            row = run.rows[0]
            try:
                return self._draft(row, run.server)
            except _Unpublishable as reason:
                if isinstance(reason, _UnknownTopic) and row.age_s < self._settings.outbox_unknown_s:
                    outcome.blocked.append(run.name)
                    run.rows.clear()
                    return None
                outcome.failed.append((row.id, str(reason)))
                run.rows.popleft()
        return None

    def _draft(self, row: OutboxRow, server: str | None) -> Draft:
        topic, kind = self._resolve(row)
        body = _body(row, self._settings.max_event_bytes)
        return Draft(topic, kind.history, body, key=row.key, if_server=server if kind.history else None)

    def _resolve(self, row: OutboxRow) -> tuple[Topic, TopicKind]:
        try:
            topic = parse_topic(OrgId.from_row(row.org), row.topic)
            return topic, self._kinds.resolve_internal(topic)
        except ValueError as error:
            raise _Unpublishable("malformed organisation") from error
        except HubError as error:
            raise _UnknownTopic("no service of this hub registers such a topic") from error

    async def _settle(self, outcome: _Outcome) -> None:
        if outcome.failed:
            await self._outbox.mark_failed(outcome.failed)
            self._relay.failed += len(outcome.failed)
            for row_id, reason in outcome.failed:
                _log.error("outbox row can never be published", row=row_id, reason=reason)
        if outcome.relayed:
            await self._outbox.mark_relayed(outcome.relayed)
            self._relay.count(outcome)
        # After the marks: a row that went to the old server in this very turn is among those to be relayed again.
        for (org, topic), server in outcome.moved.items():
            await self._outbox.reopen_topic(org, topic, server)
        self._block(outcome.blocked)

    def _block(self, names: Sequence[tuple[str, str]]) -> None:
        """Lets other topics go first for a while, so that one lost server of a cluster does not hold up the rest."""
        until = asyncio.get_running_loop().time() + self._settings.reconnect_max_s
        for name in names:
            # Beyond the bound nothing is lost: the topic is only tried again sooner.
            if len(self._blocked) < self._settings.outbox_max_blocked_topics:
                self._blocked[name] = until


def _runs(rows: Sequence[OutboxRow]) -> list[_Run]:
    runs: dict[tuple[str, str], _Run] = {}
    for row in rows:
        run = runs.get((row.org, row.topic))
        if run is None:
            runs[row.org, row.topic] = _Run(row)
        else:
            run.rows.append(row)
    return list(runs.values())


def _take(run: _Run, draft: Draft, answer: Published | HubError | ConditionFailed, outcome: _Outcome) -> None:
    """Notes one answer. A run that cannot go on in this turn loses its rows; they are pending still."""
    match answer:
        case Published():
            run.server = answer.server
            outcome.relayed.append((run.rows.popleft().id, answer.server if draft.history else None))
            outcome.kinds[draft.topic.kind] += not answer.duplicate
        case ServerChanged():
            outcome.moved[run.name] = answer.server
            run.rows.clear()
        case HubError(retry="never"):
            outcome.failed.append((run.rows.popleft().id, answer.message))
        case _:
            outcome.blocked.append(run.name)
            run.rows.clear()


def _body(row: OutboxRow, max_bytes: int) -> bytes:
    try:
        # jsonb is printed with blanks; nobody should pay for them on every delivery.
        data = msgspec.json.format(row.data.encode(), indent=-1)
        # hub_publish has looked at the same, but with the eyes of the release that wrote the row.
        check_data(msgspec.json.decode(data))
    except (msgspec.DecodeError, RecursionError) as error:
        raise _Unpublishable("the data cannot be read") from error
    except HubError as error:
        raise _Unpublishable(error.message) from error
    if len(data) > max_bytes:
        raise _Unpublishable(f"the data has {len(data)} bytes; HUB_MAX_EVENT_BYTES is {max_bytes}")
    tags = None if row.tags is None else msgspec.Raw(row.tags.encode())
    return encode_body(row.event_id, row.name, msgspec.Raw(data), tags, row.by)
