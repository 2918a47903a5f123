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
from hub.topics.subscriptions import LocalTopics

PAIRS_AT_ONCE: Final = 500  # in one question
PAUSE_S: Final = 0.01  # between two questions
LOOKS_AT_ONCE: Final = 1000  # topics and subscriptions, then others have their turn
RETRY_S: Final = 2.0  # after a rule could not answer

log = structlog.get_logger(__name__)


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
        """One look. False: some rule could not answer; whoever it is about stays for now."""
        answered = True
        looked = 0
        # Questions that are not full yet: (user, key) and the channel it is about, by kind and organisation.
        waiting: dict[tuple[Recheck, OrgId], dict[tuple[str, str], bytes]] = {}
        for local in tuple(self._topics):
            rule = local.kind.recheck
            looked += 1
            for sub in tuple(local.subscriptions) if rule is not None else ():
                assert rule is not None  # noqa: S101 - mypy does not see it
                question = waiting.setdefault((rule, local.topic.org), {})
                question[sub.subscriber.user, local.topic.key] = local.channel
                looked += 1
                if len(question) == PAIRS_AT_ONCE:
                    answered &= await self._ask(rule, local.topic.org, waiting.pop((rule, local.topic.org)))
            if looked >= LOOKS_AT_ONCE:
                looked = 0
                await asyncio.sleep(0)
        for (rule, org), question in waiting.items():
            answered &= await self._ask(rule, org, question)
        return answered

    async def _run(self) -> None:
        pause = self._every_s
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause * random.uniform(0.5, 1)):
                    await self._doubt.wait()
            self._doubt.clear()
            answered = await self.look()
            pause = self._every_s if answered else min(RETRY_S, self._every_s)

    async def _ask(self, rule: Recheck, org: OrgId, question: dict[tuple[str, str], bytes]) -> bool:
        """Ends the subscriptions of those who may not stay. False: the rule could not answer."""
        await asyncio.sleep(PAUSE_S)
        try:
            async with asyncio.timeout(self._every_s):
                answer = await rule(org, tuple(question))
            gone: dict[bytes, set[str]] = {}
            for ((user, _), channel), stays in zip(question.items(), answer, strict=True):
                if not stays:
                    gone.setdefault(channel, set()).add(user)
        except (HubError, TimeoutError) as error:
            log.warning("subscriptions not rechecked", org=org, reason=str(error) or "timeout")
            return False
        except Exception:
            log.exception("subscriptions not rechecked", org=org)
            return False
        for channel, users in gone.items():
            self._expulsions.end(channel, users, not_found())
        if gone:
            log.info("subscriptions ended by a recheck", org=org, topics=len(gone))
        return True
