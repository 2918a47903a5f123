"""What a feature hands over to the hub, and what the hub hands to a feature.

A service is a function ``(Hub) -> Service``: it gets the hub's narrow door and returns its topic kinds, methods, routes
and hooks. It knows nothing of sockets or Redis. Services import all of this from ``hub.api``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry

from hub.auth.principal import Principal
from hub.config import Settings
from hub.database import Database
from hub.errors import ErrorCode, HubError
from hub.fanout.broker import Published
from hub.fanout.kept_events import KeptEvents, Page
from hub.fanout.publisher import NewEvent, Publisher
from hub.fanout.redaction import Redaction
from hub.flags import Flags, Switch
from hub.markup import Markup
from hub.nodes.answers import Answers
from hub.nodes.attention import Attention
from hub.nodes.broadcasts import Broadcasts
from hub.nodes.cache import Cache
from hub.nodes.callers import CallerMethod
from hub.nodes.duties import DutyBook
from hub.nodes.expulsions import Expulsions
from hub.nodes.limits import SharedLimits
from hub.orgs import OrgId
from hub.protocol.frames import Tags
from hub.topics.kinds import TopicKind, TopicKinds
from hub.topics.topic import parse_topic, user_key

Method = Callable[[Principal, dict[str, Any]], Awaitable[Any]]
"""A method that clients call: (who, params) -> result, in the JSON model. Raises ``HubError``."""

Hook = Callable[[], Awaitable[None]]

Revocations = Callable[[Principal], Awaitable[None]]
"""Raises ``unauthenticated`` for somebody who was thrown out after ``issued_at``."""


@dataclass(frozen=True, slots=True)
class Hub:
    """The hub as a service sees it."""

    settings: Settings
    database: Database
    publisher: Publisher
    kept_events: KeptEvents
    redaction: Redaction
    registry: CollectorRegistry
    """For a service's own metrics; ``/metrics`` shows them, of all workers. Labels are bounded, and a gauge says its
    ``multiprocess_mode``, as in ``hub.telemetry``."""
    cache: Cache
    limits: SharedLimits
    duties: DutyBook
    """Work that one node does at a time: ``hub.duties.of("purpose")``, asked for when the service is made."""
    attention: Attention
    expulsions: Expulsions
    kinds: TopicKinds
    broadcasts: Broadcasts
    """What a service tells itself on all nodes."""
    answers: Answers
    """For routes whose answers take long: ``with hub.answers.answering(request.user) as ending``."""
    revocations: Revocations
    flags: Flags
    """What is switched on for whom. What a flag covers as a whole (``Service.switches``) need not be asked."""
    markup: Markup
    """What somebody wrote as safe HTML; ``hub.api.markup`` has its parts."""

    async def publish(  # noqa: PLR0913 - an event has these fields
        self,
        org: OrgId,
        topic: str,
        name: str,
        data: Any,
        *,
        key: str | None = None,
        tags: Tags | None = None,
        ephemeral: bool = False,
        by: str | None = None,
        echo: bool = True,
    ) -> Published:
        """Publishes an event now. What belongs to a database change goes out by ``hub_publish`` in its transaction.

        ``echo=False``: it does not go to its author, to none of the connections of the user ``by``. For ephemeral
        events that have an author; ``ValueError`` otherwise.

        Raises ``HubError``: ``not_found`` for a topic that cannot exist, ``bad_request`` and ``too_large`` for the
        data, ``unavailable`` when Redis does not answer. Then it may yet have happened; to repeat it with its ``key``
        is safe.
        """
        if not echo and (by is None or not ephemeral):
            raise ValueError("only an ephemeral event that has an author can be kept from him")
        event = NewEvent(topic, name, data, key, tags, ephemeral)
        return await self.publisher.publish(parse_topic(org, topic), event, by, echo=echo)

    async def append(
        self, org: OrgId, topic: str, events: Sequence[tuple[str, Any]], *, after: int, by: str | None = None
    ) -> int:
        """Publishes a few events (name, data) in one step, if the topic's newest number is ``after``.

        Returns the newest number then. So of several writers that believe to be the only one, one is. The number is
        that of whatever epoch the topic has now. Raises ``HubError``: what ``publish`` raises, ``bad_request`` for a
        kind without history, and ``conflict`` with ``details["top"]`` when the newest number is another. Nothing was
        published then; after ``unavailable`` all of it may have been, or nothing: ``read`` what the topic ends with.
        """
        return await self.publisher.append(parse_topic(org, topic), events, after, by)

    async def read(self, org: OrgId, topic: str, *, after: int = 0, last: int | None = None, limit: int = 500) -> Page:
        """A page of a topic's kept events, oldest first: those after the number ``after``, or the ``last`` ones.

        ``after`` is a number of the epoch that the topic has now; beyond its top there is nothing. What is no longer
        kept is left out: the first event's ``seq`` says so. ``replay_page_events`` and ``replay_page_bytes`` bound a
        page too. A kind without history gives epoch "" and no events. Raises ``HubError``: ``not_found``,
        ``unavailable``.
        """
        return await self.kept_events.read(parse_topic(org, topic), after, last, limit)

    async def redact(self, org: OrgId, topic: str, epoch: str, replacements: Mapping[int, Any]) -> int:
        """Gives kept events (by number) other ``data``; returns how many of them were there.

        Everything else of an event stays as it is, and so do the topic's numbers. What subscribers have got is not
        taken back: tell them by an event. When the topic has another epoch nothing is changed. Of several calls for the
        same event the last one wins; whoever makes them sees to their order. Redis does nothing else meanwhile, so this
        is for kinds with a small history. Raises ``HubError``: what ``publish`` raises for data, ``unavailable``; then
        it may have happened, and to repeat it is safe.
        """
        return await self.redaction.redact(parse_topic(org, topic), epoch, replacements)

    async def end_subscriptions(
        self,
        org: OrgId,
        topic: str,
        users: Sequence[str] | None,
        code: ErrorCode,
        message: str,
        *,
        but: str | None = None,
    ) -> None:
        """Ends the subscriptions of ``users`` (``Principal.user``) to a topic, on all nodes; None: everybody's, without
        those of the user ``but``. Only for kinds without presence is somebody spared.

        Each of their clients gets ``unsubscribed`` with ``code`` and ``message``. To be called when what takes the
        permission away is committed: a join that was permitted before, and is still under way, is refused then. Whom
        the message does not reach the kind's ``recheck`` finds. Raises ``HubError``: ``not_found``, ``unavailable``.
        """
        await self.expulsions.announce(parse_topic(org, topic), users, HubError(code, message), but)

    async def may_stay(self, org: OrgId, pairs: Sequence[tuple[str, str]]) -> Sequence[bool]:
        """Whether users may stay in topics (user, topic), in the order asked, as far as the ``recheck`` of kinds knows.

        True where a kind has none. Scopes are not looked at: nobody's token is at hand. Raises what rechecks raise.
        """
        stays = [True] * len(pairs)
        asked: dict[str, list[tuple[int, tuple[str, str]]]] = {}
        for place, (user, text) in enumerate(pairs):
            topic = parse_topic(org, text)
            asked.setdefault(topic.kind, []).append((place, (user, topic.key)))
        for kind in self.kinds:
            if kind.recheck is not None and kind.name in asked:
                places, questions = zip(*asked[kind.name], strict=True)
                for place, answer in zip(places, await kind.recheck(org, questions), strict=True):
                    stays[place] = answer
        return stays

    async def may_subscribe(self, principal: Principal, topic: str) -> bool:
        """Whether somebody may subscribe to a topic; also False where there can be no such topic."""
        try:
            await self.kinds.for_subscriber(principal, topic)
        except HubError as error:
            if error.code in (ErrorCode.NOT_FOUND, ErrorCode.BAD_REQUEST):
                return False
            raise
        return True

    async def check_revoked(self, principal: Principal) -> None:
        """For what lives on without a token, as ``issued_at`` of the token that it was made with says: raises
        ``unauthenticated`` when the user was thrown out since. Fails open while Redis is away, and knows it for no
        longer than ``token_max_life_s``."""
        await self.revocations(principal)

    def user_topic(self, user: str) -> str:
        """The topic of the inbox of a user (``Principal.user``): what is published to it comes as ``user:me``."""
        return f"user:{user_key(user)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One feature. ``start`` runs when Redis and PostgreSQL are connected, ``stop`` before they are closed."""

    name: str
    kinds: Sequence[TopicKind] = ()
    methods: Mapping[str, Method] = field(default_factory=dict)
    caller_methods: Mapping[str, CallerMethod] = field(default_factory=dict)
    """Those that have to know the connection, to take chunks over it."""
    routes: Sequence[Any] = ()
    """Litestar route handlers."""
    answer_headers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Headers of all answers below a path, errors and preflights included: ``{"/v1/things": {name: value}}``, or
    ``{"OPTIONS /v1/things": …}`` for one method. What a route sets itself goes before."""
    cors_request_headers: Sequence[str] = ()
    """Headers that pages of allowed origins may send, beside the usual ones."""
    cors_answer_headers: Sequence[str] = ()
    """… and those of answers that they may read."""
    switches: Sequence[Switch] = ()
    """The flags by which this feature is switched on, and what they cover."""
    start: Hook | None = None
    stop: Hook | None = None


ServiceFactory = Callable[[Hub], Service]


class Finding(NamedTuple):
    """One row of ``hub doctor`` about what a service needs beside the hub."""

    well: bool
    check: str
    found: str
    remedy: str = ""
    """What to set or run; names the setting."""


Check = Callable[[Settings], Awaitable[Sequence[Finding]]]
"""Those of a deployment are ``CHECKS``, beside its list of services."""
