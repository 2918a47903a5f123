"""The pool as ``hub_app``, and the transaction that is bound to one organisation.

There is no other way to a statement than ``Database.transaction(org)``, and a connection is refused whose role could
see past row-level security.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import asyncpg
import msgspec

from hub.config import Settings
from hub.database.failures import LOST, translated
from hub.database.waker import Waker
from hub.errors import ConfigError, ErrorCode, HubError, bad_request
from hub.orgs import CONTROL_ORG, OrgId

_BYPASSES = "SELECT rolsuper OR rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = current_user"
# One round trip. RESET ALL, because the pool does not (see open): what a transaction finds set is what the connection
# began with. An OrgId consists of letters, digits and `._-`, so there is nothing in it that a quote could end.
_BEGIN = "RESET ALL; BEGIN; SELECT pg_catalog.set_config('hub.org', '{org}', true)"
# Through text, so that the JSON value null does not become an SQL NULL. What is in FROM comes first: from here on the
# transaction leaves the wake-up to us (see Waker). Not in _BEGIN, so that hub_publish in a statement of the service's
# own still wakes the relays.
_PUBLISH = (
    "SELECT public.hub_publish($1, $2, $3, $4::text::jsonb, $5, $6, $7)"
    " FROM pg_catalog.set_config('hub.wakes', 'on', true)"
)
_NEXT_NUMBER = "SELECT hub.next_number($1, $2)"
_ERASE = "SELECT hub.outbox_erase($1, $2, $3::bigint[], $4::text::jsonb)"


class Transaction:
    """An open transaction that sees and writes the rows of ``org`` alone.

    Statements are asyncpg's: ``$1`` parameters, records as rows; ``jsonb`` goes in and comes out as Python values.
    Raises ``HubError(unavailable)`` when the database is not reachable and ``HubError(conflict)`` when the transaction
    has to be tried again; whatever else PostgreSQL says comes as asyncpg's exception.
    """

    __slots__ = ("_connection", "org", "published")

    def __init__(self, connection: Any, org: OrgId) -> None:
        self._connection = connection
        self.org = org
        self.published = False
        """Whether the relays have to be woken when it has committed."""

    async def execute(self, query: str, *args: object) -> str:
        """Runs a statement; answers with its command tag (``UPDATE 3``)."""
        with translated():
            tag: str = await self._connection.execute(query, *args)
        return tag

    async def execute_many(self, query: str, args: list[tuple[object, ...]]) -> None:
        """Runs a statement once per tuple of ``args``, pipelined."""
        with translated():
            await self._connection.executemany(query, args)

    async def fetch(self, query: str, *args: object) -> list[Any]:
        """All rows. Give the query a LIMIT: what it returns is held in memory."""
        with translated():
            rows: list[Any] = await self._connection.fetch(query, *args)
        return rows

    async def fetch_row(self, query: str, *args: object) -> Any | None:
        """The first row, or None."""
        with translated():
            return await self._connection.fetchrow(query, *args)

    async def fetch_value(self, query: str, *args: object) -> Any:
        """The first column of the first row, or None."""
        with translated():
            return await self._connection.fetchval(query, *args)

    async def publish(
        self,
        topic: str,
        name: str,
        data: Any,
        *,
        key: str | None = None,
        tags: dict[str, Any] | None = None,
        by: str | None = None,
    ) -> int:
        """``hub_publish``: the event leaves when this transaction commits. Answers with its number within the topic.

        Locks the topic until the commit, so publish last and commit soon; two transactions that publish to the same
        topics do so in the same order, or one of them gets ``conflict``. Raises ``bad_request`` or ``too_large`` when
        the event could never be delivered; the transaction is then lost.
        """
        self.published = True
        with _refused():
            number: int = await self.fetch_value(_PUBLISH, self.org, topic, name, _json_text(data), key, tags, by)
        return number

    async def next_number(self, topic: str) -> int:
        """The number that the next ``publish`` to ``topic`` gets, so that its data can carry it.

        Locks the topic until the commit, as ``publish`` does. A ``publish`` whose key is known already gets the number
        of that event instead.
        """
        number: int = await self.fetch_value(_NEXT_NUMBER, self.org, topic)
        return number

    async def erase(self, topic: str, numbers: Sequence[int], data: Any) -> None:
        """Gives the events of these numbers other ``data`` in the outbox, whether they have left or not.

        Numbers that are not there, or not any more, are skipped. The relay may have read such an event and publish what
        it said before; not after an event of a later number. Call it late: a relay that settles the same events waits
        for the commit. Raises as ``publish``.
        """
        with _refused():
            await self.fetch_value(_ERASE, self.org, topic, numbers, _json_text(data))


class Database:
    """The pool. It connects when first needed: a hub starts while PostgreSQL is away, and heals when it is back."""

    def __init__(self, pool: Any, waker: Waker, timeout_s: float) -> None:
        self._pool = pool
        self._waker = waker
        self._timeout_s = timeout_s

    @classmethod
    async def open(cls, settings: Settings) -> Database:
        """A pool of at most ``database_pool`` connections, and one more to wake relays; nothing is connected yet.

        ``close`` must follow.
        """
        timeout_s = settings.database_timeout_s
        pool = asyncpg.create_pool(
            settings.database_url,
            min_size=0,
            max_size=settings.database_pool,
            timeout=timeout_s,
            command_timeout=timeout_s,
            init=_prepare,
            # Nothing of the session outlives a transaction but settings, and the next one resets those as it begins.
            reset=_leave,
            server_settings={
                "application_name": "hub",
                "search_path": "hub, public",
                # A node that hangs must not hold a topic's counter for ever.
                "idle_in_transaction_session_timeout": str(int(timeout_s * 2000)),
                # Nor must a statement that was given up: asyncpg's cancellation can come to the server before it.
                "statement_timeout": str(int(timeout_s * 1000)),
            },
        )
        await pool
        return cls(pool, Waker(settings), timeout_s)

    @contextlib.asynccontextmanager
    async def transaction(self, org: OrgId) -> AsyncIterator[Transaction]:
        """A transaction of ``org``: committed at the end of the block, rolled back when the block raises.

        Waits at most ``database_timeout_s`` for a free connection. Raises ``HubError(unavailable)`` when there is none
        or the database is away; after that from the commit it is not known whether it took effect. A block that goes on
        after a statement has failed ends with asyncpg's ``InFailedSQLTransactionError``. ``TypeError`` when
        ``org`` is no ``OrgId``; ``ConfigError`` when HUB_DATABASE_URL names a role that bypasses row-level security.
        """
        if not isinstance(org, OrgId):
            raise TypeError("a transaction is bound to an OrgId; a plain string may not name an organisation")
        with translated():
            async with asyncio.timeout(self._timeout_s):
                connection = await self._begin(org)
        try:
            tx = Transaction(connection, org)
            try:
                yield tx
            except BaseException:
                # The reason is on its way up. A rollback that fails says only that the connection is gone as well, and
                # with it the transaction.
                with contextlib.suppress(*LOST):
                    await _end(connection, "ROLLBACK")
                raise
            await self._commit(tx, connection)
        finally:
            await self._give_back(connection)

    async def _commit(self, tx: Transaction, connection: Any) -> None:
        try:
            with translated():
                if await _end(connection, "COMMIT") != "COMMIT":
                    raise asyncpg.InFailedSQLTransactionError("a statement had failed, so nothing was committed")
        finally:
            # Whatever came of it: a commit whose answer was lost may have taken effect.
            if tx.published:
                self._waker.wake()

    async def maintain(self, query: str, *args: object) -> Any:
        """The one value of a statement that is bound to no organisation, and so sees no row of any.

        For functions of the schema's owner that do their work for all of them (expiry). Raises as ``transaction``.
        """
        async with self.transaction(CONTROL_ORG) as tx:
            return await tx.fetch_value(query, *args)

    async def maintain_rows(self, query: str, *args: object) -> list[tuple[OrgId, Any]]:
        """The same for a statement with rows: each with the organisation of its column ``org``, to go on with there."""
        async with self.transaction(CONTROL_ORG) as tx:
            return [(OrgId.from_row(row["org"]), row) for row in await tx.fetch(query, *args)]

    async def _begin(self, org: OrgId) -> Any:
        """A connection with an open transaction. Connections that died while idle are dropped on the way."""
        while True:
            connection = await self._pool.acquire()
            try:
                await connection.execute(_BEGIN.format(org=org))
            except LOST:
                # Nothing has happened yet, so trying again is safe; when the server itself is away, acquire says so.
                connection.terminate()
                await self._give_back(connection)
            except BaseException:
                connection.terminate()
                await self._give_back(connection)
                raise
            else:
                return connection

    async def _give_back(self, connection: Any) -> None:
        with contextlib.suppress(*LOST):
            await self._pool.release(connection, timeout=self._timeout_s)

    async def ping(self) -> None:
        """Raises ``HubError(unavailable)`` (its cause says why) or ``ConfigError`` when nothing could be served now."""
        with translated():
            async with asyncio.timeout(self._timeout_s):
                connection = await self._begin(CONTROL_ORG)
                try:
                    await _end(connection, "ROLLBACK")
                finally:
                    await self._give_back(connection)

    async def close(self) -> None:
        """Closes the pool; connections still in use after ``database_timeout_s`` are cut."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._pool.close()
        except LOST:
            self._pool.terminate()
        finally:
            await self._waker.close()


async def _prepare(connection: Any) -> None:
    if await connection.fetchval(_BYPASSES):
        raise ConfigError("HUB_DATABASE_URL must name hub_app: this role bypasses row-level security")
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name, encoder=_json_text, decoder=msgspec.json.decode, schema="pg_catalog", format="text"
        )


async def _leave(_: Any) -> None:
    """What a pool does with a connection that comes back."""


async def _end(connection: Any, statement: str) -> str:
    """The statement's tag. A connection of which it is not known whether its transaction has ended serves no other."""
    try:
        tag: str = await connection.execute(statement)
    except BaseException:
        connection.terminate()
        raise
    return tag


def _json_text(value: object) -> str:
    return msgspec.json.encode(value).decode()


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """What an event can be refused for, in the hub's words."""
    try:
        yield
    except asyncpg.InvalidParameterValueError as error:
        raise bad_request(str(error)) from error
    except asyncpg.ProgramLimitExceededError as error:
        raise HubError(ErrorCode.TOO_LARGE, str(error)) from error
