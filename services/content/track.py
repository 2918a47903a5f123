"""Where a stream stands in its topic, and writing on from there.

The topic itself is the position. Every publication names the number after which it goes, so two nodes that both think
they drive a stream cannot write the same chunk twice; and after anything unclear (no answer, another node before, data
lost) the end of the topic says which chunk comes next.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hub.api import ErrorCode, Hub, HubError, KeptEvent
from services.content.kinds import CHUNK, START, content_topic
from services.content.pipeline import Chunk
from services.content.sources import TakenOver
from services.content.states import State
from services.content.store import Stored

Event = tuple[str, Any]

_LOOK_BACK = 4
_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)


class Track:
    """One part of one stream, as its topic has it. One task uses it."""

    def __init__(self, hub: Hub, stored: Stored) -> None:
        self._hub = hub
        self._stored = stored
        self.topic = content_topic(stored.id)
        self._top = 0
        self.index = stored.first_index
        """Of the next chunk; counts all parts of the stream."""
        self.block = stored.first_block
        """Blocks closed so far, of all parts."""
        self.progress: float | None = None
        """Of the newest chunk: how much of the part has been shown. A text that is being written has none."""
        self.reached = self.index
        """Watchers have had every chunk before this."""
        self.started = False
        """``stream_start`` is there."""
        self.ended: State | None = None
        self.result: dict[str, Any] = {}
        """The data of the event that ended it."""

    @property
    def chunks(self) -> int:
        """Chunks of this part so far."""
        return self.index - self._stored.first_index

    async def append(self, events: list[Event]) -> bool:
        """Publishes ``events`` next. False: it is not clear whether, and this stands now where the topic's end says.

        Waits until Redis answers. Raises ``TakenOver`` when what began later is there.
        """
        stored = self._stored
        for pause_s in _RETRY_S:
            try:
                self._top = await self._hub.append(stored.org, self.topic, events, after=self._top, by=stored.owner)
            except HubError as error:
                if error.code is ErrorCode.CONFLICT:
                    break
                if error.code is not ErrorCode.UNAVAILABLE:
                    raise
            else:
                for name, data in events:
                    self._passed(name, data)
                return True
            await asyncio.sleep(pause_s)
        await self.locate()
        return False

    async def locate(self) -> None:
        """Goes where the topic's end says. Waits until Redis answers. Raises ``TakenOver`` when what began later is
        there.
        """
        stored = self._stored
        while True:
            try:
                self._top, events = await self._newest()
                break
            except HubError as error:
                if error.code is not ErrorCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(_RETRY_S[-1])
        self.index, self.block, self.progress, self.started = stored.first_index, stored.first_block, None, False
        for event in events:
            self._passed(event.name, event.data)

    async def _newest(self) -> tuple[int, list[KeptEvent]]:
        """The number of the topic's newest event, and the newest ones."""
        page = await self._hub.read(self._stored.org, self.topic, last=_LOOK_BACK)
        events = list(page.events)
        while page.more:
            page = await self._hub.read(self._stored.org, self.topic, after=events[-1].seq)
            events += page.events
        return page.top, events

    def _passed(self, name: str, data: dict[str, Any]) -> None:
        """This event is in the topic; those of what began earlier say nothing."""
        if data["run"] > self._stored.run:
            raise TakenOver
        if data["run"] < self._stored.run:
            return
        self.started = True
        if name == CHUNK:
            self.index = data["index"] + 1
            self.block = data["block"] + (data["op"] == "close")
            self.progress = data.get("progress")
            self.reached = max(self.reached, self.index)
        elif name != START:
            self.ended, self.result = State(data["state"]), data


def chunk_event(chunk: Chunk, stored: Stored) -> Event:
    """A chunk of this part as the event that watchers get, whose numbers count all parts."""
    data: dict[str, Any] = {
        "run": stored.run,
        "index": stored.first_index + chunk.index,
        "op": chunk.op,
        "block": stored.first_block + chunk.block,
        "html": chunk.html,
        "text": chunk.text,
    }
    if chunk.progress is not None:
        data["progress"] = chunk.progress
    if chunk.depth:
        data["depth"] = chunk.depth
    return CHUNK, data
