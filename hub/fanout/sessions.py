"""Sessions: the acknowledged positions of a client, kept in Redis over reconnects, and which connection owns them.

How a client was present goes with them; what the word means is the edge's.

Knows nothing of frames or sockets. When to save, and closing the connection that lost its session, is the edge's part.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from hub.auth.principal import Principal
from hub.config import Settings
from hub.errors import HubError
from hub.orgs import OrgId, session_key
from hub.protocol.frames import Position
from hub.redis import Redis, ScriptCall, load_script

_RANDOM_BYTES: Final = 18
_UNTOUCHED: Final = "-"
_SESSION: Final = re.compile(r"s_[A-Za-z0-9_-]{24}")


class SessionOwner(Struct, frozen=True):
    """The connection that may write a session. ``connection`` is unique among all nodes and times."""

    org: OrgId
    user: str
    node: str
    connection: str
    claim: int = 0
    """What ``resume`` gave; 0: the session was made by this connection. The highest claim owns the session."""


class SessionSave(Struct, frozen=True):
    """Positions to be stored, by text of the topic: those that have changed since the last save.

    ``release``: the connection gives the session up; the positions stay until the session is resumed or expires.
    """

    session: str
    owner: SessionOwner
    positions: Mapping[str, Position]
    release: bool = False
    presence: str | None = None
    """A word for how the client is present, "" for nothing to be kept; None: what is stored stays."""


class PreviousOwner(Struct, frozen=True):
    """The connection that had a session before and must be closed with 4409; perhaps it is long gone."""

    node: str
    connection: str


class Resumed(Struct, frozen=True):
    """A session that now belongs to the connection that asked."""

    positions: dict[str, Position]
    previous: PreviousOwner | None
    claim: int
    """Belongs into the ``SessionOwner`` of the connection that asked."""
    presence: str = ""
    """As it was last saved."""


class Sessions:
    """The sessions of all organisations. Every method raises (or holds) ``unavailable`` when Redis does not answer.

    A session that was never saved exists in its connection alone: it cannot be resumed. Saving no positions makes it.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._ttl_s = settings.session_ttl_s
        self._max_topics = settings.max_topics_per_connection
        self._resume = load_script("hub.fanout", "session_resume.lua")
        self._save = load_script("hub.fanout", "session_save.lua")
        redis.register(self._resume, self._save)

    def create(self) -> str:
        """A new session's id, which cannot be guessed. Nothing is written: the first save does."""
        return f"s_{secrets.token_urlsafe(_RANDOM_BYTES)}"

    async def resume(self, session: str, principal: Principal, node: str, connection: str) -> Resumed | None:
        """Claims a session for a connection; from now on nobody else's ``save`` takes effect.

        None: unknown, expired, or another user's or organisation's; which of them, nobody can tell.
        """
        if not _SESSION.fullmatch(session):
            return None
        key = session_key(principal.org, session)
        answer = await self._redis.run(self._resume, [key], [principal.user, node, connection, self._ttl_s])
        if answer is None:
            return None
        words = [bytes(word).decode() for word in answer]
        previous = PreviousOwner(words[0], words[1]) if words[1] and words[1] != connection else None
        positions = {topic: _position(value) for topic, value in zip(words[4::2], words[5::2], strict=True)}
        return Resumed(positions, previous, int(words[2]), words[3])

    async def owner_of(self, session: str, principal: Principal) -> tuple[str, str] | None:
        """(node, connection) that has the session now. None: nobody has, or it is not this user's."""
        if not _SESSION.fullmatch(session):
            return None
        key = session_key(principal.org, session)
        user, node, connection = await self._redis.command(key, "HMGET", key, "user", "node", "connection")
        if user is None or user.decode() != principal.user or not connection:
            return None
        return node.decode(), connection.decode()

    async def save(self, session: str, owner: SessionOwner, positions: Mapping[str, Position]) -> bool:
        """Stores positions beside those there are. False: a newer connection owns the session, nothing was stored."""
        return await self._save_one(SessionSave(session, owner, positions))

    async def release(self, session: str, owner: SessionOwner, positions: Mapping[str, Position] | None = None) -> bool:
        """The last save: the session stays for ``session_ttl_s`` and belongs to nobody. False as for ``save``."""
        return await self._save_one(SessionSave(session, owner, positions or {}, release=True))

    async def save_many(self, saves: Sequence[SessionSave]) -> list[bool | HubError]:
        """``save`` or ``release`` for many sessions in one pipelined batch; one outcome each, in the order given."""
        answers = await self._redis.batch([self._call(save) for save in saves])
        return [answer if isinstance(answer, HubError) else bool(answer) for answer in answers]

    async def _save_one(self, save: SessionSave) -> bool:
        (outcome,) = await self.save_many([save])
        if isinstance(outcome, HubError):
            raise outcome
        return outcome

    def _call(self, save: SessionSave) -> ScriptCall:
        owner = save.owner
        args: list[Any] = [owner.user, owner.node, owner.connection, owner.claim]
        args += (
            self._ttl_s,
            self._max_topics,
            int(save.release),
            _UNTOUCHED if save.presence is None else save.presence,
        )
        for topic, position in save.positions.items():
            args += (topic, position.seq, position.epoch)
        return ScriptCall(self._save, (session_key(owner.org, save.session),), tuple(args))


def _position(value: str) -> Position:
    """``seq:saved at:epoch``, as the script wrote it."""
    seq, _, epoch = value.split(":", 2)
    return Position(epoch, int(seq))
