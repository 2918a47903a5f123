"""Asks the rules of topic kinds now and then whether those who subscribe may still do so.

Who may not stay is told at once (``expulsions``); this finds them when that message was lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Final

import structlog

from hub.config import Settings
from hub.errors import HubError, not_found
from hub.fanout.control import Control
from hub.nodes.expulsions import Expulsions
from hub.orgs import OrgId
from hub.topics.kinds import Recheck
from hub.topics.subscriptions import LocalTopics, Subscription

PAIRS_AT_ONCE: Final = 500  # in one question
PAUSE_S: Final = 0.01  # between two questions
LOOKS_AT_ONCE: Final = 1000  # topics and subscriptions, then others have their turn
RETRY_S: Final = 2.0  # after a look that could not do everything

log = structlog.get_logger(__name__)


class Question:
    """What one rule is asked of one organisation: who (user, key of the topic), and the subscriptions it is about."""

    def __init__(self, rule: Recheck, org: OrgId) -> None:
        self.rule = rule
        self.org = org
        self.subs: dict[tuple[str, str], list[Subscription]] = {}

    def add(self, sub: Subscription) -> None:
        """One subscription more."""
        self.subs.setdefault((sub.subscriber.user, sub.topic.topic.key), []).append(sub)


class Rechecks:
    """One look at everybody on this node every ``recheck_subscriptions_s``, and when messages may have been lost."""

    def __init__(self, settings: Settings, topics: LocalTopics, expulsions: Expulsions, control: Control) -> None:
        self._every_s = settings.recheck_subscriptions_s
        self._topics = topics
        self._expulsions = expulsions
        self._doubt = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        control.on_doubt(self._doubt.set)

    def start(self) -> None:
        """Starts looking; ``close`` must follow."""
        self._task = asyncio.create_task(self._run(), name="rechecks")

    async def close(self) -> None:
        """Ends it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def look(self) -> bool:
        """One look. False: some rule could not answer, or somebody was still on the way in; who it is about stays."""
        done = True
        looked = 0
        # Questions that are not full yet, by kind and organisation.
        waiting: dict[tuple[str, OrgId], Question] = {}
        for local in tuple(self._topics):
            rule = local.kind.recheck
            looked += 1
            for sub in tuple(local.subscriptions) if rule is not None else ():
                assert rule is not None  # noqa: S101 - mypy does not see it
                of = (local.kind.name, local.topic.org)
                question = waiting.setdefault(of, Question(rule, local.topic.org))
                question.add(sub)
                looked += 1
                if len(question.subs) == PAIRS_AT_ONCE:
                    done &= await self._ask(waiting.pop(of))
            if looked >= LOOKS_AT_ONCE:
                looked = 0
                await asyncio.sleep(0)
        for question in waiting.values():
            done &= await self._ask(question)
        return done

    async def _run(self) -> None:
        pause = self._every_s
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause * random.uniform(0.5, 1)):
                    await self._doubt.wait()
            self._doubt.clear()
            done = await self.look()
            pause = self._every_s if done else min(RETRY_S, self._every_s)

    async def _ask(self, question: Question) -> bool:
        """Ends the subscriptions of those who may not stay. False: not all of it could be done."""
        await asyncio.sleep(PAUSE_S)
        try:
            async with asyncio.timeout(self._every_s):
                answer = await question.rule(question.org, tuple(question.subs))
            asked = zip(question.subs.values(), answer, strict=True)
            gone = [sub for subs, stays in asked if not stays for sub in subs]
        except (HubError, TimeoutError) as error:
            log.warning("subscriptions not rechecked", org=question.org, reason=str(error) or "timeout")
            return False
        except Exception:
            log.exception("subscriptions not rechecked", org=question.org)
            return False
        # What was permitted since is newer than the answer: it ends these and keeps nobody out.
        done = self._expulsions.end_these(gone, not_found())
        if gone:
            log.info("subscriptions ended by a recheck", org=question.org, subscriptions=len(gone))
        return done
