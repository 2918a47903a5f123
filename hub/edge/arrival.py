"""What is known of a client before it has a connection."""

from __future__ import annotations

from msgspec import Struct

from hub.auth.credentials import Credentials
from hub.auth.principal import Principal
from hub.errors import HubError
from hub.protocol.codec import Encoding
from hub.protocol.codes import CloseCode
from hub.protocol.cursor import Cursor


class Arrival(Struct, frozen=True):
    """What the handshake found out before the connection was made."""

    encoding: Encoding
    credentials: Credentials
    principal: Principal | None = None
    """Verified before the upgrade; None: the token has to come in the hello frame."""
    ticket_session: str | None = None
    cursor: Cursor | None = None
    """It goes on from there, in its session and with its topics."""
    refused: tuple[CloseCode, HubError] | None = None
    """It may not come in, but the client can only learn it on the open socket."""
