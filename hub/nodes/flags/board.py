"""The flags of a node: decided here, by a file that is watched and by what PostgreSQL has, which all nodes share.

Reading a flag never waits and never fails. While the file is invalid or PostgreSQL is away, what was known last counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import structlog

from hub.config import Settings
from hub.database import Database
from hub.errors import ErrorCode, HubError
from hub.fanout.control import Control, FlagsChanged
from hub.flags import Evaluation, Evaluator, FlagFile, OnFlagChange, Override, StageState, Subject
from hub.nodes.flags.committed import Committed
from hub.nodes.flags.counting import FlagCounts
from hub.nodes.flags.line import Line
from hub.nodes.flags.source import FileProblem, FlagSource, Look, may_be_half
from hub.nodes.flags.store import AuditRow, Change, Changed, FlagStore, Stored
from hub.nodes.flags.watcher import FolderWatcher
from hub.orgs import OrgId
from hub.telemetry import FlagMetrics

# However many changes there are in a second, nodes read so often at most.
_READ_PAUSE_S: Final = 0.05
# Whoever changes a flag waits so long for what this node reads then; later it decides by what was committed alone.
_OWN_READ_S: Final = 1.0
# A node that has never read decides by the file, whatever was killed.
_UNKNOWN_PAUSE_S: Final = 0.5
# What stood in the file twice so long apart is no half of something.
_SETTLE_S: Final = 0.05
# … where it looks like all of it; else that long, counted from its last change.
_HALF_SETTLE_S: Final = 1.0
_EXPIRE_EVERY_S: Final = 3600.0
_MOST_NAMED: Final = 50  # flags in a message

_T = TypeVar("_T")

log = structlog.get_logger(__name__)


class FlagBoard:
    """Implements ``Flags``. Complete as soon as it is made, by the file alone; ``start`` adds what was changed."""

    def __init__(self, settings: Settings, database: Database, control: Control, metrics: FlagMetrics) -> None:
        """Raises ``ConfigError`` when the file is invalid: a node that starts has no last good one."""
        self._settings = settings
        self._control = control
        self._source = FlagSource(settings)
        org = OrgId.from_operator(settings.flags_org) if settings.flags_org else None
        self.store = FlagStore(database, org, settings.flags_audit_keep_s)
        file, first = self._source.first()
        self._digest, self._good = first.digest, first.stamp
        self.evaluator = Evaluator(file)
        self.stored = Stored(0, {}, {})
        """What PostgreSQL had when it was asked last."""
        self.problem: FileProblem | None = None
        """Why the file that is there now is not in effect."""
        self.away: str | None = None
        """Why PostgreSQL could not be asked; what it had before counts."""
        self.reads = 0
        """How often PostgreSQL was asked."""
        self.known = False
        """Whether it has answered at all; until then the file alone counts, also for what was switched off since."""
        self.metrics = FlagCounts(metrics)
        self._actions: list[OnFlagChange] = []
        self._file_wake = asyncio.Event()
        self._wake = asyncio.Event()
        self._asked: list[asyncio.Future[None]] = []
        self._line = Line(settings.flags_changes_waiting)
        self._committed = Committed()
        self._untold = False
        """Whether others may not have been told of a change of this node's."""
        self._watcher = FolderWatcher(self._source.folders, self._file_wake.set)
        self._tasks: list[asyncio.Task[None]] = []
        control.on(FlagsChanged, self._told)
        control.on_doubt(self._wake.set)

    # --- deciding

    @property
    def version(self) -> str:
        """Of the file and all changes; the same on every node that knows the same."""
        return self.evaluator.version

    @property
    def file(self) -> FlagFile:
        """The file that is in effect."""
        return self.evaluator.file

    @property
    def source(self) -> str:
        """Where it came from."""
        return self._source.name

    def evaluate(self, flag: str, subject: Subject) -> Evaluation:
        """One flag, of any type."""
        found = self.evaluator.evaluate(flag, subject)
        self.metrics.evaluated(found)
        return found

    def on(self, flag: str, subject: Subject) -> bool:
        """Whether a boolean flag is on. Not counted: this is asked with every request."""
        return self.evaluator.on(flag, subject)

    def values(self, subject: Subject) -> Mapping[str, bool]:
        """All boolean flags. One mapping for all who have the same: do not change it."""
        outcome = self.evaluator.outcome(subject)
        self.metrics.decided(outcome)
        return outcome.values

    def on_change(self, action: OnFlagChange) -> None:
        """Names somebody who is told of changes, of the file's too."""
        self._actions.append(action)

    # --- changing

    async def change(self, changes: Sequence[Change], who: str, why: str) -> list[Override | None]:
        """Changes flags on all nodes: all of ``changes`` or none; answers with each flag's override then.

        When it returns this node decides by it. Raises ``not_found`` for a flag that the file does not have (what is
        left of one can be cleared), ``bad_request`` for a percentage of a flag that is not on or off, ``conflict`` when
        an ``if_version`` is not met, ``rate_limited`` while too many wait, ``unavailable``: then it may have happened.
        """
        for change in changes:
            self._check(change)

        async def commit() -> Changed:
            done = await self.store.change(changes, who, why)
            self._committed.changed(changes, done)
            return done

        done = await self._line.wait(lambda: self._spread(commit))
        await self._settle()
        return done.overrides

    async def set_stage(self, state: StageState, *, kind: Literal["stage", "rollback"], who: str, why: str) -> int:
        """Writes where a schedule stands, on all nodes, before the changes that wait in line.

        ``FlagStore.set_stage`` says what is raised.
        """

        async def commit() -> int:
            version = await self.store.set_stage(state, kind=kind, who=who, why=why)
            self._committed.staged(state.flag, version, state)
            return version

        version = await self._line.first(lambda: self._spread(commit))
        await self._settle()
        return version

    async def drop_stage(self, flag: str, *, who: str, why: str) -> None:
        """Forgets a schedule that the file has no more."""

        async def commit() -> None:
            self._committed.staged(flag, await self.store.drop_stage(flag, who=who, why=why), None)

        await self._line.first(lambda: self._spread(commit))
        await self._settle()

    async def audit(self, flag: str | None, limit: int, before: int | None) -> list[AuditRow]:
        """Who changed what, the newest first. Raises ``unavailable``."""
        return await self.store.audit(flag, limit, before)

    def _check(self, change: Change) -> None:
        definition = self.file.flags.get(change.flag)
        if change.clear and (definition is not None or change.flag in self.stored.overrides):
            return
        if definition is None:
            raise no_such_flag(change.flag, self.file)
        if not change.clear and not definition.boolean:
            text = f"{change.flag} is not a flag that is on or off; change its rules in the file"
            raise HubError(ErrorCode.BAD_REQUEST, text)

    async def _spread(self, commit: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """What is committed is told at once, whoever has gone meanwhile and however slowly this node reads then."""
        try:
            done = await commit()
        except HubError as error:
            if error.code is ErrorCode.UNAVAILABLE:  # it may be committed all the same
                self._untold = True
                self._wake.set()
            raise
        self._wake.set()
        self._line.begin(self._tell(self._committed.version))
        return done

    async def _tell(self, version: int, *, again: bool = False) -> None:
        try:
            await self._control.send(FlagsChanged(version))
        except Exception as error:  # who does not hear of it then finds it at the next look
            self._untold = True
            if not again:
                log.info("other nodes were not told of a change of flags", reason=str(error))

    async def _settle(self) -> None:
        """Returns when this node decides by what it has committed."""
        known = asyncio.get_running_loop().create_future()
        self._asked.append(known)
        self._wake.set()
        if self._tasks:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_OWN_READ_S):
                    await known
        self._take_stored(self._committed.over(self.stored))

    def _told(self, message: FlagsChanged) -> None:
        # This node reads after each of its own by itself.
        if message.version > max(self.stored.version, self._committed.version):
            self._wake.set()

    # --- keeping up

    async def start(self) -> None:
        """Asks PostgreSQL what was changed, and goes on without when it does not answer soon. ``close`` must follow."""
        try:
            async with asyncio.timeout(self._settings.readiness_timeout_s):
                await self._read()
        except TimeoutError:
            self.away = "no answer in time"
        if self._source.path is not None:
            self._watcher.start()
            self._tasks.append(asyncio.create_task(self._keep_file(), name="flags file"))
        self._tasks.append(asyncio.create_task(self._keep_changes(), name="flags"))
        self._tasks.append(asyncio.create_task(self._keep_record(), name="flags record"))

    def look_again(self) -> None:
        """PostgreSQL is there: reads what could not be read."""
        if self.away is not None or not self.known:
            self._wake.set()

    def retire(self) -> None:
        """Begins to end, so that ``close`` need not wait for it."""
        self._watcher.retire()

    async def close(self) -> None:
        """Ends it; what was known last still counts."""
        await self._line.close()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        _answer(self._asked)
        self.metrics.flush()
        await self._watcher.close()

    async def _keep_changes(self) -> None:
        """Reads when something was changed, and now and then."""
        while True:
            pause_s = self._settings.flags_recheck_s
            if self.away is not None or self._untold:
                pause_s = min(pause_s, self._settings.reconnect_max_s)
            if not self.known:
                pause_s = min(pause_s, _UNKNOWN_PAUSE_S)
            await _waited(self._wake, pause_s)
            asked, self._asked = self._asked, []
            try:
                await self._read()
            finally:
                _answer(asked)
            if self._untold and self.away is None:
                self._untold = False
                self._line.begin(self._tell(self.stored.version, again=True))
            await asyncio.sleep(_READ_PAUSE_S)

    async def _keep_record(self) -> None:
        """Takes old rows away, however long that takes."""
        pause_s = _EXPIRE_EVERY_S * random.random()
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self.store.expire()
            except Exception as error:
                log.info("old rows of the record of flags were not taken away", reason=str(error))
            pause_s = _EXPIRE_EVERY_S * random.uniform(0.5, 1)

    async def _read(self) -> None:
        """Takes over what is committed now. Never raises: what cannot be read is tried again."""
        self.reads += 1
        try:
            self._take_stored(self._committed.over(await self.store.read()))
            self.known = True
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if self.away is None:
                log.warning("run-time changes of flags cannot be read; the last known ones count", reason=reason)
            self.away = reason
            self._take_stored(self._committed.over(self.stored))
        else:
            if self.away is not None:
                log.info("run-time changes of flags are read again", version=self.stored.version)
            self.away = None

    def _take_stored(self, stored: Stored) -> None:
        if stored != self.stored:
            evaluator = Evaluator(self.file, stored.overrides, stored.stages, self.evaluator)
            self.stored = stored
            self._take(evaluator)

    async def _keep_file(self) -> None:
        """Looks when something happens beside the file, and now and then."""
        while True:
            await _waited(self._file_wake, self._settings.flags_recheck_s)
            try:
                look = await self._settled()
                if look is not None:
                    self._take_file(look)
            except Exception:
                log.exception("flags file not looked at")

    async def _settled(self) -> Look | None:
        """What is there now and has stood for a while; None: it is what was there before."""
        look = await asyncio.to_thread(self._source.look, self._digest)
        since = looked = time.monotonic()
        while look.digest != self._digest:
            half = may_be_half(look, self.file, self._good)
            enough = since + (_HALF_SETTLE_S if half else _SETTLE_S)
            # By when it was looked at last: nobody knows how long the look took to come back.
            if looked >= enough:
                return look
            await _waited(self._file_wake, max(0.0, enough - time.monotonic()))
            looked = time.monotonic()
            again = await asyncio.to_thread(self._source.look, self._digest)
            if (again.digest, again.stamp) != (look.digest, look.stamp):
                since = time.monotonic()
            look = again
        return None

    def _take_file(self, look: Look) -> None:
        self._digest = look.digest
        self.problem = look.problem
        if look.file is None:
            if look.problem is not None:
                self.metrics.file_error()
                log.error(
                    "flags file refused; the last good one counts",
                    file=self.source,
                    line=look.problem.line,
                    reason=look.problem.message,
                )
            return
        self._good = look.stamp
        log.info("flags file taken", file=self.source, flags=len(look.file.flags))
        self._take(Evaluator(look.file, self.stored.overrides, self.stored.stages, self.evaluator))

    def _take(self, evaluator: Evaluator) -> None:
        """From here on it decides."""
        changed = evaluator.differs(self.evaluator)
        self.metrics.flush()
        self.evaluator = evaluator
        if not changed:
            return
        log.info("flags changed", flags=sorted(changed), version=evaluator.version)
        for flag in changed:
            self.metrics.flip(flag)
        for action in self._actions:
            try:
                action(changed)
            except Exception:
                log.exception("flags not enforced")


def no_such_flag(flag: str, file: FlagFile) -> HubError:
    """For those who may see which there are."""
    names = sorted(file.flags)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    there = f"there are {', '.join(names[:_MOST_NAMED])}{more}" if names else "there is none at all"
    return HubError(ErrorCode.NOT_FOUND, f"no flag {flag[:100]!r}; {there}")


async def _waited(event: asyncio.Event, timeout_s: float) -> None:
    """Returns when it was set or the time is up; it is cleared then."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    event.clear()


def _answer(asked: list[asyncio.Future[None]]) -> None:
    for known in asked:
        if not known.done():
            known.set_result(None)
