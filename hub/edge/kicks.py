"""What other nodes ask of this one's connections: close a user's."""

from __future__ import annotations

from hub.edge.gateway import Gateway
from hub.errors import ErrorCode, HubError
from hub.fanout.control import Kick
from hub.protocol.codes import CloseCode


def close_kicked(gateway: Gateway, message: Kick) -> None:
    """Closes a user's connections and ends the answers whose token was issued before the kick, or does not say when."""
    gateway.admission.forget_cutoff(message.org, message.user)
    error = HubError(ErrorCode.UNAUTHENTICATED, "this token is not accepted any more; log in again")
    for connection in gateway.connections.of_user(message.org, message.user):
        if connection.applicant is not None and connection.applicant.issued_at <= message.issued_before:
            if connection.attendance is not None:
                gateway.presence.leave_all(connection.attendance)
            connection.close(CloseCode.UNAUTHENTICATED, error)
    gateway.presence.dismiss(message.org, message.user, message.issued_before)
    gateway.answers.kick(message.org, message.user, message.issued_before, error)
