"""GET /v1/topics/{topic}/events: a topic's history as a page, by the same rules as a replay (PROTOCOL section 5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final, cast

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter, SkipValidation
from msgspec import Struct

from hub.edge.authenticate import HubRequest
from hub.edge.flag_gate import check_publish, subject_of
from hub.edge.gateway import Gateway
from hub.edge.openapi import problem_responses
from hub.errors import HubError, bad_request
from hub.fanout.broker import HistoryPage, HistoryRequest
from hub.protocol.codec import Encoding, encode_event
from hub.protocol.frames import Event, Gap, Position
from hub.topics.publication import Publication
from hub.topics.splice import Asked, Hole, Plan, plan_recovery
from hub.topics.topic import Topic

_SINCE: Final = re.compile(r"([^:]{0,64}):([0-9]{1,16})")
_MAX_SEQ: Final = 2**53


class EventsPage(Struct, omit_defaults=True):
    """A run of events in order, with everything that is missing before it announced in ``gaps``."""

    topic: str
    epoch: str
    seq: int
    """The topic's newest event."""
    events: list[Event]
    recovered: bool
    more: bool
    """Ask again with ``since=<next>``."""
    next: str
    gaps: list[Gap] = []


@get(
    "/v1/topics/{topic:str}/events",
    summary="Read a page of a topic's history",
    responses=problem_responses(400, 401, 404, 503),
)
async def events(
    request: HubRequest,
    gateway: NamedDependency[SkipValidation[Gateway]],
    topic: Annotated[str, PathParameter(description="A topic; one's own inbox is user:me.")],
    since: Annotated[
        str | None,
        QueryParameter(description="epoch:seq (what comes after it) or start (the default: everything kept)."),
    ] = None,
    last: Annotated[int | None, QueryParameter(description="Instead of since: the last so many.", ge=0)] = None,
    limit: Annotated[
        int | None, QueryParameter(description="Events per page, up to HUB_REPLAY_PAGE_EVENTS.", ge=1)
    ] = None,
) -> EventsPage:
    """Events of a topic that the caller may subscribe to."""
    asked = _asked(since, last)
    size = _page_size(limit, gateway.settings.replay_page_events)
    found = await gateway.kinds.for_subscriber(request.user, topic)
    check_publish(gateway, gateway.flags.values(subject_of(request.user)), topic)
    if gateway.kinds.kind_of(found).history is None:
        return EventsPage(found.wire, "", 0, [], recovered=True, more=False, next=":0")
    first = await gateway.kinds.first_permitted(request.user, found)
    return await _read_page(gateway, found, asked, size, first)


async def _read_page(gateway: Gateway, topic: Topic, asked: Asked, limit: int, first_permitted: int) -> EventsPage:
    page = await _read(gateway, topic, asked, limit)
    plan = plan_recovery(asked, page.state, first_permitted)
    run = _after(plan, page)
    if page.more and not run:
        # The page ended before the first event that may be seen.
        start = Position(page.state.epoch, plan.after)
        page = await _read(gateway, topic, start, limit)
        again = plan_recovery(start, page.state, first_permitted)
        plan = Plan(again.after, plan.recovered and again.recovered, plan.holes + again.holes)
        run = _after(plan, page)
    return _answer(topic, page, plan, run)


async def _read(gateway: Gateway, topic: Topic, asked: Asked, limit: int) -> HistoryPage:
    after = "top" if asked == "now" else asked
    (page,) = await gateway.broker.read(
        [HistoryRequest(topic, after, limit, gateway.settings.replay_page_bytes)],
    )
    if isinstance(page, HubError):
        raise page
    return page


def _after(plan: Plan, page: HistoryPage) -> list[Publication]:
    return [item for item in page.publications if item.seq > plan.after]


def _answer(topic: Topic, page: HistoryPage, plan: Plan, run: Sequence[Publication]) -> EventsPage:
    epoch = page.state.epoch
    frames = [msgspec.Raw(encode_event(topic.wire, e.seq, e.ts, e.body, Encoding.JSON)) for e in run]
    return EventsPage(
        topic=topic.wire,
        epoch=epoch,
        seq=page.state.top,
        # Encoded already; the type is what a client decodes them to, and what the documentation shows.
        events=cast(list[Event], frames),
        recovered=plan.recovered,
        more=page.more,
        next=f"{epoch}:{run[-1].seq if run else plan.after}",
        gaps=[_gap(topic, epoch, hole) for hole in plan.holes],
    )


def _gap(topic: Topic, epoch: str, hole: Hole) -> Gap:
    if not hole.to:
        return Gap(topic.wire, epoch, hole.reason)
    return Gap(topic.wire, epoch, hole.reason, hole.from_, hole.to)


def _asked(since: str | None, last: int | None) -> Asked:
    if since is not None and last is not None:
        raise bad_request("give 'since' or 'last', not both")
    if last is not None:
        return min(last, _MAX_SEQ)
    if since is None or since == "start":
        return "start"
    match = _SINCE.fullmatch(since)
    if match is None or int(match[2]) > _MAX_SEQ:
        raise bad_request("'since' must be start or epoch:seq, as 'next' of the page before gave it")
    return Position(match[1], int(match[2]))


def _page_size(limit: int | None, most: int) -> int:
    if limit is not None and limit > most:
        raise bad_request(f"'limit' may be {most} at most")
    return limit or most
