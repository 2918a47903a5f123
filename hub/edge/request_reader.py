"""Puts a request for a stream or a poll together out of what comes over a connection of the hub's own server.

It keeps no more than a head may have, and a body as long as the head has announced it.
"""

from __future__ import annotations

from typing import Final

import httptools

from hub.edge.http_line import Incoming

_MOST_DIGITS: Final = 15  # of a length
_ODD_HEADERS: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade"})


class RequestReader:
    """Puts one request together. ``odd``: it is for the application, with all of ``data``.

    Nothing is odd once the head is ``headed`` and has been looked at: a body has the length that it was said to have.
    """

    __slots__ = (
        "_bodies",
        "_head_bytes",
        "_headers",
        "_most_body",
        "_most_head",
        "_parser",
        "_url",
        "data",
        "headed",
        "left",
        "odd",
        "whole",
    )

    def __init__(self, most_head: int, most_body: int) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._url = bytearray()
        self._headers: list[tuple[bytes, bytes]] = []
        self._bodies: list[bytes] = []
        self._head_bytes = 0
        """Before its end: all that came; then what was in it."""
        self._most_head, self._most_body = most_head, most_body
        self.data: list[bytes] = []
        """As it came, until the end of the head."""
        self.left = 0
        """Bytes of the body that are still to come."""
        self.odd = self.headed = self.whole = False

    def feed(self, data: bytes) -> bytes:
        """What came next. Returns what is not its own."""
        if self.headed:
            own, rest = data[: self.left], data[self.left :]
        else:
            self.data.append(data)
            own, rest = data, b""
        try:
            self._parser.feed_data(own)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.odd = True
        if not self.headed:
            self._head_bytes += len(data)
        self.odd = self.odd or self._head_bytes > self._most_head
        return rest

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow."""
        return bool(self._parser.should_keep_alive())

    def request(self) -> Incoming:
        """It, without a body that has not come whole."""
        parsed = httptools.parse_url(bytes(self._url))
        method = self._parser.get_method().decode("ascii")
        body = self.body() if self.whole else None
        return Incoming(method, parsed.path.decode("ascii"), parsed.query or b"", self._headers, body)

    def body(self) -> bytes:
        """What has come of it."""
        return b"".join(self._bodies)

    # --- of the parser

    def on_message_begin(self) -> None:
        """A second one before the first is answered: a pipeline."""
        self.odd = self.whole

    def on_url(self, url: bytes) -> None:
        """A piece of it."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of them."""
        name = name.lower()
        self._headers.append((name, value))
        if name in _ODD_HEADERS:
            self.odd = True
        elif name == b"content-length":
            self.left = int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else self._most_body + 1
            self.odd = self.odd or self.left > self._most_body

    def on_headers_complete(self) -> None:
        """HTTP/1.0 has no connections that stay."""
        self.headed = True
        # Colon, space and end of a line are not in them.
        self._head_bytes = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)
        if self._parser.get_http_version() != "1.1":
            self.odd = True

    def on_body(self, body: bytes) -> None:
        """A piece of it."""
        self._bodies.append(body)
        self.left -= len(body)

    def on_message_complete(self) -> None:
        """All has come."""
        self.whole = True
