"""How each door of the hub is tried in one organisation with the names of another (see ``test_isolation``).

Whoever adds a frame, a topic kind, a method or a route adds an entry: it uses every name in ``Names`` that the door
takes, in the organisation of ``Names.intruder``, and returns everything that came back, as bytes.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import msgspec

from hub.edge.presence_methods import PRESENCE_METHODS
from hub.protocol import frames
from hub.protocol.cursor import Cursor, Standing, digest_of, encode_cursor
from hub.protocol.frames import Pong, Position
from tests.services.chat.reading import document, events
from tests.support.peers import Peers
from tests.support.raw_client import ClosedByHub, RawClient, Transport
from tests.support.running_hub import RunningHub
from tests.support.waiting import until

SCOPE = "subscribe:* publish:* call:* admin flags:write"


@dataclass(frozen=True)
class Names:
    """The names that are tried: those of the other organisation, or names that nobody has."""

    hub: RunningHub
    intruder: str
    """The organisation in whose name everything here is done; nobody else is in it."""
    org: str
    user: str
    session: str
    ticket: str
    key: str
    upload: str
    """Not finished; that of the topic is."""
    topics: dict[str, str]
    """By kind."""
    positions: dict[str, Position]
    """Of the other organisation's topics, by kind; the same in both runs."""
    transport: Transport = "websocket"
    """How the intruder says frames."""

    def token(self, org: str = "") -> str:
        """A token of a user of the same name."""
        return self.hub.token(org or self.intruder, self.user, scope=SCOPE)

    def items(self) -> list[dict[str, Any]]:
        """Every topic, in every way to ask for it."""
        items: list[dict[str, Any]] = []
        for kind, topic in self.topics.items():
            position = self.positions[kind]
            items.append({"topic": topic, "since": {"epoch": position.epoch, "seq": position.seq - 1}})
        return [*items, {"topic": "user:me", "since": "start"}]


Walk = Callable[[Names], Awaitable[list[bytes]]]

KEYS: dict[str, tuple[str, str]] = {
    "events": ("branding", "analytics"),
    "user": ("anna", "no-such-user"),
    "room": ("walk", "unknown"),
    "small": ("walk", "unknown"),
    "big": ("walk", "unknown"),
    "typing": ("walk", "unknown"),
    "feed": ("walk", "unknown"),
    "price": ("walk", "unknown"),
    "paced": ("walk", "unknown"),
    "late": ("walk", "unknown"),
    "content": ("acme-essay", "nobodys-essay"),
    "content_dictation": ("acme-text", "nobodys-text"),
    "chat": ("acme-hall", "nobodys-hall"),
    "upload": ("ACME" + "0" * 22, "N0B0DYS" + "0" * 19),
    "flags": ("changes", "unknown"),
}
"""By topic kind: the key that the other organisation uses, and one that nobody uses."""


# --- over the socket


async def _conversation(names: Names, *sent: dict[str, Any], query: str = "", **hello: Any) -> list[bytes]:
    """Says hello and sends frames; returns all that came until the hub had performed them or closed."""
    async with Peers(names.hub, transport=names.transport) as peers:
        client = await peers.open(names.token(), query=query)
        await client.send({"type": "hello", "id": "hello", **hello})
        for frame in sent:
            await client.send_if_open(frame)
        await client.send_if_open({"type": "ping", "id": "end"})
        return await _all_until_the_end(client)


async def _all_until_the_end(client: RawClient) -> list[bytes]:
    try:
        while not (isinstance(frame := await client.receive(), Pong) and frame.id == "end"):
            pass
    except ClosedByHub as closed:
        return [*client.raw, b"closed %d" % closed.code]
    return client.raw


async def _hello(names: Names) -> list[bytes]:
    return await _conversation(
        names,
        query=f"?ticket={names.ticket}",
        resume={"session": names.session},
        services=["staff"],
        subscribe=names.items(),
    )


async def _subscribe(names: Names) -> list[bytes]:
    return await _conversation(
        names,
        {"type": "subscribe", "id": 1, "topics": names.items()},
        {"type": "unsubscribe", "id": 2, "topics": list(names.topics.values())},
        {"type": "subscribe", "id": 3, "topics": [{"topic": topic, "last": 100} for topic in names.topics.values()]},
    )


