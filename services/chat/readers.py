"""Who may read which room, for the gate of topics. Thousands ask at once when clients return; few statements answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from hub.api import Database, OrgId, Principal

_MAY_READ = """
SELECT asked.place FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS asked (member, room, place)
JOIN hub.chat_rooms AS r ON r.org = $1 AND r.id = asked.room
WHERE r.public
  OR EXISTS (SELECT FROM hub.chat_members AS m WHERE m.org = $1 AND m.room = r.id AND m.member = asked.member)
"""
_MOST_AT_ONCE: Final = 500

_Question = tuple[str, str]


class _Waiting:
    """What one organisation's clients have asked and nobody has answered yet; bounded by the connections there are."""

    def __init__(self) -> None:
        self.questions: dict[_Question, asyncio.Future[bool]] = {}


class Readers:
    """Collects what is asked while a statement is under way, and asks for all of it in the next one."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[OrgId, _Waiting] = {}
        self._askers: dict[OrgId, asyncio.Task[None]] = {}

    async def may_subscribe(self, principal: Principal, room: str) -> bool:
        """The rule of the kind: a public room, or a member. Raises ``unavailable``."""
        org, question = principal.org, (principal.user, room)
        questions = self._waiting.setdefault(org, _Waiting()).questions
        answer = questions.get(question)
        if answer is None:
            answer = questions[question] = asyncio.get_running_loop().create_future()
        if org not in self._askers:
            self._askers[org] = asyncio.create_task(self._ask(org), name="chat-readers")
        return await asyncio.shield(answer)

    async def recheck(self, org: OrgId, pairs: Sequence[tuple[str, str]]) -> Sequence[bool]:
        """The same for many (user, room) at once."""
        allowed = await self._allowed(org, pairs)
        return [place in allowed for place in range(len(pairs))]

    async def close(self) -> None:
        """Ends what is under way; who waits gets ``CancelledError``."""
        askers = list(self._askers.values())
        for asker in askers:
            asker.cancel()
        await asyncio.gather(*askers, return_exceptions=True)

    async def _ask(self, org: OrgId) -> None:
        """Answers until nobody waits."""
        waiting = self._waiting[org]
        try:
            # Those who come in this turn of the event loop share the first statement.
            await asyncio.sleep(0)
            while some := dict(list(waiting.questions.items())[:_MOST_AT_ONCE]):
                for question in some:
                    del waiting.questions[question]
                await self._answer(org, some)
        finally:
            del self._askers[org]
            del self._waiting[org]
            for answer in waiting.questions.values():
                answer.cancel()

    async def _answer(self, org: OrgId, some: dict[_Question, asyncio.Future[bool]]) -> None:
        try:
            allowed = await self._allowed(org, list(some))
        except asyncio.CancelledError:
            for answer in some.values():
                answer.cancel()
            raise
        except Exception as error:
            for answer in some.values():
                answer.set_exception(error)
                answer.exception()  # whoever asked may be gone
            return
        for place, answer in enumerate(some.values()):
            if not answer.done():
                answer.set_result(place in allowed)

    async def _allowed(self, org: OrgId, pairs: Sequence[_Question]) -> set[int]:
        # What no text of PostgreSQL can hold is no member and no room.
        clean = [(user, room) if "\0" not in user + room else ("", "") for user, room in pairs]
        users, rooms = [user for user, _ in clean], [room for _, room in clean]
        async with self._database.transaction(org) as tx:
            rows = await tx.fetch(_MAY_READ, org, users, rooms)
        return {row["place"] - 1 for row in rows}
