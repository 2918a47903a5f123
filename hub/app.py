"""The composition root: settings and services -> a running node. Everything is wired here and only here.

``hub.serving`` runs a node on the hub's own WebSocket protocol class; ``HubApp`` is the same node as a plain ASGI
application for any other server.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version
from typing import Any

import structlog
from litestar import Litestar

from hub.auth.jwks import JwksCache
from hub.auth.tickets import Tickets
from hub.auth.tokens import TokenVerifier
from hub.config import Settings, load_settings
from hub.database import Database
from hub.edge.admission import Admission
from hub.edge.answer_headers import CommonHeaders
from hub.edge.asgi_line import exchange_routes
from hub.edge.asgi_socket import websocket_route
from hub.edge.flag_watch import FlagWatch
from hub.edge.gateway import Gateway
from hub.edge.http_app import http_app
from hub.edge.keeper import Keeper
from hub.edge.kicks import close_kicked
from hub.edge.registry import Connections
from hub.edge.relay import take_relayed
from hub.edge.session_saver import SessionSaver
from hub.edge.takeover import close_taken_over
from hub.errors import ConfigError
from hub.fanout.catch_up import CatchUp
from hub.fanout.control import Control, Kick, Relayed, Signal, TakeOver
from hub.fanout.delivery import Delivery
from hub.fanout.dispatcher import Dispatcher
from hub.fanout.errands import Errands
from hub.fanout.healer import Healer
from hub.fanout.history import History
from hub.fanout.inquiries import Inquiries
from hub.fanout.kept_events import KeptEvents
from hub.fanout.membership import Membership
from hub.fanout.outbox_relay import OutboxRelay
from hub.fanout.publisher import Publisher
from hub.fanout.redaction import Redaction
from hub.fanout.redis_broker import RedisBroker
from hub.fanout.sessions import Sessions
from hub.fanout.turns import Turns
from hub.fanout.turnstile import Turnstile
from hub.flags import HUB_SWITCHES, Flags, Switches
from hub.markup import Markup
from hub.nodes.answers import Answers
from hub.nodes.attention import Attention
from hub.nodes.broadcasts import Broadcasts
from hub.nodes.cache import Cache
from hub.nodes.duties import DutyBook
from hub.nodes.expulsions import Expulsions
from hub.nodes.flags.board import FlagBoard
from hub.nodes.flags.cohorts import Cohorts
from hub.nodes.flags.leader import PURPOSE, StageLeader
from hub.nodes.flags.topic import changes_kind
from hub.nodes.limits import SharedLimits
from hub.nodes.presence.presence import Presence
from hub.nodes.rechecks import Rechecks
from hub.redis import Redis
from hub.service import Hub, Service, ServiceFactory
from hub.telemetry import DutyMetrics, FlagMetrics, Metrics, PresenceMetrics, configure_logging
from hub.topics.kinds import TopicKinds
from hub.topics.subscriptions import LocalTopics

log = structlog.get_logger(__name__)


class _FanOut:
    """Everything between Redis and the subscribers of this node."""

    def __init__(self, settings: Settings, metrics: Metrics, redis: Redis) -> None:
        self.topics = topics = LocalTopics()
        self.errands = errands = Errands()
        self.turnstile = turnstile = Turnstile(settings, metrics)
        self.delivery = delivery = Delivery(settings, metrics, errands)
        self.dispatcher = dispatcher = Dispatcher(settings, metrics, topics, delivery, errands)
        self._turns = Turns(settings, topics, dispatcher)
        self.broker = RedisBroker(redis, settings, self._turns)
        self._history = history = History(settings, self.broker)
        self._healer = healer = Healer(settings, metrics, topics, history, dispatcher, delivery, errands)
        self.catch_up = CatchUp(settings, history, delivery, turnstile)
        self.membership = Membership(settings, topics, self.broker, history, healer, delivery, turnstile)
        errands.performed_by(heal=healer.heal, catch_up=self.catch_up.start)

    async def close(self) -> None:
        """From the top down."""
        await self.membership.close()
        await self.catch_up.close()
        self._turns.close()
        await self._healer.close()
        await self._history.close()
        await self.broker.close()


class Node:
    """One process of the hub. ``build`` connects to nothing; ``start`` and ``stop`` say in which order."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        factories: Sequence[ServiceFactory],
        flags: Flags | None = None,
    ) -> None:
        name = node_name(settings)
        self._settings = settings
        self._database = database
        self._metrics = metrics = Metrics()
        self._redis = Redis(settings)
        self._fan_out = fan_out = _FanOut(settings, metrics, self._redis)
        self._broker = broker = fan_out.broker
        kinds = TopicKinds([changes_kind(settings)])
        publisher = Publisher(settings, metrics, kinds, broker)
        limits = SharedLimits(self._redis, settings)
        self._admission = Admission(self._redis, settings, limits)
        self._control = Control(name, broker, fan_out.dispatcher)
        self._inquiries = Inquiries(name, self._control)
        self._duties = DutyBook(name, settings, DutyMetrics(metrics.registry), self._redis, self._control.send)
        self._presence = Presence(settings, self._redis, self._duties, PresenceMetrics(metrics.registry))
        self._presence.watch(fan_out.errands)
        self._attention = Attention(settings, name, fan_out.membership.attentive, self._control)
        self._answers = Answers()
        self._expulsions = Expulsions(settings, fan_out.topics, self._control)
        self._rechecks = Rechecks(settings, fan_out.topics, self._expulsions, self._control)
        flag_metrics = FlagMetrics(metrics.registry)
        self._board = FlagBoard(settings, database, self._control, flag_metrics)
        self._cohorts = Cohorts()
        duties = self._duties.of(PURPOSE)
        self.stages = StageLeader(settings, name, self._board, duties, self._cohorts, flag_metrics)
        self._flags: Flags = self._board if flags is None else flags
        hub = self._door(kinds, publisher, limits)
        self._services: list[Service] = [factory(hub) for factory in factories]
        for service in self._services:
            for kind in service.kinds:
                kinds.register(kind)
        self._jwks = JwksCache(settings) if settings.jwks_url else None
        metrics.unchecked.set_function(lambda: self._admission.fail_open.count)
        sessions = Sessions(self._redis, settings)
        self._saver = SessionSaver(settings, sessions)
        self._keeper = Keeper(settings, fan_out.delivery)
        self._relay = OutboxRelay(settings, broker, kinds, metrics) if settings.database_relay_url else None
        self.gateway = self._open(name, kinds, publisher, sessions)
        self._flag_watch = FlagWatch(self.gateway)
        self._flags.on_change(self._flag_watch.changed)
        self._hear_others()

    @classmethod
    async def build(cls, settings: Settings, factories: Sequence[ServiceFactory], flags: Flags | None = None) -> Node:
        """A node that is not started. Needs a running event loop. ``flags``: in place of those of the file."""
        return cls(settings, await Database.open(settings), factories, flags)

    def _open(self, name: str, kinds: TopicKinds, publisher: Publisher, sessions: Sessions) -> Gateway:
        """What clients reach."""
        return Gateway(
            settings=self._settings,
            node=name,
            version=version("hub"),
            metrics=self._metrics,
            verifier=TokenVerifier(self._settings, self._jwks),
            tickets=Tickets(self._redis),
            admission=self._admission,
            sessions=sessions,
            kinds=kinds,
            methods={name: method for service in self._services for name, method in service.methods.items()},
            caller_methods={name: method for one in self._services for name, method in one.caller_methods.items()},
            broker=self._broker,
            membership=self._fan_out.membership,
            delivery=self._fan_out.delivery,
            catch_up=self._fan_out.catch_up,
            dispatcher=self._fan_out.dispatcher,
            publisher=publisher,
            turnstile=self._fan_out.turnstile,
            control=self._control,
            inquiries=self._inquiries,
            expulsions=self._expulsions,
            database=self._database,
            connections=Connections(self._settings, self._metrics),
            keeper=self._keeper,
            saver=self._saver,
            answers=self._answers,
            presence=self._presence,
            flags=self._flags,
            board=self._board,
            cohorts=self._cohorts,
            switches=Switches([*HUB_SWITCHES, *(one for service in self._services for one in service.switches)]),
        )

    def _hear_others(self) -> None:
        """What other nodes say is performed here."""
        self._expulsions.on_end = self._presence.expel
        self._fan_out.errands.gapped = lambda sub: self._cohorts.gapped(id(sub.subscriber), sub.subscriber.flags)
        self.stages.ready = lambda: self._broker.ready
        self.stages.connections = lambda: (connection.flags for connection in self.gateway.connections)
        self._control.on(Kick, lambda message: close_kicked(self.gateway, message))
        self._control.on(TakeOver, lambda message: close_taken_over(self.gateway, message))
        self._control.on(Signal, self._duties.receive)
        self._control.on(Relayed, lambda message: take_relayed(self.gateway, message))

    def _door(self, kinds: TopicKinds, publisher: Publisher, limits: SharedLimits) -> Hub:
        """What services are given."""
        return Hub(
            settings=self._settings,
            database=self._database,
            publisher=publisher,
            kept_events=KeptEvents(self._settings, kinds, self._broker),
            redaction=Redaction(self._settings, kinds, self._broker),
            registry=self._metrics.registry,
            cache=Cache(self._redis, self._settings),
            limits=limits,
            duties=self._duties,
            attention=self._attention,
            expulsions=self._expulsions,
            kinds=kinds,
            broadcasts=Broadcasts(self._control),
            answers=self._answers,
            revocations=self._admission.check_revoked,
            flags=self._flags,
            markup=Markup(),
        )

    def http(self) -> Litestar:
        """The ASGI application; its lifespan starts and stops the node."""
        routes = [route for service in self._services for route in service.routes]
        headers = CommonHeaders(
            {branch: headers for service in self._services for branch, headers in service.answer_headers.items()},
            [name for service in self._services for name in service.cors_request_headers],
            [name for service in self._services for name in service.cors_answer_headers],
        )
        sockets = [websocket_route(self.gateway), *exchange_routes(self.gateway)]
        return http_app(self.gateway, [*sockets, *routes], [self._running], headers)

    async def start(self) -> None:
        """From the bottom up. Redis and PostgreSQL may still be away: the node is then not ready, and gets there."""
        await self._redis.start()
        await self._broker.start()
        self._admission.start()
        self._saver.start()
        self._keeper.start()
        self._control.start()
        await self._board.start()
        self._attention.start()
        self._rechecks.start()
        for service in self._services:
            if service.start is not None:
                await service.start()
        self._duties.start()
        self.stages.start()
        await self._presence.start()
        if self._relay is not None:
            self._relay.start()
        log.info("started", node=self.gateway.node, version=self.gateway.version)

    async def stop(self) -> None:
        """From the top down; whoever is still connected has been told to leave before."""
        self._board.retire()
        if self._relay is not None:
            await self._relay.close()
        # A service stops its work first and gives it away then, so that no two nodes do it.
        self._duties.retire()
        await self.stages.close()
        for service in reversed(self._services):
            if service.stop is not None:
                await service.stop()
        await self._flag_watch.close()
        await self._presence.close()
        await self._duties.close()
        await self._keeper.close()
        await self._saver.close()
        await self._admission.close()
        await self._attention.close()
        await self._rechecks.close()
        await self._board.close()
        await self._inquiries.close()
        await self._control.close()
        await self._fan_out.close()
        if self._jwks is not None:
            await self._jwks.close()
        await self._redis.close()
        await self._database.close()
        log.info("stopped", node=self.gateway.node)

    @contextlib.asynccontextmanager
    async def _running(self, _: Litestar) -> AsyncIterator[None]:
        try:
            await self.start()
            yield
        finally:
            await self.stop()