async def _unsubscribe(names: Names) -> list[bytes]:
    return await _conversation(names, {"type": "unsubscribe", "id": 1, "topics": [*names.topics.values(), "user:me"]})


async def _publish(names: Names) -> list[bytes]:
    publications = [
        {"type": "publish", "id": kind, "topic": topic, "name": "walk", "data": "intruder", "key": names.key}
        for kind, topic in names.topics.items()
    ]
    again = [{**frame, "id": f"{frame['id']} again"} for frame in publications]
    # Only their own events come back.
    return await _conversation(names, *publications, *again, {"type": "subscribe", "id": 1, "topics": names.items()})


async def _call(names: Names) -> list[bytes]:
    answers = []
    gateway = names.hub.gateway
    for method in (*gateway.methods, *gateway.caller_methods, *PRESENCE_METHODS):
        for params in METHODS[method](names):
            answers += await _conversation_of_a_call(names, method, params)
    return answers


async def _conversation_of_a_call(names: Names, method: str, params: dict[str, Any]) -> list[bytes]:
    async with Peers(names.hub, transport=names.transport) as peers:
        client = await peers.open(names.token())
        await client.hello(subscribe=names.items())
        await client.send({"type": "call", "id": 1, "method": method, "params": params})
        answer = await client.answer_to(1)
        if method in STREAMING and isinstance(answer, frames.Reply):
            await _streamed(names, client, answer.result["topic"])
        await client.send({"type": "ping", "id": "end"})
        return await _all_until_the_end(client)


async def _streamed(names: Names, client: RawClient, topic: str) -> None:
    """What a method has begun to stream, to its end and until that is stored: so that two answers can be compared."""
    if topic not in names.topics.values():
        await client.joined({"topic": topic, "since": "start"})
    while not (isinstance(frame := await client.receive(), frames.Event) and frame.name == "stream_complete"):
        pass
    stream = topic.partition(":")[2]
    async with Peers(names.hub) as peers:
        other = await peers.open(names.token())
        await other.hello()
        await until(lambda: _is_stored(other, stream), what="the stream's end to be stored")


async def _is_stored(client: RawClient, stream: str) -> bool:
    row = await client.result({"type": "call", "method": "content.get", "params": {"stream": stream}})
    return row["finished_ms"] is not None


async def _ack(names: Names) -> list[bytes]:
    positions = {
        topic: {"epoch": names.positions[kind].epoch, "seq": names.positions[kind].seq}
        for kind, topic in names.topics.items()
    }
    ack = {"type": "ack", "positions": positions}
    return await _conversation(names, ack, {"type": "subscribe", "id": 1, "topics": names.items()}, ack)


async def _auth(names: Names) -> list[bytes]:
    # A good token, but of another organisation: as bad as one of an organisation that nobody ever heard of.
    return await _conversation(names, {"type": "auth", "id": 1, "token": names.token(names.org)})


async def _ping(names: Names) -> list[bytes]:
    return await _conversation(names, {"type": "ping", "id": names.session})


async def _chunk(names: Names) -> list[bytes]:
    """For handles that other connections have."""
    async with Peers(names.hub) as peers:
        client = await peers.open(names.token())
        await client.send({"type": "hello", "id": "hello"})
        for handle in range(4):
            await client.send_raw_if_open(struct.pack("!IQ", handle, 0) + b"intruder")
        await client.send_if_open({"type": "ping", "id": "end"})
        return await _all_until_the_end(client)


FRAMES: dict[type[Any], Walk] = {
    frames.Hello: _hello,
    frames.Subscribe: _subscribe,
    frames.Unsubscribe: _unsubscribe,
    frames.Publish: _publish,
    frames.Call: _call,
    frames.Ack: _ack,
    frames.Auth: _auth,
    frames.Ping: _ping,
    frames.Chunk: _chunk,
}


# --- methods: the params with which each is tried


def _everything(names: Names) -> list[dict[str, Any]]:
    return [{"topic": t, "user": names.user, "session": names.session, "key": names.key} for t in names.topics.values()]


