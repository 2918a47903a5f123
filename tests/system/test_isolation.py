"""The isolation walk: every door of the hub, tried in one organisation with the names of another.

What is walked comes from the registries themselves: the client frames, the topic kinds, the methods and the routes of a
node with the services that ship and the test service. For each door: nothing of the other organisation is seen, nothing
of it changes, and the answer is, byte for byte, the one for names that nobody has. The database's own walls have their
tests in ``tests/database``.
"""

from __future__ import annotations

import asyncio
import functools
import struct
from collections.abc import AsyncIterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
import redis
from litestar import Litestar
from litestar.routes import HTTPRoute

from hub.edge.presence_methods import PRESENCE_METHODS
from hub.embedded import PostgresServer, RedisServer
from hub.fanout.publisher import NewEvent
from hub.orgs import OrgId, limit_key, session_key, ticket_key, topic_names
from hub.protocol.frames import Chunk, ClientFrame, Event, Position
from hub.topics.topic import parse_topic
from services.main import SERVICES
from tests.support.files import files_in
from tests.support.hub_database import HubDatabase, empty_database
from tests.support.hub_services import TestService
from tests.support.peers import Peers
from tests.support.raw_client import RawClient, Transport
from tests.support.running_hub import RunningHub, running_hub
from tests.support.servers import client as connected
from tests.support.waiting import until
from tests.system import isolation_walkers as walkers
from tests.system.isolation_walkers import Names, Walk

HERE = "tests/system/isolation_walkers.py"
SECRET_DATA = "only-for-acme"
_runs = iter(range(1, 1_000_000))


