"""Who may read which room, asked by many at once; and what each role may do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hub.api import HubError, Principal
from hub.client import SubscriptionEnded
from hub.database import Database
from hub.errors import ErrorCode, unavailable
from hub.orgs import OrgId
from services.chat.readers import Readers
from services.chat.rules import RULES, Access, Action, Role, check
from tests.services.rooms.parlour import parlour
from tests.support.hub_database import HubDatabase
from tests.support.waiting import until

ACME, GLOBEX = OrgId.from_operator("acme"), OrgId.from_operator("globex")


class CountingDatabase:
    """A real database that counts transactions, and can be away."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.count = 0
        self.away = False

    @contextlib.asynccontextmanager
    async def transaction(self, org: OrgId) -> AsyncIterator[Any]:
        self.count += 1
        if self.away:
            raise unavailable("the database")
        async with self._database.transaction(org) as tx:
            yield tx


@pytest.fixture
async def database(hub_database: HubDatabase) -> AsyncIterator[CountingDatabase]:
    opened = await Database.open(hub_database.settings())
    async with opened.transaction(ACME) as tx:
        for room, public in (("open", True), ("closed", False)):
            await tx.execute(
                "INSERT INTO hub.chat_rooms (org, id, name, public, created_by) VALUES ($1, $2, $2, $3, 'ada')",
                ACME,
                room,
                public,
            )
        for user in ("ada", "u7"):
            await tx.execute(
                "INSERT INTO hub.chat_members (org, room, member, role) VALUES ($1, 'closed', $2, 'member')", ACME, user
            )
    yield CountingDatabase(opened)
    await opened.close()


def principal(user: str, org: OrgId = ACME) -> Principal:
    return Principal(user, org, (), 0)


async def test_a_thousand_at_once_are_a_few_statements(database: CountingDatabase) -> None:
    readers = Readers(database)  # type: ignore[arg-type]
    asked = [(f"u{n}", room) for n in range(400) for room in ("open", "closed", "nowhere")]
    answers = await asyncio.gather(*(readers.may_subscribe(principal(user), room) for user, room in asked))
    allowed = {question for question, answer in zip(asked, answers, strict=True) if answer}
    assert allowed == {(f"u{n}", "open") for n in range(400)} | {("u7", "closed")}
    assert database.count <= 4
    assert not await readers.may_subscribe(principal("ada", GLOBEX), "open")
    assert await readers.recheck(ACME, [("u7", "closed"), ("u8", "closed"), ("\0", "open")]) == [True, False, False]
    await readers.close()


async def test_who_asked_in_vain_may_ask_again(database: CountingDatabase) -> None:
    readers = Readers(database)  # type: ignore[arg-type]
    database.away = True
    answers = await asyncio.gather(
        *(readers.may_subscribe(principal(f"u{n}"), "open") for n in range(3)), return_exceptions=True
    )
    assert [answer.code for answer in answers if isinstance(answer, HubError)] == [ErrorCode.UNAVAILABLE] * 3
    database.away = False
    assert await readers.may_subscribe(principal("u1"), "open")
    await readers.close()


async def test_who_stops_waiting_does_not_stop_the_others(database: CountingDatabase) -> None:
    readers = Readers(database)  # type: ignore[arg-type]
    first, second = (asyncio.create_task(readers.may_subscribe(principal("ada"), "closed")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second
    await readers.close()


def access(role: Role | None, *, public: bool = False, archived: bool = False, muted: bool = False) -> Access:
    return Access("r", "Room", public, archived, 1, 0, 0, role, 1 if muted else None)


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("role", [None, *Role])
@pytest.mark.parametrize("public", [True, False])
@pytest.mark.parametrize("archived", [True, False])
@pytest.mark.parametrize("muted", [True, False])
def test_the_table_of_rules(action: Action, role: Role | None, public: bool, archived: bool, muted: bool) -> None:
    found = access(role, public=public, archived=archived, muted=muted and role is not None)
    rule = RULES[action]
    if role is None and not public:
        expected: ErrorCode | None = ErrorCode.NOT_FOUND
    elif archived and not rule.archived:
        expected = ErrorCode.CONFLICT
    elif role is None:
        expected = None if rule.joins or action is Action.LOOK else ErrorCode.FORBIDDEN
    else:
        expected = None if role in rule.roles and (rule.muted or not muted) else ErrorCode.FORBIDDEN
    if expected is None:
        assert check(found, action) is found
    else:
        with pytest.raises(HubError) as caught:
            check(found, action)
        assert caught.value.code == expected


def test_what_is_not_there_is_not_found() -> None:
    with pytest.raises(HubError) as caught:
        check(None, Action.LOOK)
    assert caught.value.code == ErrorCode.NOT_FOUND


async def test_who_is_no_member_any_more_is_found_without_being_told(redis_url: str, hub_database: HubDatabase) -> None:
    async with parlour(redis_url, hub_database, recheck_subscriptions_s=0.2) as house:
        ada, bob = await house.person("ada"), await house.person("bob")
        await ada.do("create", "r", name="Room", members=["bob"])
        heard, own = await bob.listen("chat:r"), await ada.listen("chat:r")
        # As if the message to this node had been lost.
        await house.rows("DELETE FROM hub.chat_members WHERE member = 'bob' RETURNING 1")
        await until(lambda: heard.ended is not None, what="the end of the subscription")
        assert isinstance(heard.ended, SubscriptionEnded)
        assert own.ended is None
