"""A chat room on a scripted hub: methods over a ``Store``, events of what they do, and ways to lose answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.client.chat_store import Data, Store
from tests.client.scripted_hub import Frame, Peer, ScriptedHub

TOPIC = "chat:lobby"
REFUSALS = {
    "not_found": ("no such room", "never"),
    "forbidden": ("you are muted", "never"),
    "unavailable": ("the database is not reachable; try again", "later"),
}


class ScriptedChat:
    """The room ``lobby``. ``refuse``: codes for the next calls; ``lose``: how answers to the next calls get lost."""

    def __init__(self, hub: ScriptedHub) -> None:
        self.hub = hub
        self.store = Store()
        self.room: Data | None = {"room": "lobby", "name": "Lobby", "public": True, "archived": False,
                                  "role": "member", "read": 0, "muted_until": None}  # fmt: skip
        self.keys: dict[str, Data] = {}
        self.refuse: list[str] = []
        self.lose: list[str] = []
        self.calls: list[tuple[str, Data]] = []
        self.present: list[Data] | None = None
        self.before_page: Callable[[], Awaitable[None]] | None = None
        self._told = 0
        hub.script = self._script

    def called(self, method: str) -> list[Data]:
        return [params for name, params in self.calls if name == method]

    async def tell(self) -> None:
        """Publishes what has happened in the store."""
        while self._told < len(self.store.events):
            event = self.store.events[self._told]
            self._told += 1
            await self.hub.publish(TOPIC, event.data, name=event.name)

    def forget(self) -> None:
        """What has happened is not kept by the topic: the numbers are used, the events are not there."""
        log = self.hub.log(TOPIC)
        missing = len(self.store.events) - self._told
        log.events += [{"seq": 0}] * missing
        log.first = log.top + 1
        self._told = len(self.store.events)

    async def ephemeral(self, name: str, data: Data) -> None:
        frame = {"type": "event", "topic": TOPIC, "id": "x", "name": name, "ts": 1, "data": data}
        for peer in self.hub.peers:
            if TOPIC in peer.live and not peer.gone.is_set():
                await peer.send(frame)

    async def snapshot(self, *users: str, version: int = 1, epoch: str = "p") -> None:
        await self.ephemeral("presence", {"action": "snapshot", **_who(users, version, epoch)})

    # --- the methods

    async def _script(self, peer: Peer, frame: Frame) -> bool:
        if frame["type"] != "call":
            return False
        method, params = frame["method"], frame["params"]
        self.calls.append((method, params))
        if self.refuse and (code := self.refuse.pop(0)):
            message, retry = REFUSALS[code]
            await peer.send({"type": "error", "id": frame["id"], "code": code, "message": message, "retry": retry})
            return True
        answer = getattr(self, "_" + method.replace(".", "_"), None)
        result = await answer(params) if answer is not None else {}
        if result is None:
            message, retry = REFUSALS["not_found"]
            error = {"code": "not_found", "message": message, "retry": retry}
            await peer.send({"type": "error", "id": frame["id"], **error})
            return True
        lost = self.lose.pop(0) if self.lose else ""
        if lost == "connection":
            peer.drop()
        elif lost != "answer":
            await peer.send({"type": "reply", "id": frame["id"], "result": result})
        await self.tell()
        return True

    async def _chat_get(self, params: Data) -> Data | None:
        return None if self.room is None else {"room": self.room, "position": self._position()}

    async def _chat_create(self, params: Data) -> Data:
        self.room = {"room": params["room"], "name": params["name"], "public": params["public"], "archived": False,
                     "role": "owner", "read": 0, "muted_until": None}  # fmt: skip
        return {"room": self.room}

    async def _chat_join(self, params: Data) -> Data | None:
        if self.room is not None:
            self.room["role"] = "member"
        return None if self.room is None else {"room": self.room}

    async def _chat_history(self, params: Data) -> Data:
        anchors = {name: params[name] for name in ("before", "after", "around") if name in params}
        page = {**self.store.page(params["limit"], **anchors), "position": self._position()}
        if self.before_page is not None:
            await self.before_page()
        return page

    async def _chat_send(self, params: Data) -> Data:
        known = self.keys.get(params["key"])
        if known is None:
            more = {name: params[name] for name in ("mentions", "reply_to") if name in params}
            number = self.store.create("u1", params["text"], **more)
            known = self.keys[params["key"]] = self.store.messages[number]
            return {"message": known, "duplicate": False}
        return {"message": known, "duplicate": True}

    async def _chat_edit(self, params: Data) -> Data:
        self.store.edit(params["message"], params["text"])
        return {"message": self.store.messages[params["message"]]}

    async def _chat_delete(self, params: Data) -> Data | None:
        if params["message"] not in self.store.messages:
            return None
        self.store.delete([params["message"]])
        return {"message": self.store.messages[params["message"]]}

    async def _chat_react(self, params: Data) -> Data:
        self.store.react(params["message"], "u1", params["emoji"], params["on"])
        return {"message": params["message"]}

    async def _chat_read(self, params: Data) -> Data:
        return {"read": params["message"], "unread": 0}

    async def _chat_members(self, params: Data) -> Data:
        members = self.store.member_list()
        start = params.get("after", 0)
        end = start + 2
        return {"members": members[start:end], "next": end if end < len(members) else None}

    async def _chat_search(self, params: Data) -> Data:
        words = params["query"]
        found = [message for message in self.store.messages.values() if words in message.get("text", "")]
        return {"messages": [{**message, "room": "lobby"} for message in found], "next": None}

    async def _chat_typing(self, params: Data) -> Data:
        return {"sent": True}

    async def _presence_get(self, params: Data) -> Data | None:
        return None if self.present is None else self.present.pop(0)

    def _position(self) -> Data:
        log = self.hub.log(TOPIC)
        return {"epoch": log.epoch, "seq": log.top}


def _who(users: tuple[str, ...], version: int, epoch: str) -> Data:
    members = [{"user": user, "name": user.title(), "status": "online"} for user in users]
    return {"epoch": epoch, "version": version, "online": len(users), "away": 0, "listed": True, "members": members}