class Victim:
    """The other organisation: topics of every kind with events, a user with a session, a ticket, idempotency keys."""

    def __init__(self, peers: Peers, server: RedisServer, database: HubDatabase) -> None:
        self.peers = peers
        self.redis = server
        self.database = database
        self.topics = {kind: f"{kind}:{mine}" for kind, (mine, _) in walkers.KEYS.items()}
        self.positions: dict[str, Position] = {}
        self.session = ""
        self.ticket = ""
        self.upload = ""
        """One that is not finished."""
        self.written = ""
        """Its stream that a language model wrote."""
        self.client: RawClient
        self.sender: RawClient
        """Who sends files, and has a handle open."""
        self.count = 0

    async def settle(self) -> None:
        """Fills the organisation."""
        self.client = await self.peers.join("anna", scope=walkers.SCOPE)
        self.session = self.peers.welcome.session
        await self._stream()
        await self._talk()
        await self._send_files()
        # There are no operators here whose topic it could be.
        await self._relay("flags", "flag.changed", [{"why": SECRET_DATA}] * 3)
        others = ("user", "content_dictation", "chat", "flags")
        subscribed = [topic for kind, topic in self.topics.items() if kind not in others]
        await self.client.joined(*subscribed, "user:me")
        for kind, topic in self.topics.items():
            if kind.startswith(("content", "chat", "upload", "flags")):
                continue
            epoch, seq = "", 0
            for number in range(3):
                result = await self.client.publish(topic, SECRET_DATA, key=f"acme-key-{number}")
                epoch, seq = result["epoch"], result["seq"]
            self.positions[kind] = Position(epoch or "0123456789abcdef", max(seq, 3))
        await self.client.events(3 * (len(self.topics) - 5))
        await self.client.ack("room:walk", self.positions["room"].epoch, 1)
        await self.client.nothing_came()
        async with httpx.AsyncClient(base_url=self.peers.hub.http_url) as http:
            headers = {"Authorization": f"Bearer {self.peers.token('anna')}"}
            self.ticket = (await http.post("/v1/tickets", headers=headers)).json()["ticket"]
        async with self.database.connect("hub_app") as link, link.transaction():
            await link.execute("SELECT set_config('hub.org', $1, true)", self.peers.org)
            await link.execute("SELECT hub_publish($1, 'room:walk', 'walk', '{}')", self.peers.org)
        await until(self._is_stored, what="the session to be stored")

    async def _stream(self) -> None:
        """A document and a text, each streamed to its end. What is written down of a text is in a topic of its name."""
        essay = walkers.KEYS["content"][0]
        await self._begin("content.start", content=f"<p>{SECRET_DATA}</p>", stream=essay, speed="superfast")
        words = [{"role": "user", "content": SECRET_DATA}]
        self.written = await self._begin("assistant.generate", kind="chat", messages=words, chunk_by="paragraph")
        self.topics["content_dictation"] = f"content_dictation:{self.written}"
        org = OrgId.from_claim(self.peers.org)
        with connected(self.redis) as link:
            for kind in ("content", "content_dictation"):
                record = link.hgetall(topic_names(org, self.topics[kind]).position)
                self.positions[kind] = Position(record["epoch"], int(record["seq"]))
            # Full again, and gone, in the midst of what follows.
            link.delete(limit_key(org, "assistant", "anna"), limit_key(org, "content", "anna"))

    async def _talk(self) -> None:
        """A private room with messages, all of them in Redis too."""
        room = walkers.KEYS["chat"][0]
        calls = [("chat.create", {"name": SECRET_DATA})]
        calls += [("chat.send", {"text": f"{SECRET_DATA} {n}", "key": f"acme-key-{n}"}) for n in range(3)]
        for method, params in calls:
            await self.client.result({"type": "call", "method": method, "params": {"room": room, **params}})
        with connected(self.redis) as link:
            # Full again, and gone, in the midst of what follows.
            org = OrgId.from_claim(self.peers.org)
            link.delete(limit_key(org, "chat-messages", f"{room}/anna"), limit_key(org, "chat-changes", "anna"))
        await self._relay("chat", "message.created", [{"number": n, "message": SECRET_DATA} for n in range(1, 4)])

    async def _send_files(self) -> None:
        """A document that is available, and one of which the first bytes have come. Its connection is another one."""
        content = f"name;{SECRET_DATA}\r\n1;2\r\n".encode()
        sender = self.sender = await self.peers.join("anna", scope=walkers.SCOPE)
        for sent in (content, content[:4]):
            params = {"filename": f"{SECRET_DATA}.csv", "size": len(content), "document_type": "csv"}
            params["key"] = f"acme-key-{len(sent)}"
            opened = await sender.result({"type": "call", "method": "upload.create", "params": params})
            await sender.send_raw(struct.pack("!IQ", opened["handle"], 0) + sent)
            self.upload = opened["upload"]

            async def arrived(asked: str = opened["upload"], offset: int = len(sent)) -> bool:
                call = {"type": "call", "method": "upload.status", "params": {"upload": asked}}
                row = await sender.result(call)
                return bool(row["offset"] == offset and row["state"] in ("available", "receiving"))

            await until(arrived, 30, "the bytes to be there, and checked")
            if sent is content:
                self.topics["upload"] = opened["topic"]
        with connected(self.redis) as link:
            org = OrgId.from_claim(self.peers.org)
            link.delete(limit_key(org, "uploads", "anna"), limit_key(org, "upload-reads", "anna"))
        await self._relay("upload", "completed", [{"filename": SECRET_DATA}] * 3)

    async def _relay(self, kind: str, name: str, data: list[Any]) -> None:
        """No relay runs here; what it would bring to Redis."""
        hub, topic = self.peers.hub, parse_topic(OrgId.from_claim(self.peers.org), self.topics[kind])
        for one in data:
            event = NewEvent(topic.text, name, one)
            done = await hub.within(functools.partial(hub.gateway.publisher.publish, topic, event))
            self.positions[kind] = Position(done.epoch, done.seq)

    async def _begin(self, method: str, **params: Any) -> str:
        """Streams something; returns its name when its end is stored and everything has come."""
        answer = await self.client.result({"type": "call", "method": method, "params": params})
        stream = str(answer["stream"])

        async def ended() -> bool:
            row = await self.client.result({"type": "call", "method": "content.get", "params": {"stream": stream}})
            return row["finished_ms"] is not None

        await until(ended, 30, "the stream's end to be stored")
        return stream

    def _is_stored(self) -> bool:
        with connected(self.redis) as link:
            return link.hget(session_key(OrgId.from_claim(self.peers.org), self.session), "room:walk") is not None


def in_store(victim: Victim) -> dict[str, bytes]:
    """Every file that it has sent."""
    folder = Path(victim.peers.hub.settings.uploads_store.removeprefix("file:")) / victim.peers.org
    return {str(path): path.read_bytes() for path in files_in(folder)}


def in_redis(victim: Victim) -> dict[bytes, bytes | None]:
    """Everything that Redis has of the organisation, as it lies there; None: it is gone."""
    with redis.Redis(unix_socket_path=str(victim.redis.socket_path)) as link:
        keys = sorted(link.scan_iter(match=f"*{{{victim.peers.org}[/}}]*", count=10_000))
        return {key: link.dump(key) for key in (*keys, ticket_key(victim.ticket).encode())}


async def in_postgres(victim: Victim) -> dict[str, list[str]]:
    """Every row of the organisation, whatever the table."""
    tables = """
        SELECT n.nspname || '.' || c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'org' AND NOT a.attisdropped
        WHERE c.relkind IN ('r', 'p') AND n.nspname IN ('hub', 'public')
    """
    async with victim.database.connect("postgres") as link:
        names = [row["name"] for row in await link.fetch(tables)]
        found = {}
        for name in names:
            rows = await link.fetch(f"SELECT t::text AS row FROM {name} t WHERE org = $1", victim.peers.org)
            found[name] = sorted(row["row"] for row in rows)
    assert any(found.values()), "the organisation has no rows; nothing would be proven"
    return found


