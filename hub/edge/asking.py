"""What a request for a stream or a poll asks for, out of its query or its body: a hello, and from where to go on."""

from __future__ import annotations

import math
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct

from hub.config import Settings
from hub.edge.http_bodies import decode_json
from hub.edge.http_line import Incoming
from hub.errors import bad_request
from hub.protocol.codec import Encoding, decode_item
from hub.protocol.cursor import Cursor, digest_of_topics
from hub.protocol.frames import MAX_TOPICS_PER_FRAME, FrameId, ResumeItem

_Names = Annotated[list[str], Meta(max_length=MAX_TOPICS_PER_FRAME)]


class Asking(Struct):
    """A hello with more to it. As the body of a POST, or made out of a query."""

    type: str = "hello"
    id: FrameId | None = None
    token: str | None = None
    resume: ResumeItem | None = None
    services: _Names = []
    subscribe: Annotated[list[msgspec.Raw], Meta(max_length=MAX_TOPICS_PER_FRAME)] = []
    topics: _Names = []
    """Short for ``subscribe`` with nothing but names."""
    cursor: str | None = None
    wait: float | None = None
    """Seconds."""

    @property
    def asked(self) -> int:
        """Which topics it names, as a digest; 0: none."""
        items = [_topic_of(raw) for raw in self.subscribe]
        return digest_of_topics([*(f"events:{name}" for name in self.services), *self.topics, *items])


_body: Final = msgspec.json.Decoder(Asking)
_plain: Final = msgspec.json.Decoder()


def read_asking(request: Incoming, body: bytes, settings: Settings) -> Asking:
    """What a GET or a POST wants. Raises ``bad_request``."""
    asking = _of_query(request.query)
    if request.method == "POST" and body:
        in_query = asking
        asking = decode_json(body, _body)
        asking.cursor = asking.cursor or in_query.cursor
    if asking.type != "hello":
        raise bad_request("the body must be a 'hello' frame, or {cursor, wait}; other frames go to POST /v1/frames")
    if asking.cursor is None:
        asking.cursor = request.header(b"last-event-id") or None
    if asking.wait is not None and not 0 <= asking.wait < math.inf:
        raise bad_request("'wait' must be a number of seconds, 0 or more")
    if asking.cursor is not None and len(asking.cursor) > settings.max_message_bytes:
        raise bad_request("'cursor' is too long; leave it out to begin anew")
    if request.method == "GET" and not asking.asked and asking.cursor is None:
        raise bad_request("name what to subscribe to: '?topics=kind:key,kind:key' or '?services=name,name'")
    return asking


def wait_of(asking: Asking, settings: Settings) -> float:
    """Seconds to wait for something to happen."""
    return settings.poll_wait_s if asking.wait is None else min(asking.wait, settings.poll_wait_s)


def hello_of(asking: Asking, cursor: Cursor | None) -> str:
    """The hello frame. With a cursor, what is named without a position goes on there; nothing named: all it has."""
    items: list[Any] = [{"topic": f"events:{name}"} for name in asking.services]
    items += [{"topic": name} for name in asking.topics]
    if cursor is None:
        items += asking.subscribe
    elif asking.asked in (0, cursor.asked):
        items = [_item(one) for one in cursor.topics]
    else:
        known = {one.topic: one for one in cursor.topics}
        items = [_with_position(item, known) for item in [*items, *map(_dict_of, asking.subscribe)]]
    hello: dict[str, Any] = {"type": "hello", "subscribe": items}
    session = asking.resume.session if asking.resume is not None else cursor.session if cursor is not None else ""
    if session:
        hello["resume"] = {"session": session}
    if asking.id is not None:
        hello["id"] = asking.id
    return msgspec.json.encode(hello).decode()


def _of_query(query: bytes) -> Asking:
    asking = Asking()
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="utf-8"):
        if name == "topics":
            asking.topics = [*asking.topics, *_names(value)]
        elif name == "services":
            asking.services = [*asking.services, *_names(value)]
        elif name == "cursor":
            asking.cursor = value or None
        elif name == "wait":
            asking.wait = _seconds(value)
    if len(asking.topics) + len(asking.services) > MAX_TOPICS_PER_FRAME:
        raise bad_request(f"at most {MAX_TOPICS_PER_FRAME} topics in one request")
    return asking


def _names(value: str) -> list[str]:
    return [name for name in (part.strip() for part in value.split(",")) if name]


def _seconds(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan  # is refused


def _topic_of(raw: msgspec.Raw) -> str:
    decoded = decode_item(raw, Encoding.JSON)
    return decoded[0] if isinstance(decoded, tuple) else decoded.topic


def _dict_of(raw: msgspec.Raw) -> Any:
    return raw if isinstance(decode_item(raw, Encoding.JSON), tuple) else _plain.decode(raw)


def _with_position(item: Any, known: dict[str, Any]) -> Any:
    """``item`` with the cursor's position, if it is well-formed and has none of its own."""
    if not isinstance(item, dict) or item.get("since") is not None or item.get("last") is not None:
        return item
    one = known.get(item["topic"])
    return item if one is None or not one.epoch else {**item, "since": {"epoch": one.epoch, "seq": one.seq}}


def _item(one: Any) -> dict[str, Any]:
    item: dict[str, Any] = {"topic": one.topic}
    if one.epoch:
        item["since"] = {"epoch": one.epoch, "seq": one.seq}
    if one.filter is not None:
        item["filter"] = one.filter
    if one.ack:
        item["ack"] = True
    return item
