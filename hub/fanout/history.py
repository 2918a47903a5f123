"""Reading history for subscribers: requests for the same part at the same time share one read and its encoded bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from hub.config import Settings
from hub.errors import ErrorCode, HubError
from hub.fanout.broker import Broker, HistoryPage, HistoryRequest
from hub.fanout.run import Run
from hub.protocol.frames import Position
from hub.topics.publication import TopicState
from hub.topics.splice import Asked
from hub.topics.topic import Topic


class SharedPage(Struct, frozen=True):
    """A page of history whose encoded events are shared by everyone who asked for it."""

    state: TopicState
    run: Run
    more: bool


SMALLEST_PAGE_BYTES = 4096

_Key = tuple[str, Position | str | int]


class History:
    """Pages of history, at most one read under way per topic and position."""

    def __init__(self, settings: Settings, broker: Broker) -> None:
        self._settings = settings
        self._broker = broker
        # Bounded by what subscribers ask for at the same time; entries leave when their read ends.
        self._under_way: dict[_Key, asyncio.Future[SharedPage | HubError]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, wanted: Sequence[tuple[Topic, Asked]]) -> list[SharedPage | HubError]:
        """One outcome for each; everything not yet under way goes out in one concurrent batch per Redis node."""
        waiting: list[asyncio.Future[SharedPage | HubError]] = []
        fresh: dict[_Key, HistoryRequest] = {}
        for topic, asked in wanted:
            after = "top" if asked == "now" else asked
            key = (topic.names.channel, after)
            future = self._under_way.get(key)
            if future is None:
                future = self._under_way[key] = asyncio.get_running_loop().create_future()
                fresh[key] = self._request(topic, asked, len(wanted))
            waiting.append(future)
        if fresh:
            task = asyncio.create_task(self._fetch(fresh), name="history-read")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        # Shielded: a reader that goes away must not take the page from the others.
        return [await asyncio.shield(future) for future in waiting]

    def _request(self, topic: Topic, asked: Asked, together: int) -> HistoryRequest:
        """One page. Many topics at once share the bytes of a batch, so a hello cannot fill the memory."""
        after = "top" if asked == "now" else asked
        size = max(SMALLEST_PAGE_BYTES, self._settings.replay_batch_bytes // together)
        return HistoryRequest(
            topic, after, self._settings.replay_page_events, min(size, self._settings.replay_page_bytes)
        )

    async def close(self) -> None:
        """Ends what is under way."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _fetch(self, fresh: dict[_Key, HistoryRequest]) -> None:
        requests = list(fresh.values())
        outcomes: Sequence[HistoryPage | HubError] = [HubError(ErrorCode.UNAVAILABLE, "the hub is stopping")] * len(
            fresh
        )
        try:
            outcomes = await self._broker.read(requests)
        except HubError as error:
            outcomes = [error] * len(fresh)
        finally:
            for key, request, outcome in zip(fresh, requests, outcomes, strict=True):
                self._under_way.pop(key).set_result(_share(request.topic, outcome))


def _share(topic: Topic, outcome: HistoryPage | HubError) -> SharedPage | HubError:
    if isinstance(outcome, HubError):
        return outcome
    return SharedPage(outcome.state, Run(topic.wire, outcome.publications), outcome.more)