@pytest.fixture(scope="module")
async def hub(
    redis_server: RedisServer,
    postgres_server: PostgresServer,
    migrated_template: HubDatabase,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[RunningHub, HubDatabase]]:
    """A node with everything that ships, and the test service."""
    service = TestService()
    service.released.set()
    async with empty_database(postgres_server, migrated_template.name) as database:
        running = running_hub(
            "direct",
            redis_server.url,
            factories=[*SERVICES, service.beside_others],
            allowed_errors=["method failed"],
            database_url=database.url("hub_app"),
            connection_lease_s=3600,  # renewals would change what is compared
            ticket_ttl_s=600,
            uploads_store=f"file:{tmp_path_factory.mktemp('store')}",
            uploads_janitor_s=3600,
            uploads_idle_s=3600,
            assistant_offline_words_per_s=1000.0,
        )
        async with running as hub:
            yield hub, database


@pytest.fixture(scope="module")
async def victim(hub: tuple[RunningHub, HubDatabase], redis_server: RedisServer) -> AsyncIterator[Victim]:
    node, database = hub
    async with Peers(node, org=f"acme-{next(_runs)}") as peers:
        victim = Victim(peers, redis_server, database)
        await victim.settle()
        # Credit comes to whoever has a handle open. Who leaves it lying is cut off, in the midst of what follows.
        reading = asyncio.create_task(victim.sender.close_code(3600))
        yield victim
        assert not reading.done(), "the one who sends files was cut off"
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def names_of(victim: Victim, transport: Transport = "websocket") -> Names:
    """The other organisation's names, to be tried by a newcomer who uses them in an organisation of its own."""
    return Names(
        hub=victim.peers.hub,
        intruder=f"globex-{next(_runs)}",
        org=victim.peers.org,
        user="anna",
        session=victim.session,
        ticket=victim.ticket,
        key="acme-key-1",
        upload=victim.upload,
        topics=victim.topics,
        positions=victim.positions,
        transport=transport,
    )


def names_of_nobody(victim: Victim, transport: Transport = "websocket") -> Names:
    """Names of the same shape that nobody has."""
    return Names(
        hub=victim.peers.hub,
        intruder=f"globex-{next(_runs)}",
        org="no-such-organisation",
        user="no-such-user",
        session="s_" + "N" * 24,
        ticket="N" * 43,
        key="nobodys-key",
        upload="N0B0DYS1" + "0" * 18,
        topics={kind: f"{kind}:{unknown}" for kind, (_, unknown) in walkers.KEYS.items()},
        positions=victim.positions,
        transport=transport,
    )


async def walk_through(victim: Victim, walk: Walk, *, compare: bool = True, transport: Transport = "websocket") -> None:
    """Tries one door with both sets of names."""
    in_redis_before, in_postgres_before, stored_before = in_redis(victim), await in_postgres(victim), in_store(victim)
    assert len(stored_before) == 2
    came = len(victim.client.came)
    theirs, nobodys = names_of(victim, transport), names_of_nobody(victim, transport)
    answer = await walk(theirs)
    for part in answer:
        assert SECRET_DATA.encode() not in part
        assert victim.peers.org.encode() not in part
    if compare:
        pairs = zip_longest(walkers.normalised(theirs, answer), walkers.normalised(nobodys, await walk(nobodys)))
        # Not the lists as a whole: to show how long ones differ takes minutes.
        assert next(((mine, other) for mine, other in pairs if mine != other), None) is None
    assert in_redis(victim) == in_redis_before
    assert await in_postgres(victim) == in_postgres_before
    assert in_store(victim) == stored_before
    await victim.client.nothing_came()
    assert len(victim.client.came) == came + 1


@pytest.mark.parametrize("frame", get_args(ClientFrame), ids=lambda frame: frame.__name__)
@pytest.mark.parametrize("transport", get_args(Transport))
async def test_frame(victim: Victim, frame: type[Any], transport: Transport) -> None:
    walk = walkers.FRAMES.get(frame)
    assert walk is not None, f"{HERE}: add how the frame {frame.__name__} is tried to FRAMES"
    if frame is Chunk and transport != "websocket":
        return  # bytes of files have no way but the socket and tus
    await walk_through(victim, walk, transport=transport)


