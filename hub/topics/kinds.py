"""The registry of topic kinds: which topics exist, who may join or publish, how much is kept, what slow clients get."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from enum import StrEnum

from msgspec import Struct

from hub.auth.principal import Principal
from hub.errors import ErrorCode, HubError, not_found
from hub.orgs import OrgId
from hub.topics.topic import Topic, parse_topic, user_key


class History(Struct, frozen=True):
    """How much of a topic is kept: whichever bound is reached first."""

    count: int = 10_000
    bytes: int = 8 * 1024 * 1024
    age_s: int = 24 * 3600


class SlowPolicy(StrEnum):
    """What a client gets that reads more slowly than a topic is written (PROTOCOL section 6)."""

    REPLAY = "replay"
    """Pause, then catch up from history."""
    LATEST = "latest"
    """Only the newest event per value of the kind's ``latest_tag``; what is left out is announced."""
    GAP = "gap"
    """Skip and announce."""


Rule = Callable[[Principal, str], Awaitable[bool]]
"""A kind's own permission rule: (who, key of the topic) -> allowed. Asked after the scope has allowed it."""

HistoryFrom = Callable[[Principal, str], Awaitable[int]]
"""The first ``seq`` that this principal may replay from a topic of this key."""


Recheck = Callable[[OrgId, Sequence[tuple[str, str]]], Awaitable[Sequence[bool]]]
"""Whether subscribers (user, key of the topic) of one organisation may stay, in the order asked; some hundred."""


class TopicKind(Struct, frozen=True, kw_only=True):
    """One family of topics and its rules; a service registers it."""

    name: str
    history: History | None = History()
    """None: events of this kind are never kept, have no number and cannot be replayed."""
    slow: SlowPolicy = SlowPolicy.REPLAY
    latest_tag: str | None = None
    exists: Callable[[str], bool] | None = None
    """Whether a topic of this key can exist at all; None: every key."""
    paced: bool = False
    """Who writes to it asks ``hub.attention`` how far its readers are behind."""
    presence: bool = False
    """Who subscribes is present in the topic, and is told who else is."""
    may_subscribe: Rule | None = None
    may_publish: Rule | None = None
    history_from: HistoryFrom | None = None
    recheck: Recheck | None = None
    """Asked now and then, in case a message that somebody may not stay was lost."""

    def __post_init__(self) -> None:
        if self.slow is SlowPolicy.REPLAY and self.history is None:
            raise ValueError(f"kind {self.name}: the policy 'replay' needs a history; use 'gap'")
        if self.paced and self.history is None:
            raise ValueError(f"kind {self.name}: what is not kept is not acknowledged; it cannot be paced")
        if self.slow is SlowPolicy.LATEST and (self.latest_tag is None or self.history is None):
            raise ValueError(f"kind {self.name}: the policy 'latest' needs latest_tag and a history")


class TopicKinds:
    """All kinds of this deployment. The one gate through which every subscription, publication and page goes."""

    def __init__(self, kinds: Iterable[TopicKind] = ()) -> None:
        self._kinds: dict[str, TopicKind] = {}
        for kind in (USER_KIND, *kinds):
            self.register(kind)

    def register(self, kind: TopicKind) -> None:
        """Adds a kind; a service does this while the node is built. Raises ``ValueError`` when the name is taken."""
        if kind.name in self._kinds:
            raise ValueError(f"topic kind {kind.name} is registered twice")
        self._kinds[kind.name] = kind

    def __iter__(self) -> Iterator[TopicKind]:
        return iter(self._kinds.values())

    def kind_of(self, topic: Topic) -> TopicKind:
        """The kind of a topic that came through this gate."""
        return self._kinds[topic.kind]

    async def for_subscriber(self, principal: Principal, text: str) -> Topic:
        """The topic, if ``principal`` may subscribe to it. Else ``not_found``, whatever the reason."""
        topic = self._resolve(principal, text)
        # One's own inbox is written `user:me`; every other spelling would be another user's.
        if topic.kind == "user" and text != "user:me":
            raise not_found()
        kind = self.kind_of(topic)
        if not principal.allows("subscribe", topic.wire):
            raise not_found()
        if kind.may_subscribe is not None and not await kind.may_subscribe(principal, topic.key):
            raise not_found()
        return topic

    async def for_publisher(self, principal: Principal, text: str) -> Topic:
        """The topic, if ``principal`` may publish to it. ``forbidden`` if it may be seen, else ``not_found``."""
        topic = self._resolve(principal, text)
        kind = self.kind_of(topic)
        if principal.allows("publish", text) and (
            kind.may_publish is None or await kind.may_publish(principal, topic.key)
        ):
            return topic
        await self.for_subscriber(principal, text)
        raise HubError(ErrorCode.FORBIDDEN, f"you may not publish to {text}; it takes the scope publish:{text}")

    async def first_permitted(self, principal: Principal, topic: Topic) -> int:
        """The first ``seq`` of the topic's history that ``principal`` may see (1: all of it)."""
        rule = self.kind_of(topic).history_from
        return 1 if rule is None else await rule(principal, topic.key)

    def resolve_internal(self, topic: Topic) -> TopicKind:
        """The kind of a topic that the hub's own code publishes to (outbox, services). Raises ``not_found``."""
        kind = self._kinds.get(topic.kind)
        if kind is None or (kind.exists is not None and not kind.exists(topic.key)):
            raise not_found()
        return kind

    def _resolve(self, principal: Principal, text: str) -> Topic:
        if text == "user:me":
            return Topic(principal.org, "user", user_key(principal.user))
        topic = parse_topic(principal.org, text)
        self.resolve_internal(topic)
        return topic


USER_KIND = TopicKind(name="user", history=History(count=1000, bytes=1024 * 1024, age_s=7 * 24 * 3600))
"""A personal inbox. Only its user subscribes to it, as ``user:me``; whoever may ``publish:user:…`` writes to it."""