def _streams(names: Names) -> list[str]:
    """The keys of the other organisation's streams."""
    return [names.topics[kind].partition(":")[2] for kind in ("content", "content_dictation")]


def _one_stream(**more: Any) -> Callable[[Names], list[dict[str, Any]]]:
    def params(names: Names) -> list[dict[str, Any]]:
        return [{"stream": stream, **more} for stream in [*_streams(names), names.session, names.key]]

    return params


def _list(names: Names) -> list[dict[str, Any]]:
    return [{}, *({"before": stream} for stream in _streams(names))]


def _generate(names: Names) -> list[dict[str, Any]]:
    messages = [{"role": "user", "content": "The same for everybody."}]
    return [
        {"kind": "chat", "messages": messages, "chunk_by": "paragraph", "stream": stream} for stream in _streams(names)
    ]


def _room(**more: Any) -> Callable[[Names], list[dict[str, Any]]]:
    def params(names: Names) -> list[dict[str, Any]]:
        return [{"room": names.topics["chat"].partition(":")[2], "user": names.user, "key": names.key, **more}]

    return params


def _intake(names: Names) -> list[dict[str, Any]]:
    return [{"name": names.key}]


def _uploads(names: Names) -> list[str]:
    return [names.topics["upload"].partition(":")[2], names.upload]


def _one_upload(**more: Any) -> Callable[[Names], list[dict[str, Any]]]:
    def params(names: Names) -> list[dict[str, Any]]:
        return [{"upload": upload, **more} for upload in [*_uploads(names), names.session, names.key]]

    return params


def _create(names: Names) -> list[dict[str, Any]]:
    asked = {"filename": "walk.csv", "size": 10, "document_type": "csv", "key": names.key}
    return [asked, *({**asked, "shares": [topic], "key": topic} for topic in names.topics.values())]


def _share(names: Names) -> list[dict[str, Any]]:
    topics = list(names.topics.values())
    return [{"upload": upload, "topics": topics} for upload in _uploads(names)]


METHODS: dict[str, Callable[[Names], list[dict[str, Any]]]] = {
    "content.start": _one_stream(content="<p>The intruder's.</p>", speed="superfast"),
    "content.pause": _one_stream(),
    "content.resume": _one_stream(),
    "content.cancel": _one_stream(),
    "content.speed": _one_stream(speed="fast"),
    "content.get": _one_stream(),
    "content.replay": _one_stream(speed="superfast"),
    "content.list": _list,
    "assistant.generate": _generate,
    "presence.get": _everything,
    "presence.set": lambda names: [{"status": "online", "topic": topic} for topic in names.topics.values()],
    "chat.get": _room(),
    "chat.rooms": _room(scope="public"),
    "chat.rename": _room(name="The intruder's"),
    "chat.archive": _room(),
    "chat.unarchive": _room(),
    "chat.members": _room(),
    "chat.join": _room(),
    "chat.invite": _room(),
    "chat.remove": _room(),
    "chat.leave": _room(),
    "chat.mute": _room(for_s=60),
    "chat.send": _room(text="The intruder's."),
    "chat.edit": _room(message=1, text="The intruder's."),
    "chat.delete": _room(message=1),
    "chat.react": _room(message=1, emoji="x"),
    "chat.history": _room(),
    "chat.search": _room(query="only"),
    "chat.read": _room(message=1),
    "chat.readers": _room(message=1),
    "chat.typing": _room(),
    "chat.retention": _room(days=1),
    # A room of the same name, and then the other methods are tried on that.
    "chat.create": _room(name="The intruder's"),
    "upload.create": _create,
    "upload.begin": _create,
    "upload.resume": _one_upload(),
    "upload.pause": _one_upload(),
    "upload.cancel": _one_upload(),
    "upload.status": _one_upload(),
    "upload.list": lambda names: [{}, *({"after": upload} for upload in _uploads(names))],
    "upload.share": _share,
    "upload.unshare": _share,
    "upload.link": _one_upload(),
    "test.echo": _everything,
    "test.refuse": _everything,
    "test.crash": _everything,
    "test.unencodable": _everything,
    "test.slow": _everything,
    "test.intake": _intake,
    "test.credit": _intake,
    "test.close": _intake,
}

