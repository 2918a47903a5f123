"""Reading history for subscribers: requests for the same part at the same time share one read and its encoded bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from msgspec import Struct

from hub.config import Settings
from hub.errors import ErrorCode, HubError
from hub.fanout.broker import Broker, HistoryPage, HistoryRequest
from hub.fanout.run import Run
from hub.protocol.frames import Position
from hub.topics.publication import TopicState
from hub.topics.splice import Asked
from hub.topics.topic import Topic

log = structlog.get_logger(__name__)


class SharedPage(Struct, frozen=True):
    """A page of history whose encoded events are shared by everyone who asked for it."""

    state: TopicState
    run: Run
    more: bool


SMALLEST_PAGE_BYTES = 4096

_Key = tuple[bytes, Position | str | int]


class History:
    """Pages of history, at most one read under way per topic and position."""

    def __init__(self, settings: Settings, broker: Broker) -> None:
        self._settings = settings
        self._broker = broker
        # Bounded by what subscribers ask for at the same time; entries leave when their read ends.
        self._under_way: dict[_Key, asyncio.Future[SharedPage | HubError]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, wanted: Sequence[tuple[Topic, Asked]], *, fresh: bool = False) -> list[SharedPage | HubError]:
        """One outcome for each; everything not yet under way goes out in one concurrent batch per Redis node.

        ``fresh``: nothing that is under way will do, because it may have been read before something just learned.
        """
        waiting: list[asyncio.Future[SharedPage | HubError]] = []
        own: dict[_Key, tuple[HistoryRequest, asyncio.Future[SharedPage | HubError]]] = {}
        for topic, asked in wanted:
            after = "top" if asked == "now" else asked
            key = (topic.channel, after)
            future = None if fresh and key not in own else self._under_way.get(key)
            if future is None:
                future = self._under_way[key] = asyncio.get_running_loop().create_future()
                own[key] = self._request(topic, asked, len(wanted)), future
            waiting.append(future)
        if own:
            task = asyncio.create_task(self._fetch(own), name="history-read")
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

    async def _fetch(self, own: dict[_Key, tuple[HistoryRequest, asyncio.Future[SharedPage | HubError]]]) -> None:
        requests = [request for request, _ in own.values()]
        stopping = HubError(ErrorCode.UNAVAILABLE, "the hub is stopping")
        outcomes: Sequence[HistoryPage | HubError] = [stopping] * len(own)
        try:
            outcomes = await self._broker.read(requests)
        except HubError as error:
            outcomes = [error] * len(own)
        except Exception:
            log.exception("history could not be read")
            outcomes = [HubError(ErrorCode.INTERNAL, "history could not be read; it is in the hub's log")] * len(own)
        finally:
            for (key, (request, future)), outcome in zip(own.items(), outcomes, strict=True):
                if self._under_way.get(key) is future:
                    del self._under_way[key]
                future.set_result(_share(request.topic, outcome))


def _share(topic: Topic, outcome: HistoryPage | HubError) -> SharedPage | HubError:
    if isinstance(outcome, HubError):
        return outcome
    return SharedPage(outcome.state, Run(topic.wire, outcome.publications), outcome.more)
