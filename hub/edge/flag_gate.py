"""What flags keep somebody from: the socket, topics, methods, paths. Asked beside permissions, never instead of them.

``feature_disabled`` says by ``details.fallback`` over which transports the same can still be had, if it can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hub.auth.principal import Principal
from hub.edge.gateway import Gateway
from hub.edge.socket import Transport
from hub.errors import ErrorCode, HubError
from hub.flags import FALLBACK, REALTIME, SOCKET, Subject, Switch

if TYPE_CHECKING:
    from hub.edge.connection import Connection


def subject_of(principal: Principal | None) -> Subject:
    """For whom flags are decided; nobody in particular when nobody is known yet."""
    return Subject() if principal is None else Subject(principal.user, str(principal.org))


def check_transport(gateway: Gateway, transport: Transport, principal: Principal) -> None:
    """Raises ``feature_disabled`` for a socket of somebody who is to have none."""
    if transport == SOCKET and not gateway.flags.on(REALTIME, subject_of(principal)):
        raise transport_disabled()


def switched_off(connection: Connection) -> bool:
    """Whether it is a socket of somebody who is to have none, by its flags."""
    return connection.socket.transport == SOCKET and not connection.flags.get(REALTIME, True)


def transport_disabled() -> HubError:
    """What whoever opens such a socket is told."""
    return disabled(REALTIME, "the socket is switched off for you; use a fallback", elsewhere=True)


def refusal_of(gateway: Gateway, connection: Connection, topic: str) -> HubError | None:
    """Why a connection may not have a topic now, by its flags."""
    switch = gateway.switches.of_topic(topic)
    if switch is None or connection.flags.get(switch.flag, True):
        return None
    return topic_disabled(switch) if _covers(switch, connection.socket.transport) else None


def topic_disabled(switch: Switch) -> HubError:
    """What a client is told of a topic that is switched off."""
    if switch.socket_only:
        return disabled(switch.flag, "this topic is switched off on the socket; use a fallback", elsewhere=True)
    return disabled(switch.flag, f"switched off ({switch.flag}); it comes back with a 'flags' frame")


def check_method(gateway: Gateway, flags: Mapping[str, bool], method: str) -> None:
    """Raises ``feature_disabled`` for a method that is switched off."""
    off = method_refusal(gateway, flags, method)
    if off is not None:
        raise off


def method_refusal(gateway: Gateway, flags: Mapping[str, bool], method: str) -> HubError | None:
    """The same, for somebody who asks."""
    switch = gateway.switches.of_method(method)
    if switch is None or flags.get(switch.flag, True):
        return None
    return disabled(switch.flag, f"{method} is switched off ({switch.flag})")


def check_publish(gateway: Gateway, flags: Mapping[str, bool], topic: str) -> None:
    """Raises ``feature_disabled`` for a topic that nobody may write to, or read pages of, on any transport."""
    switch = gateway.switches.of_topic(topic)
    if switch is not None and not switch.socket_only and not flags.get(switch.flag, True):
        raise topic_disabled(switch)


def check_path(gateway: Gateway, principal: Principal, path: str) -> None:
    """Raises ``feature_disabled`` for a path that is switched off."""
    switch = gateway.switches.of_path(path)
    if switch is not None and not gateway.flags.on(switch.flag, subject_of(principal)):
        raise disabled(switch.flag, f"{path} is switched off ({switch.flag})")


def disabled(flag: str, message: str, *, elsewhere: bool = False) -> HubError:
    """``elsewhere``: other transports still have it."""
    details = {"flag": flag} | ({"fallback": list(FALLBACK)} if elsewhere else {})
    return HubError(ErrorCode.FEATURE_DISABLED, message, details=details)


def _covers(switch: Switch, transport: Transport) -> bool:
    return transport == SOCKET or not switch.socket_only