STREAMING = ("content.start", "content.replay", "assistant.generate")
"""Methods that begin a stream; what it brings belongs to their answer."""


# --- over HTTP


async def _ask(names: Names, method: str, path: str, token: str = "", **how: Any) -> list[bytes]:
    """One request with the intruder's token; status, headers and body of the answer."""
    async with httpx.AsyncClient(base_url=names.hub.http_url) as http:
        headers = {"Authorization": f"Bearer {token or names.token()}", **how.pop("headers", {})}
        answer = await http.request(method, path, headers=headers, **how)
    head = {name: value for name, value in answer.headers.items() if name not in ("date", "content-length")}
    return [json.dumps([answer.status_code, head]).encode(), answer.content]


def _plain(method: str, path: str) -> Walk:
    async def walk(names: Names) -> list[bytes]:
        return await _ask(names, method, path)

    return walk


def options(path: str) -> Walk:
    """OPTIONS of a path."""
    return _plain("OPTIONS", path)


async def _events(names: Names) -> list[bytes]:
    found = []
    for kind, topic in names.topics.items():
        position = names.positions[kind]
        for query in ("", f"?since={position.epoch}:{position.seq - 1}", "?last=100"):
            found += await _ask(names, "GET", f"/v1/topics/{topic}/events{query}")
    return found + await _ask(names, "GET", "/v1/topics/user:me/events")


async def _tickets(names: Names) -> list[bytes]:
    mine = await _ask(names, "POST", "/v1/tickets")
    # A ticket is good for a connection and for nothing else, whosever it is.
    return mine + await _ask(names, "POST", "/v1/tickets", token=names.ticket)


async def _kick(names: Names) -> list[bytes]:
    return await _ask(names, "POST", "/v1/admin/kick", token=_admin(names), json={"user": names.user})


def _admin(names: Names) -> str:
    return names.hub.token(names.intruder, "root", scope=SCOPE)


async def _publish_http(names: Names) -> list[bytes]:
    events = [{"topic": topic, "name": "walk", "data": "intruder", "key": names.key} for topic in names.topics.values()]
    found = []
    for event in events:
        found += await _ask(names, "POST", "/v1/publish", json=event)
    return found + await _ask(names, "POST", "/v1/publish", json=events)


async def _publish_to_path(names: Names) -> list[bytes]:
    found = []
    for topic in names.topics.values():
        event = {"name": "walk", "data": "intruder", "key": names.key}
        found += await _ask(names, "POST", f"/v1/publish/{topic}", json=event)
    return found


async def _chat(names: Names) -> list[bytes]:
    """Nothing in a body names anything of the hub's; where the text is cut depends on how it comes."""
    theirs = {"user": names.user, "org": names.org, "session": names.session, "topic": names.topics["room"]}
    body = {"messages": [{"role": "user", "content": "hello"}], "id": names.key, **theirs}
    head, told = await _ask(names, "POST", "/v1/chat/stream", json=body)
    refused = await _ask(names, "POST", "/v1/chat/stream", json={**body, "provider": names.key})
    return [head, document(events(told.decode())).encode(), *refused]


_TUS = {"Tus-Resumable": "1.0.0"}
_BYTES = {**_TUS, "Upload-Offset": "4", "Content-Type": "application/offset+octet-stream"}


def _upload(method: str, suffix: str = "", **how: Any) -> Walk:
    """A request about one upload."""

    async def walk(names: Names) -> list[bytes]:
        found = []
        for upload in [*_uploads(names), names.key]:
            found += await _ask(names, method, f"/v1/uploads/{upload}{suffix}", **how)
        return found

    return walk


async def _begin_upload(names: Names) -> list[bytes]:
    """One of one's own, and one that is to consist of theirs."""
    encoded = {name: base64.b64encode(value.encode()).decode() for name, value in _metadata(names).items()}
    head = {**_TUS, "Upload-Metadata": ",".join(f"{name} {value}" for name, value in encoded.items())}
    found = await _ask(names, "POST", "/v1/uploads", headers={**head, "Upload-Length": "10"})
    for upload in _uploads(names):
        parts = {"Upload-Concat": f"final;/v1/uploads/{upload}"}
        found += await _ask(names, "POST", "/v1/uploads", headers={**head, **parts})
    return found


