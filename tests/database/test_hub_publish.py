"""hub_publish as an application calls it: who may, what is refused, and the number that is the order of commits."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest

from hub.embedded import PostgresServer
from hub.errors import HubError
from hub.orgs import OrgId
from hub.topics.topic import parse_topic
from tests.support.hub_database import HubDatabase, empty_database
from tests.support.waiting import until

PUBLISH = "SELECT hub_publish($1, $2, $3, $4)"


@pytest.fixture
async def app(hub_database: HubDatabase) -> AsyncIterator[Any]:
    async with hub_database.connect("hub_app") as link:
        yield link


@pytest.fixture(scope="module")
async def shared_app(postgres_server: PostgresServer, migrated_template: HubDatabase) -> AsyncIterator[Any]:
    """One connection for the tests that leave nothing behind."""
    async with empty_database(postgres_server, migrated_template.name) as database, database.connect("hub_app") as link:
        yield link


@contextlib.asynccontextmanager
async def bound(link: Any, org: str = "acme") -> AsyncIterator[None]:
    async with link.transaction():
        await link.execute("SELECT set_config('hub.org', $1, true)", org)
        yield


async def publish(link: Any, topic: str = "events:tasks", data: str = "{}", org: str = "acme", **more: Any) -> int:
    extra = "".join(f", {name} => ${index}" for index, name in enumerate(more, 5))
    number: int = await link.fetchval(
        f"SELECT hub_publish($1, $2, $3, $4{extra})", org, topic, "task.assigned", data, *more.values()
    )
    return number


async def rows(database: HubDatabase) -> list[Any]:
    async with database.connect("hub_relay") as link:
        found: list[Any] = await link.fetch("SELECT * FROM hub.outbox ORDER BY id")
        return found


async def test_numbers_count_per_organisation_and_topic(hub_database: HubDatabase, app: Any) -> None:
    async with bound(app):
        assert [await publish(app) for _ in range(3)] == [1, 2, 3]
        assert await publish(app, "events:guest") == 1
    async with bound(app, "globex"):
        assert await publish(app, org="globex") == 1
    async with bound(app):
        assert await publish(app, key="k1", tags='{"status": "open"}', by="u1") == 4
    last = (await rows(hub_database))[-1]
    assert (last["key"], last["tags"], last["by_user"], last["state"]) == ("k1", '{"status": "open"}', "u1", "pending")
    found = await rows(hub_database)
    assert all(row["key"] == f"outbox:{row['event_id']}" for row in found[:-1]), "every row has a key"
    assert len({row["shard"] for row in found if row["topic"] == "events:tasks" and row["org"] == "acme"}) == 1
    assert len({row["event_id"] for row in found}) == 6


async def test_the_later_commit_gets_the_later_number(hub_database: HubDatabase, app: Any) -> None:
    async with hub_database.connect("hub_app") as other:
        first = app.transaction()
        await first.start()
        await app.execute("SELECT set_config('hub.org', 'acme', true)")
        assert await publish(app) == 1

        async def second() -> int:
            async with bound(other):
                return await publish(other)

        waiting = asyncio.create_task(second())
        await until(lambda: blocked(hub_database, other), what="the second transaction to wait for the first")
        assert await rows(hub_database) == []
        await first.commit()
        assert await waiting == 2
    assert [row["number"] for row in await rows(hub_database)] == [1, 2]


async def test_a_commit_that_published_is_not_taken_back_by_a_crash(hub_database: HubDatabase) -> None:
    async with hub_database.connect("hub_app") as link, link.transaction():
        await link.execute("SET LOCAL synchronous_commit = off")
        await link.execute("SELECT set_config('hub.org', 'acme', true)")
        await link.execute("SELECT hub_publish('acme', 'events:tasks', 'task.assigned', '1')")
        assert await link.fetchval("SHOW synchronous_commit") == "on"


async def test_other_topics_do_not_wait(hub_database: HubDatabase, app: Any) -> None:
    async with bound(app), hub_database.connect("hub_app") as other:
        await publish(app)
        async with asyncio.timeout(30), bound(other):
            assert await publish(other, "events:guest") == 1


async def test_a_rollback_takes_its_number_back(hub_database: HubDatabase, app: Any) -> None:
    async with hub_database.connect("hub_app") as other:
        first = app.transaction()
        await first.start()
        await app.execute("SELECT set_config('hub.org', 'acme', true)")
        assert await publish(app) == 1

        async def second() -> int:
            async with bound(other):
                return await publish(other)

        waiting = asyncio.create_task(second())
        await until(lambda: blocked(hub_database, other), what="the second transaction to wait")
        await first.rollback()
        assert await waiting == 1
    async with bound(app):
        with contextlib.suppress(ZeroDivisionError):
            async with app.transaction():
                assert await publish(app) == 2
                raise ZeroDivisionError
        assert await publish(app) == 2, "a savepoint too"
    assert [row["number"] for row in await rows(hub_database)] == [1, 2]


async def blocked(database: HubDatabase, link: Any) -> bool:
    async with database.connect("postgres") as superuser:
        waits: bool = await superuser.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", link.get_server_pid())
        return waits


async def test_the_same_key_is_one_event(hub_database: HubDatabase, app: Any) -> None:
    async with bound(app):
        assert await publish(app, key="a") == 1
        assert await publish(app) == 2
        assert await publish(app, key="a", data='"other"') == 1
        assert await publish(app, "events:guest", key="a") == 1, "keys belong to their topic"
    async with bound(app, "globex"):
        assert await publish(app, org="globex", key="a") == 1
    async with bound(app):
        assert await publish(app) == 3, "the repeat has used no number"
    assert len(await rows(hub_database)) == 5


async def test_the_same_key_at_the_same_time_is_one_event(hub_database: HubDatabase, app: Any) -> None:
    """All of them wait for the counter, and are let go at once: only who holds it may look for the key."""
    async with contextlib.AsyncExitStack() as stack:
        links = [await stack.enter_async_context(hub_database.connect("hub_app")) for _ in range(8)]

        async def one(link: Any) -> int:
            async with bound(link):
                return await publish(link, key="same")

        async with bound(app):
            await publish(app)
        async with bound(app):
            assert await publish(app) == 2
            tasks = [asyncio.create_task(one(link)) for link in links]
            for link in links:
                await until(lambda link=link: blocked(hub_database, link), what="everybody to wait")
        assert await asyncio.gather(*tasks) == [3] * len(links)
    assert len(await rows(hub_database)) == 3


async def test_a_key_that_is_being_committed_is_waited_for(hub_database: HubDatabase, app: Any) -> None:
    async with bound(app):
        assert await publish(app) == 1
    async with hub_database.connect("hub_app") as other:

        async def repeat() -> int:
            async with bound(other):
                return await publish(other, key="same")

        async with bound(app):
            assert await publish(app, key="same") == 2
            waiting = asyncio.create_task(repeat())
            await until(lambda: blocked(hub_database, other), what="the repeat to wait for the first")
        assert await waiting == 2
    assert len(await rows(hub_database)) == 2


@pytest.mark.parametrize("binding", ["globex", "", None])
async def test_a_foreign_organisation_is_refused(hub_database: HubDatabase, app: Any, binding: str | None) -> None:
    async with app.transaction():
        if binding is not None:
            await app.execute("SELECT set_config('hub.org', $1, true)", binding)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="not bound to organisation") as refused:
            await publish(app)
    assert "set_config('hub.org'" in refused.value.hint
    assert await rows(hub_database) == []


async def test_publish_any_is_a_right_of_the_role_that_calls(hub_database: HubDatabase) -> None:
    name = hub_database.name
    async with hub_database.connect("hub_owner") as owner:
        await owner.execute(f"CREATE ROLE {name}_erp LOGIN; CREATE ROLE {name}_plain LOGIN")
        await owner.execute(f"GRANT hub_publish_any TO {name}_erp; GRANT {name}_plain TO {name}_erp")
        grant = f"GRANT EXECUTE ON FUNCTION public.hub_publish TO {name}_plain"
        try:
            async with hub_database.connect(f"{name}_erp") as link:
                assert await publish(link) == 1
                async with bound(link, "globex"):
                    assert await publish(link) == 2
                    assert await link.fetchval("SELECT current_setting('hub.org')") == "globex", "the binding is back"
                    assert await publish(link, org="globex") == 1
                # Acting as a lesser role is acting without the right.
                await link.execute(f"SET ROLE {name}_plain")
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for function"):
                    await publish(link)
                await owner.execute(grant)
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="not bound to organisation"):
                    await publish(link)
            async with hub_database.connect(f"{name}_plain") as link:
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="not bound to organisation"):
                    await publish(link)
                async with bound(link):
                    assert await publish(link) == 3
        finally:
            async with hub_database.connect("postgres") as superuser:
                await superuser.execute(f"DROP OWNED BY {name}_erp, {name}_plain; DROP ROLE {name}_erp, {name}_plain")


async def test_the_function_trusts_no_search_path(hub_database: HubDatabase, app: Any) -> None:
    """A caller's own functions must not run with the owner's rights, nor answer in place of PostgreSQL's."""
    async with hub_database.connect("hub_owner") as owner:
        await owner.execute("CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO hub_app")
    await app.execute("CREATE FUNCTION evil.octet_length(text) RETURNS int LANGUAGE sql AS 'SELECT 1 / 0'")
    await app.execute(
        "CREATE FUNCTION evil.pg_has_role(name, text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'"
    )
    await app.execute("SET search_path = evil, pg_catalog, public")
    async with bound(app):
        assert await publish(app) == 1
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await publish(app)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("topic", "tasks", "topic must be kind:key"),
        ("topic", "Events:tasks", "topic must be kind:key"),
        ("topic", "events:tasks\n", "topic must be kind:key"),
        ("topic", "events:" + "k" * 129, "topic must be kind:key"),
        ("topic", "e" * 33 + ":k", "topic must be kind:key"),
        ("topic", "events:ta/sks", "topic must be kind:key"),
        ("topic", "", "topic must be kind:key"),
        ("topic", None, "topic must be kind:key"),
        ("topic", "user:me", "publish to user:<id>"),
        ("name", "", "name must match"),
        ("name", "with blank", "name must match"),
        ("name", "n" * 129, "name must match"),
        ("name", None, "name must match"),
        ("org", "_hub", "org must match"),
        ("org", "a}b", "org must match"),
        ("org", None, "org must match"),
        ("data", None, "data must not be NULL"),
        ("data", '{"a": [18446744073709551616]}', "numbers must fit into 64 bits"),
        ("data", "1e300", "numbers must fit into 64 bits"),
        ("key", "", "key must have 1 to 256"),
        ("key", "k" * 257, "key must have 1 to 256"),
        ("tags", '["a"]', "tags must be an object"),
        ("tags", '{"a": {"b": 1}}', "tags must be an object"),
        ("tags", '{"a": null}', "tags must be an object"),
        ("tags", '{"a": -9223372036854775809}', "numbers must fit into 64 bits"),
        ("tags", '{"a": "' + "x" * 257 + '"}', "256 characters"),
        ("tags", '{"' + "x" * 257 + '": 1}', "256 characters"),
        ("tags", "{" + ",".join(f'"a{i}": 1' for i in range(33)) + "}", "32 entries"),
        ("data", "[" * 66 + "]" * 66, "nested more than 64 deep"),
        ("by", "", "by must have 1 to 256"),
    ],
)
async def test_what_could_never_be_delivered_is_refused(
    shared_app: Any, column: str, value: str | None, says: str
) -> None:
    event = {"org": "acme", "topic": "events:tasks", "name": "n", "data": "{}", "key": None, "tags": None, "by": None}
    with pytest.raises(asyncpg.InvalidParameterValueError, match=says):
        async with bound(shared_app):
            await shared_app.execute(
                "SELECT hub_publish($1, $2, $3, $4, $5, $6, $7)", *(event | {column: value}).values()
            )


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("data", "null"),
        ("data", "[18446744073709551615, -9223372036854775808, 0.12345678901234567890123, 1.5e-7]"),
        ("data", '"12345678901234567890"'),
        ("data", "[" * 65 + "]" * 65),
        ("data", '"' + "x" * 65534 + '"'),
        ("tags", "{}"),
        ("tags", '{"a": 1, "b": true, "c": "d"}'),
        ("key", "k" * 256),
        ("topic", "e" * 32 + ":" + "k" * 128),
    ],
)
async def test_what_can_be_delivered_is_taken(shared_app: Any, column: str, value: str) -> None:
    event = {"org": "acme", "topic": "events:tasks", "name": "n", "data": "{}", "key": None, "tags": None}
    change = shared_app.transaction()
    await change.start()
    try:
        await shared_app.execute("SELECT set_config('hub.org', 'acme', true)")
        values = (event | {column: value}).values()
        assert await shared_app.fetchval("SELECT hub_publish($1, $2, $3, $4, $5, $6)", *values) == 1
    finally:
        await change.rollback()