async def test_every_topic_kind_is_walked(victim: Victim) -> None:
    kinds = {kind.name for kind in victim.peers.hub.gateway.kinds}
    assert kinds == set(walkers.KEYS), f"{HERE}: add the topic kinds {kinds - set(walkers.KEYS)} to KEYS"


async def test_every_method_is_walked(victim: Victim) -> None:
    gateway = victim.peers.hub.gateway
    methods = {*gateway.methods, *gateway.caller_methods, *PRESENCE_METHODS}
    assert methods == set(walkers.METHODS), f"{HERE}: add the methods {methods - set(walkers.METHODS)} to METHODS"


def routes_of(app: Litestar) -> list[tuple[str, str]]:
    """(method, path) of every HTTP route."""
    routes = [route for route in app.routes if isinstance(route, HTTPRoute)]
    return sorted((method, route.path) for route in routes for method in route.methods)


async def test_every_route_is_walked(victim: Victim) -> None:
    app = victim.peers.hub.node.http()
    routes = set(routes_of(app))
    known = set(walkers.ROUTES)
    new = {route for route in routes - known if route[0] != "OPTIONS"}
    assert not new, f"{HERE}: add how the routes {sorted(new)} are tried to ROUTES"
    assert known <= routes, f"{HERE}: {sorted(known - routes)} are gone; take them out of ROUTES"
    others = {route.path for route in app.routes if not isinstance(route, HTTPRoute)}
    assert others == set(walkers.SOCKETS), f"{HERE}: say in SOCKETS where {others - set(walkers.SOCKETS)} are walked"


@pytest.mark.parametrize("route", sorted(walkers.ROUTES), ids=lambda route: " ".join(route))
async def test_route(victim: Victim, route: tuple[str, str]) -> None:
    await walk_through(victim, walkers.ROUTES[route], compare=route not in walkers.COUNTING)


@pytest.mark.parametrize("route", sorted(walkers.EXCHANGES), ids=lambda route: " ".join(route))
async def test_exchange(victim: Victim, route: tuple[str, str]) -> None:
    await walk_through(victim, walkers.EXCHANGES[route])


async def test_options_of_every_route(victim: Victim) -> None:
    for method, path in routes_of(victim.peers.hub.node.http()):
        if method == "OPTIONS":
            concrete = path.replace("{topic:str}", victim.topics["room"]).replace("{path:str}", "walk")
            concrete = concrete.replace("{upload:str}", victim.upload)
            await walk_through(victim, walkers.options(concrete), compare=False)


async def test_the_walk_would_notice(victim: Victim) -> None:
    """The same comparisons, within the organisation itself: there they must fail."""
    names = names_of(victim)
    insider = Names(**{**{f: getattr(names, f) for f in names.__dataclass_fields__}, "intruder": victim.peers.org})
    seen = b"".join(await walkers.FRAMES[get_args(ClientFrame)[1]](insider))
    assert SECRET_DATA.encode() in seen
    before = in_redis(victim)
    await victim.client.publish("room:noticed", 1)
    assert in_redis(victim) != before


# --- what must be separate although all names are the same


async def test_the_same_names_in_two_organisations_are_two_of_everything(victim: Victim) -> None:
    async with Peers(victim.peers.hub, org=f"globex-{next(_runs)}") as peers:
        twin = Victim(peers, victim.redis, victim.database)
        await twin.settle()
        for topic in victim.topics.values():
            if topic.startswith(("user:", "content", "chat", "upload", "flags")):
                continue
            mine = await victim.client.publish(topic, SECRET_DATA, key="twins")
            theirs = await twin.client.publish(topic, "only-for-globex", key="twins")
            assert not mine["duplicate"]
            assert not theirs["duplicate"]
            assert (await victim.client.expect(Event, topic=topic)).data == SECRET_DATA
            assert (await twin.client.expect(Event, topic=topic)).data == "only-for-globex"
            again = await twin.client.publish(topic, "again", key="twins")
            assert again == {**theirs, "duplicate": True}
        essay = victim.topics["content"].partition(":")[2]
        for peer in (victim, twin):
            listed = await peer.client.result({"type": "call", "method": "content.list"})
            assert sorted(row["stream"] for row in listed["streams"]) == sorted([essay, peer.written])
            rooms = await peer.client.result({"type": "call", "method": "chat.rooms"})
            assert [room["last_number"] for room in rooms["rooms"]] == [3]
            listed = await peer.client.result({"type": "call", "method": "upload.list"})
            mine = [peer.upload, peer.topics["upload"].partition(":")[2]]
            assert [row["upload"] for row in listed["uploads"]] == mine
        for one, other in ((victim.client, twin.client), (twin.client, victim.client)):
            await one.publish("user:anna", "to my own anna")
            await one.expect(Event, topic="user:me", data="to my own anna")
            await other.nothing_came()