def _metadata(names: Names) -> dict[str, str]:
    return {"filename": "walk.csv", "document_type": "csv", "org": names.org, "upload": names.upload}


def _linked(method: str) -> Walk:
    """Links that the intruder makes up of what it knows; what is signed by another secret names the other's upload."""

    async def walk(names: Names) -> list[bytes]:
        found = []
        for upload in _uploads(names):
            claims = {"aud": "hub:upload-link", "exp": 2**32, "org": names.org, "sub": names.user, "upload": upload}
            for link in (names.token(), names.ticket, jwt.encode(claims, "x" * 32, algorithm="HS256")):
                found += await _ask(names, method, "/v1/upload-links/content", params={"link": link})
        return found

    return walk


async def _flag(names: Names) -> list[bytes]:
    """Flags are the deployment's: what anybody is told of them is the same whosever names are asked for."""
    asked = {"user": names.user, "org": names.org}
    found = await _ask(names, "GET", "/v1/flags/chat", params=asked)
    return found + await _ask(names, "GET", f"/v1/flags/{names.key}", params=asked)


async def _change_flags(names: Names) -> list[bytes]:
    asked = {"changes": [{"flag": "chat", "state": "off"}, {"flag": names.key, "clear": True}], "why": names.user}
    return await _ask(names, "PATCH", "/v1/flags", json=asked)


async def _change_flag(names: Names) -> list[bytes]:
    return await _ask(names, "PATCH", f"/v1/flags/{names.key}", json={"state": "off", "if_version": 1})


async def _flags_audit(names: Names) -> list[bytes]:
    found = await _ask(names, "GET", "/v1/flags/audit")
    return found + await _ask(names, "GET", "/v1/flags/audit", params={"flag": names.key})


def _evaluate(path: str) -> Walk:
    """The context pretends to be somebody else."""

    async def walk(names: Names) -> list[bytes]:
        theirs = {"targetingKey": names.user, "user": names.user, "org": names.org, "session": names.session}
        return await _ask(names, "POST", path.format(key=names.key), json={"context": theirs})

    return walk


async def _frames_http(names: Names) -> list[bytes]:
    """Every frame, for a connection of the other's session."""
    positions = {topic: {"epoch": names.positions[kind].epoch, "seq": 3} for kind, topic in names.topics.items()}
    sent: list[dict[str, Any]] = [
        {"type": "subscribe", "id": 1, "topics": names.items()},
        {"type": "unsubscribe", "id": 2, "topics": list(names.topics.values())},
        {"type": "ack", "positions": positions},
        {"type": "auth", "id": 3, "token": names.token()},
        {"type": "call", "id": 4, "method": "presence.set", "params": {"status": "online"}},
        {"type": "call", "id": 5, "method": "test.echo", "params": {"session": names.session}},
        {"type": "ping", "id": names.session},
    ]
    sent += [
        {"type": "publish", "id": kind, "topic": topic, "name": "walk", "data": "intruder", "key": names.key}
        for kind, topic in names.topics.items()
    ]
    return await _ask(names, "POST", "/v1/frames", json={"session": names.session, "frames": sent})


def _foreign_cursor(names: Names, org: str) -> str:
    """As the other organisation has it, or (``org``) one that claims to be the intruder's own and names its session."""
    topics = tuple(
        Standing(topic, names.positions[kind].epoch, names.positions[kind].seq - 1)
        for kind, topic in names.topics.items()
    )
    return encode_cursor(Cursor(digest_of(org, names.user), names.session, "c", 1, 0, 0, topics)).decode()


def _exchange(method: str, path: str) -> Walk:
    """A stream or a poll: by names, by a ticket, by cursors."""

    async def walk(names: Names) -> list[bytes]:
        topics = [*names.topics.values(), "user:me"]
        found = []
        for cursor in ("", _foreign_cursor(names, names.org), _foreign_cursor(names, names.intruder)):
            wanted: dict[str, Any] = {"cursor": cursor} if cursor else {"topics": topics}
            wanted["wait"] = 0
            if method == "GET":
                query = {name: ",".join(value) if isinstance(value, list) else value for name, value in wanted.items()}
                found += await _told(names, method, path, params=query)
            else:
                resume = {"resume": {"session": names.session}, "subscribe": names.items()}
                found += await _told(names, method, path, json=wanted if cursor else {**wanted, **resume, "topics": []})
        return found + await _told(names, method, path, params={"ticket": names.key, "topics": topics[0]})

    return walk


