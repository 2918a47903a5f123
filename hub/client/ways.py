"""Makes the transports of one client, by name. What only fallbacks need is loaded when the first one is made."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit, urlunsplit

from hub.client.options import ClientOptions, TransportName
from hub.client.transport import Transport
from hub.client.websocket import WebSocketTransport
from hub.client.wire import Wire

if TYPE_CHECKING:
    from hub.client.door import Door


class Ways:
    """``url``: of the WebSocket. ``wire``: what it speaks; the others speak JSON."""

    def __init__(self, url: str, wire: Wire, options: ClientOptions) -> None:
        self._url = url
        self._wire = wire
        self._options = options
        self._door: Door | None = None

    def transport(self, name: TransportName, token: str | None, ticket: str | None) -> Transport:
        """A new one, not open yet. ``ticket`` is used where there is no token."""
        if name == "websocket":
            url = self._url if ticket is None or token is not None else _with_query(self._url, ticket)
            return WebSocketTransport(url, token, self._wire, self._options)

        # An HTTP library takes longer to load than all of the rest.
        from hub.client.poll import PollTransport
        from hub.client.sse import SseTransport

        kind = SseTransport if name == "sse" else PollTransport
        return kind(self.door(), token, ticket, self._options)

    def door(self) -> Door:
        """The hub's HTTP."""
        from hub.client.door import Door

        self._door = self._door or Door(self._url, self._options)
        return self._door

    async def close(self) -> None:
        """Nothing is opened any more."""
        if self._door is not None:
            await self._door.close()


def _with_query(url: str, ticket: str) -> str:
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, urlencode({"ticket": ticket}))))
    return urlunsplit(parts._replace(query=query))
