"""What a language model has said so far, piece by piece, in a topic nobody listens to: another node goes on from there.

The number of an entry in its topic is its place in the list, so the topic says what it lacks.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hub.api import ErrorCode, Hub, HubError, OrgId
from services.content.kinds import dictation_topic
from services.content.sources import TakenOver

TEXT = "text"
END = "end"

_PAGE = 500
_AT_ONCE = 16
_RETRY_S = 0.5

Entry = tuple[str, Any]
"""Name and data: a piece of text, or how the text ended."""


class Journal:
    """The journal of one stream. One task writes at a time."""

    def __init__(self, hub: Hub, org: OrgId, stream: str) -> None:
        self._hub = hub
        self._org = org
        self._topic = dictation_topic(stream)
        self.entries: list[Entry] = []
        """What is written for good. Bounded by what a text may have."""

    async def read(self) -> None:
        """Takes over what another node has written. Raises ``unavailable``, and ``internal`` when the beginning is
        not kept any more.
        """
        while True:
            page = await self._hub.read(self._org, self._topic, after=len(self.entries), limit=_PAGE)
            if page.top > len(self.entries) and (not page.events or page.events[0].seq != len(self.entries) + 1):
                text = "what was written is not kept any more, so nobody can go on with it; ask for a new text"
                raise HubError(ErrorCode.INTERNAL, text, retry="never")
            self.entries += [(event.name, event.data) for event in page.events]
            if not page.more:
                return

    async def write(self, entries: list[Entry]) -> None:
        """Writes entries at the end; they are in ``entries`` when this returns. Waits until Redis answers.

        What Redis has lost is written again. Raises ``TakenOver`` when there is something that was not written here.
        """
        wanted = [*self.entries, *entries]
        await self._fill(wanted, len(self.entries))
        self.entries = wanted

    async def repair(self) -> None:
        """Writes again what Redis has lost. Waits and raises as ``write`` does."""
        await self._fill(self.entries, None)

    async def _fill(self, wanted: list[Entry], done: int | None) -> None:
        """Writes what is not there; ``done``: so many are, None: not known."""
        while done is None or done < len(wanted):
            try:
                if done is None:
                    done = await self._compare(wanted)
                else:
                    done = await self._hub.append(self._org, self._topic, wanted[done : done + _AT_ONCE], after=done)
            except HubError as error:
                if error.code is ErrorCode.CONFLICT:
                    done = None
                elif error.code is ErrorCode.UNAVAILABLE:
                    await asyncio.sleep(_RETRY_S)
                else:
                    raise

    async def _compare(self, wanted: list[Entry]) -> int:
        """How many of ``wanted`` are there."""
        page = await self._hub.read(self._org, self._topic, last=1)
        if page.top > len(wanted):
            raise TakenOver
        for event in page.events:
            if (event.name, event.data) != wanted[event.seq - 1]:
                raise TakenOver
        return page.top