async def _told(names: Names, method: str, path: str, **how: Any) -> list[bytes]:
    """Frame by frame, until nothing further was on its way; or the refusal."""
    async with httpx.AsyncClient(base_url=names.hub.http_url, timeout=5) as http:
        headers = {"Authorization": f"Bearer {names.token()}"}
        if "ticket" in how.get("params", {}):
            headers = {}
        async with http.stream(method, path, headers=headers, **how) as answer:
            if answer.status_code != 200:
                return [json.dumps(answer.status_code).encode(), await answer.aread()]
            if path == "/v1/poll":
                return [msgspec.json.encode(frame) for frame in json.loads(await answer.aread())["frames"]]
            told: list[bytes] = []
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    told.append(line.removeprefix("data: ").encode())
                elif line.startswith("id: "):
                    return told
            return told


EXCHANGES: dict[tuple[str, str], Walk] = {
    (method, path): _exchange(method, path) for method in ("GET", "POST") for path in ("/v1/sse", "/v1/poll")
}
"""What is answered over a line of its own; the framework knows these paths without their methods."""


ROUTES: dict[tuple[str, str], Walk] = {
    ("GET", "/"): _plain("GET", "/"),
    ("GET", "/health/live"): _plain("GET", "/health/live"),
    ("GET", "/health/ready"): _plain("GET", "/health/ready"),
    ("GET", "/metrics"): _plain("GET", "/metrics"),
    ("GET", "/asyncapi.json"): _plain("GET", "/asyncapi.json"),
    ("GET", "/openapi.json"): _plain("GET", "/openapi.json"),
    ("GET", "/openapi.json/{path:str}"): _plain("GET", "/openapi.json/walk"),
    ("GET", "/openapi.json/openapi.json"): _plain("GET", "/openapi.json/openapi.json"),
    ("GET", "/v1/stats"): _plain("GET", "/v1/stats"),
    ("GET", "/v1/flags"): _plain("GET", "/v1/flags"),
    ("GET", "/v1/flags/audit"): _flags_audit,
    ("GET", "/v1/flags/{name:str}"): _flag,
    ("PATCH", "/v1/flags"): _change_flags,
    ("PATCH", "/v1/flags/{name:str}"): _change_flag,
    ("POST", "/ofrep/v1/evaluate/flags"): _evaluate("/ofrep/v1/evaluate/flags"),
    ("POST", "/ofrep/v1/evaluate/flags/{key:str}"): _evaluate("/ofrep/v1/evaluate/flags/{key}"),
    ("GET", "/v1/topics/{topic:str}/events"): _events,
    ("POST", "/v1/tickets"): _tickets,
    ("POST", "/v1/admin/kick"): _kick,
    ("POST", "/v1/chat/stream"): _chat,
    ("POST", "/v1/publish"): _publish_http,
    ("POST", "/v1/publish/{topic:str}"): _publish_to_path,
    ("POST", "/v1/frames"): _frames_http,
    ("POST", "/v1/uploads"): _begin_upload,
    ("GET", "/v1/uploads/{upload:str}"): _upload("GET"),
    ("HEAD", "/v1/uploads/{upload:str}"): _upload("HEAD", headers=_TUS),
    ("PATCH", "/v1/uploads/{upload:str}"): _upload("PATCH", headers=_BYTES, content=b"intruder"),
    ("POST", "/v1/uploads/{upload:str}"): _upload("POST", headers={**_TUS, "X-HTTP-Method-Override": "DELETE"}),
    ("DELETE", "/v1/uploads/{upload:str}"): _upload("DELETE", headers=_TUS),
    ("GET", "/v1/uploads/{upload:str}/content"): _upload("GET", "/content"),
    ("HEAD", "/v1/uploads/{upload:str}/content"): _upload("HEAD", "/content"),
    ("POST", "/v1/uploads/{upload:str}/links"): _upload("POST", "/links", json={"expires_s": 60}),
    ("GET", "/v1/upload-links/content"): _linked("GET"),
    ("HEAD", "/v1/upload-links/content"): _linked("HEAD"),
}
"""By method and path. OPTIONS is the framework's and is tried on every path without an entry."""

