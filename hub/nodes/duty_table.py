"""What stands in Redis about the duties of one purpose: who has which, and until when.

Every method is one atomic step for each hundred duties. What a node makes of it is ``hub.nodes.duties``'s.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, TypeVar

from hub.config import Settings
from hub.errors import HubError
from hub.orgs import duty_names
from hub.redis import Arg, Redis, Script, ScriptCall, load_script

# One call takes Redis a fifth of a millisecond; publications of others pass between two batches.
_DUTIES_PER_CALL: Final = 100
DUTIES_PER_BATCH: Final = 300

Item = TypeVar("Item")
End = Literal["done", "open"]
"""``done``: nobody shall have the duty; ``open``: whoever sweeps next."""


class DutyTable:
    """The duties of ``purpose`` as the node ``me`` sees them; ``me`` is unique among all processes that ever ran.

    Leases end by the duty clock (``duty_clock.lua``). A duty is ``organisation/name``. Every method raises
    ``unavailable``: then it may have happened all the same.
    """

    def __init__(
        self, redis: Redis, settings: Settings, purpose: str, me: str, *, lease_s: float | None = None
    ) -> None:
        self._redis = redis
        self.lease_s = settings.duty_lease_s if lease_s is None else lease_s
        self._keys = tuple(duty_names(purpose))
        # What was stuck when Redis went away has been given up after this time; then everybody can ask anew.
        self._always: tuple[Arg, ...] = (_ms(self.lease_s), _ms(settings.redis_timeout_s), me)
        names = ("take", "renew", "sweep", "leave")
        self._take, self._renew, self._sweep, self._leave = scripts = [
            load_script("hub.nodes", "duty_clock.lua", f"duty_{name}.lua") for name in names
        ]
        redis.register(*scripts)

    async def take(self, duty: str) -> bool:
        """Whether it is this node's now. Not, when another node has it whose lease has not ended."""
        call = self._call(self._take, duty)
        return bool(await self._redis.run(call.script, call.keys, call.args))

    async def renew(self, duties: Sequence[str]) -> list[str]:
        """Renews leases, also of what Redis does not know any more. Returns the duties that another node has."""
        replies = await self._batch(self._call(self._renew, *some) for some in cut(duties, _DUTIES_PER_CALL))
        return [duty.decode() for lost in replies for duty in lost]

    async def sweep(self, most: int) -> list[str]:
        """Takes up to ``most`` duties whose leases have ended, and returns them."""
        call = self._call(self._sweep, most)
        return [duty.decode() for duty in await self._redis.run(call.script, call.keys, call.args)]

    async def leave(self, duties: Sequence[str], end: End) -> None:
        """Ends the leases of those that are this node's."""
        await self._batch(self._call(self._leave, end, *some) for some in cut(duties, _DUTIES_PER_CALL))

    def _call(self, script: Script, *args: Arg) -> ScriptCall:
        return ScriptCall(script, self._keys, (*self._always, *args))

    async def _batch(self, calls: Iterable[ScriptCall]) -> list[Any]:
        replies = await self._redis.batch(list(calls))
        for reply in replies:
            if isinstance(reply, HubError):
                raise reply
        return replies


def cut(items: Iterable[Item], size: int) -> Iterable[list[Item]]:
    """The items in lists of ``size``."""
    iterator = iter(items)
    while some := list(itertools.islice(iterator, size)):
        yield some


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
