"""Somebody who brings one upload to what it is to become: leg by leg, by any way, over any node, through any mishap."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Literal

from hub.protocol.codec import Encoding
from tests.support.cut_proxy import CutProxy
from tests.system.chat_world import ChatWorld, token
from tests.system.upload_by_socket import SocketLeg
from tests.system.upload_by_tus import TusLeg
from tests.system.upload_journey import Journey, Upload
from tests.system.upload_lines import Lost, Refused

Way = Literal["json", "msgpack", "tus"]
WAYS: tuple[Way, ...] = ("json", "msgpack", "tus")

_MOST_LEGS = 60
_AGAIN_S = 0.15


class Uploader:
    """A visitor of the world with a door of his own."""

    def __init__(
        self, world: ChatWorld, upload: Upload, user: str, chance: random.Random, complain: Callable[[str], None]
    ) -> None:
        self.it = upload
        self.node = 0
        self.door = CutProxy(("127.0.0.1", 1))
        self._world = world
        self._random = chance
        self._on = Journey(upload, token(user), self.door, chance, complain)
        self._way: Way = chance.choice(WAYS)
        self._in_vain = 0
        """Legs since something was acknowledged."""

    async def live(self) -> None:
        """From the first byte to the end that its fate wants; complains when that does not come."""
        async with self.door, self._on.haunted():
            self._world.devices.append(self)
            try:
                while not self.it.over:
                    if self.it.legs > _MOST_LEGS:
                        self._on.complain(f"no end after {self.it.legs} legs, at {self.it.acknowledged}")
                        return
                    await self._leg()
            finally:
                self._world.devices.remove(self)

    async def _leg(self) -> None:
        self.it.legs += 1
        if self._random.random() < 0.5:
            self._way = self._random.choice(WAYS)
        if self._random.random() < 0.7 or self.node not in self._world.running():
            self._world.lead(self, self._random.choice(self._world.running() or [0]))
        if self._random.random() < 0.45:
            self._cut_somewhere()
        self._on.did(f"by {self._way}", "over node", self.node)
        before = self.it.acknowledged
        try:
            if self._way == "tus":
                await TusLeg(self._on).travel()
            else:
                await SocketLeg(self._on).travel(Encoding(f"hub.v1.{self._way}"))
        except Lost as lost:
            self._on.did(f"lost: {lost}".partition("(")[0])
            # How long an outage lasts is the machine's affair: legs are not to be used up by it.
            self._in_vain = 0 if self.it.acknowledged > before else self._in_vain + 1
            await asyncio.sleep(_AGAIN_S * self._random.random() * 2 ** min(self._in_vain // 4, 5))
        except Refused as refused:
            self._was_refused(refused)

    def _cut_somewhere(self) -> None:
        left = len(self.it.content) - self.it.acknowledged
        self.door.cut_after(self._random.randrange(600, 1500 + left), reset=self._random.random() < 0.5)
        self._on.did("cut")

    def _was_refused(self, refused: Refused) -> None:
        """Only one reason is good: there is nothing to go on with, because all is there, or it was cancelled."""
        state = refused.details.get("state")
        if refused.code == "conflict" and state not in (None, "receiving"):
            self.it.upload = self.it.upload or refused.details.get("upload", "")
            if self._on.asked_to_cancel if state == "cancelled" else self._on.may_be_complete():
                self._on.finish(state)
                return
        self._on.complain(f"refused on {self._way}: {refused}")