def application() -> HubApp:
    """What other ASGI servers are given, with settings from the environment."""
    settings = load_settings(os.environ)
    configure_logging(settings.log_level, node_name(settings))
    return HubApp(settings, load_services(settings.services))


class HubApp:
    """A node as an ASGI application: ``uvicorn --factory hub.app:application`` or any other server.

    Slower than ``hub.serving`` and without its politeness: a stock server closes all sockets itself when it stops, and
    waits for streams unless it is given a limit (docs/configuration.md).
    """

    def __init__(self, settings: Settings, factories: Sequence[ServiceFactory]) -> None:
        self._settings = settings
        self._factories = factories
        self._http: Litestar | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Builds the node when the server starts the lifespan; everything after goes to it."""
        if self._http is None:
            self._http = (await Node.build(self._settings, self._factories)).http()
        await self._http(scope, receive, send)


def node_name(settings: Settings) -> str:
    """What this process is called in logs, and where other nodes reach it."""
    return settings.node or f"{platform.node()}-{os.getpid()}"


def load_services(address: str) -> Sequence[ServiceFactory]:
    """The list at ``module:attribute``. Raises ``ConfigError``: the hub does not know its services by itself."""
    module, _, attribute = address.partition(":")
    try:
        factories: Sequence[ServiceFactory] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"HUB_SERVICES={address}: no such list of services ({error})") from error
    return factories
