"""Everything the edge needs, in one record. ``hub.app`` builds it; routes, handshake and connections get it whole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hub.auth.principal import Principal
from hub.auth.tickets import Tickets
from hub.auth.tokens import TokenVerifier
from hub.config import Settings
from hub.database import Database
from hub.edge.admission import Admission
from hub.edge.keeper import Keeper
from hub.edge.registry import Connections
from hub.edge.session_saver import SessionSaver
from hub.fanout.broker import Broker
from hub.fanout.catch_up import CatchUp
from hub.fanout.control import Control
from hub.fanout.delivery import Delivery
from hub.fanout.dispatcher import Dispatcher
from hub.fanout.inquiries import Inquiries
from hub.fanout.membership import Membership
from hub.fanout.publisher import Publisher
from hub.fanout.sessions import Sessions
from hub.fanout.turnstile import Turnstile
from hub.flags import Flags, Switches
from hub.nodes.answers import Answers
from hub.nodes.callers import CallerMethod
from hub.nodes.expulsions import Expulsions
from hub.nodes.flags.board import FlagBoard
from hub.nodes.flags.cohorts import Cohorts
from hub.nodes.presence.presence import Presence
from hub.telemetry import Metrics
from hub.topics.kinds import TopicKinds

Method = Callable[[Principal, dict[str, Any]], Awaitable[Any]]
"""A method of a service: (who, params) -> result. Raises ``HubError``."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of one node that clients reach."""

    settings: Settings
    node: str
    version: str
    metrics: Metrics
    verifier: TokenVerifier
    tickets: Tickets
    admission: Admission
    sessions: Sessions
    kinds: TopicKinds
    methods: Mapping[str, Method]
    caller_methods: Mapping[str, CallerMethod]
    broker: Broker
    membership: Membership
    delivery: Delivery
    catch_up: CatchUp
    dispatcher: Dispatcher
    publisher: Publisher
    turnstile: Turnstile
    control: Control
    inquiries: Inquiries
    expulsions: Expulsions
    database: Database
    connections: Connections
    keeper: Keeper
    saver: SessionSaver
    answers: Answers
    presence: Presence
    flags: Flags
    board: FlagBoard
    """The same, for whoever looks after them."""
    switches: Switches
    cohorts: Cohorts