@pytest.mark.parametrize("size", [65_535, 10_000_000])
async def test_large_data_is_refused(hub_database: HubDatabase, app: Any, size: int) -> None:
    with pytest.raises(asyncpg.ProgramLimitExceededError, match=f"data has {size + 2} bytes, at most 65536"):
        async with bound(app):
            await publish(app, data='"' + "x" * size + '"')
    assert await rows(hub_database) == []


async def test_sql_and_python_agree_on_names(hub_database: HubDatabase) -> None:
    """The patterns are written down twice; what one takes the other must take, or rows would fail at the relay."""
    dice = random.Random(7)
    texts = ["".join(dice.choices("aZ0_.~-:/{} \n\tä*", k=dice.randint(0, 8))) for _ in range(3000)]
    texts += [f"a{text[:2]}:b{text[2:]}" for text in texts]
    texts += ["a" * 64, "a" * 65, "a:" + "b" * 128, "a:" + "b" * 129, "a" * 32 + ":b", "a" * 33 + ":b", "a:b\n", "a\n"]
    verdict = """
    CREATE FUNCTION pg_temp.fine(org text, topic text) RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
      PERFORM hub.check_event(org, topic, 'n', '1', NULL, NULL, NULL);
      RETURN true;
    EXCEPTION WHEN invalid_parameter_value THEN RETURN false;
    END $$
    """
    async with hub_database.connect("hub_owner") as link:
        await link.execute(verdict)
        rows = await link.fetch(
            "SELECT t, pg_temp.fine(t, 'a:b') AS org, pg_temp.fine('a', t) AS topic FROM unnest($1::text[]) t", texts
        )
    for text, as_org, as_topic in rows:
        assert as_org == accepted(OrgId.from_row, text), repr(text)
        assert as_topic == accepted(lambda name: parse_topic(OrgId.from_row("acme"), name), text), repr(text)
    assert sum(row["org"] for row in rows) > 20
    assert sum(row["topic"] for row in rows) > 20


def accepted(make: Callable[[str], object], text: str) -> bool:
    try:
        make(text)
    except (ValueError, HubError):
        return False
    return True