COUNTING = {("GET", "/metrics"), ("GET", "/v1/stats"), ("GET", "/v1/flags"), ("POST", "/ofrep/v1/evaluate/flags")}
"""Routes that answer with what is the whole node's, numbers that change while the tests run, or texts that speak of
topics: only names are looked for."""

SOCKETS = {"/ws": "walked frame by frame"} | {path: "walked in EXCHANGES" for _, path in EXCHANGES}
"""Routes that are no HTTP, and where they are walked."""


# --- what may differ between two answers

_VARIABLE: list[tuple[re.Pattern[bytes], bytes]] = [
    (re.compile(rb'"(ts|expires_in_ms|retry_after_ms)":\d+'), rb'"\1":0'),
    (re.compile(rb'"(created|started|finished)_ms":\d+'), rb'"\1_ms":0'),
    (re.compile(rb'"(created|last|joined|expires|finished)_at":\d+'), rb'"\1_at":0'),
    (re.compile(rb'"upload":"[0-9A-Z]{26}"'), b'"upload":"_"'),
    (re.compile(rb'\bupload:[0-9A-Z]{26}"'), b'upload:_"'),
    (re.compile(rb"/v1/uploads/[0-9A-Z]{26}"), b"/v1/uploads/_"),
    (re.compile(rb'"upload-expires": "[^"]+"'), b'"upload-expires": "_"'),
    (re.compile(rb'"run":"[0-9a-f]+"'), b'"run":"_"'),
    (re.compile(rb'"processing_ms":[\d.]+'), b'"processing_ms":0'),
    (re.compile(rb'"stream":"[A-Za-z0-9_-]{22}"'), b'"stream":"_"'),
    (re.compile(rb'content:[A-Za-z0-9_-]{22}"'), b'content:_"'),
    (re.compile(rb'"refused_before":[\d.]+'), b'"refused_before":0'),
    (re.compile(rb'"epoch":"[0-9a-f]{16}"'), b'"epoch":"_"'),
    (re.compile(rb'"next":"[0-9a-f]{16}:'), b'"next":"_:'),
    (re.compile(rb'"session":"s_[A-Za-z0-9_-]{24}"'), b'"session":"_"'),
    (re.compile(rb'"ticket":"[A-Za-z0-9_-]{43}"'), b'"ticket":"_"'),
    (re.compile(rb'"id":"[0-9a-f]{31}"'), b'"id":"_"'),
    # A stream of one's own has begun when one subscribes; how far it has come by then is a matter of time.
    (re.compile(rb'("topic":"content:_","ok":true,"epoch":"_","seq":)\d+'), rb"\g<1>0"),
]


def normalised(names: Names, answers: list[bytes]) -> list[bytes]:
    """The answers without what is random, timed, or a name that was sent; frames of different topics in one order."""
    words = {names.intruder: "<intruder>", names.user: "<user>", names.session: "<session>", names.key: "<key>"}
    words |= {names.ticket: "<ticket>", names.org: "<org>"}
    words |= {topic: f"<topic of {kind}>" for kind, topic in names.topics.items()}
    words |= {stream: f"<stream {number}>" for number, stream in enumerate(_streams(names))}
    words |= {upload: f"<upload {number}>" for number, upload in enumerate(_uploads(names))}
    words[names.topics["chat"].partition(":")[2]] = "<room>"
    done = []
    for answer in answers:
        if b'"name":"presence"' in answer and (names.user.encode() in answer or b'"members":[]' in answer):
            continue  # of oneself or nobody; how many of them come while one asks is a matter of time
        for word in sorted(words, key=len, reverse=True):
            answer = answer.replace(word.encode(), words[word].encode())
        for pattern, replacement in _VARIABLE:
            answer = pattern.sub(replacement, answer)
        done.append(answer)
    return sorted(done)
