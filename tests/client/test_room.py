"""``Room`` over a scripted hub: no seam, no message twice, and what happens when answers, events, the room are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from hub.client import Change, ClientOptions, HubClient, RequestRefused, RequestTimeout, Room, SubscriptionEnded
from tests.client.scripted_chat import TOPIC, ScriptedChat
from tests.client.scripted_hub import ScriptedHub, eventually


@pytest.fixture
def chat(hub: ScriptedHub) -> ScriptedChat:
    return ScriptedChat(hub)


@pytest.fixture
def options(options: ClientOptions) -> ClientOptions:
    return msgspec.structs.replace(options, attempt_timeout_s=1.0, presence_patience_s=0.1)


class Watched:
    """A room that somebody iterates over."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.changes: list[Change] = []
        self.task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async for change in self.room:
            self.changes.append(change)

    @property
    def texts(self) -> list[str]:
        return [message.text for message in self.room.view.messages]

    def names(self) -> list[str]:
        return [change.name for change in self.changes]


@asynccontextmanager
async def watched(hub: ScriptedHub, options: ClientOptions, *, page: int = 50) -> AsyncIterator[Watched]:
    async with HubClient(hub.url, options=options) as client, Room(client, "lobby", page=page) as room:
        it = Watched(room)
        try:
            yield it
        finally:
            it.task.cancel()
            await asyncio.gather(it.task, return_exceptions=True)


async def test_no_seam_between_the_page_and_the_events(
    hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions
) -> None:
    chat.store.create("ann")
    await chat.tell()

    async def meanwhile() -> None:
        chat.before_page = None
        chat.store.create("ben")
        await chat.tell()

    chat.store.create("ann")  # in the page already; its event comes later
    chat.before_page = meanwhile
    async with watched(hub, options) as it:
        await eventually(lambda: it.texts == ["t1", "t2", "t3"])
        chat.store.edit(1)
        await chat.tell()
        await eventually(lambda: it.texts == ["e4", "t2", "t3"])
        assert it.room.view.me == "u1"
        assert it.room.view.room["name"] == "Lobby"
        assert it.names() == ["message.created", "message.edited"]
    await eventually(lambda: hub.peers[0].got("unsubscribe"), "unsubscribe")


@pytest.mark.parametrize("method", ["_chat_get", "_chat_history"])
async def test_no_seam_between_the_room_and_the_page(
    hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Whatever happens right after one of them was read is known in the end."""
    read = getattr(chat, method)

    async def then_rename(params: dict[str, Any]) -> Any:
        answer = msgspec.json.decode(msgspec.json.encode(await read(params)))
        assert chat.room is not None
        chat.room["name"] = "Hall"
        chat.store.rename("Hall")
        return answer

    monkeypatch.setattr(chat, method, then_rename)
    async with watched(hub, options) as it:
        await eventually(lambda: it.room.view.room["name"] == "Hall")


@pytest.mark.parametrize("how", ["connection", "answer"])
async def test_a_message_is_sent_once_whatever_becomes_of_the_answers(
    hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions, how: str
) -> None:
    async with watched(hub, options) as it:
        chat.lose = [how, how]
        message = await it.room.send("hello", mentions=["ann"], reply_to=3)
        assert (message.number, message.text, message.mentions) == (1, "hello", ("ann",))
        sent = chat.called("chat.send")
        assert len(sent) == 3
        assert sent[0] == sent[1] == sent[2]
        assert (sent[0]["room"], sent[0]["reply_to"]) == ("lobby", 3)
        await it.room.send("again")
        await eventually(lambda: it.texts == ["hello", "again"])
        assert it.names().count("message.created") == 2


async def test_refusals_that_pass_are_waited_for_and_others_told(
    hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions
) -> None:
    async with watched(hub, options) as it:
        chat.refuse = ["unavailable", "unavailable"]
        assert (await it.room.send("hello")).text == "hello"
        chat.refuse = ["forbidden"]
        with pytest.raises(RequestRefused, match="muted"):
            await it.room.send("hello")


async def test_nobody_insists_for_ever(hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions) -> None:
    options = msgspec.structs.replace(options, insist_s=1.5, attempt_timeout_s=0.3)
    async with watched(hub, options) as it:
        chat.lose = ["answer"] * 20
        with pytest.raises(RequestTimeout, match=r"chat\.send"):
            await it.room.send("hello")
        assert 2 <= len(chat.called("chat.send")) <= 6


async def test_events_that_are_lost_are_made_good_by_the_page(
    hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions
) -> None:
    chat.store.create("ann")
    await chat.tell()
    async with watched(hub, options) as it:
        await eventually(lambda: it.texts == ["t1"])
        await it.room.load_members()
        hub.peers[0].drop()
        chat.store.join("dan", "member")
        chat.store.edit(1)
        chat.store.create("ben")
        chat.forget()
        chat.store.create("ann")
        await chat.tell()
        await eventually(lambda: it.texts == ["e3", "t4", "t5"])
        await eventually(lambda: "reloaded" in it.names())  # told when the members are there, too
        assert "dan" in it.room.view.members
        chat.store.create("ann")
        await chat.tell()
        await eventually(lambda: it.texts[3:] == ["t6"])


async def test_an_event_that_cannot_be_read_is_made_good_too(
    hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions
) -> None:
    async with watched(hub, options) as it:
        chat.store.create("ann")
        event = chat.store.events[0]
        event.data.pop("message")
        await chat.tell()
        await eventually(lambda: it.texts == ["t1"])
        assert it.names() == ["reloaded"]


async def test_a_room_that_is_taken_away(hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions) -> None:
    async with watched(hub, options) as it:
        frame = {"type": "unsubscribed", "topic": TOPIC, "code": "not_found", "message": "removed", "retry": "never"}
        await hub.peers[0].send(frame)
        with pytest.raises(SubscriptionEnded, match="removed"):
            await it.task
    chat.room = None
    async with HubClient(hub.url, options=options) as client:
        with pytest.raises(RequestRefused, match="no such room"):
            async with Room(client, "lobby"):
                pass


async def test_pages(hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions) -> None:
    for _ in range(9):
        chat.store.create("ann")
    await chat.tell()
    async with watched(hub, options, page=3) as it:
        room = it.room
        assert [message.number for message in await room.older()] == [4, 5, 6]
        await room.around(5)
        await room.newest()
        assert len(chat.called("chat.history")) == 2, "it is all there"
        assert [message.number for message in await room.older(2)] == [2, 3]
        assert [message.number for message in await room.older()] == [1]
        assert await room.older() == []
        assert await room.newer() == []
        for _ in range(6):
            chat.store.create("ann")
        await chat.tell()
        await eventually(lambda: room.view.newest == 15)
    async with watched(hub, options, page=3) as it:
        room = it.room
        await room.around(5)
        assert [message.number for message in room.view.messages] == [4, 5, 6]
        assert [message.number for message in await room.newer()] == [7, 8, 9]
        await room.newest()
        assert [message.number for message in room.view.messages] == [13, 14, 15]


async def test_reading(hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions) -> None:
    chat.store.create("ann")
    chat.store.create("ann")
    async with watched(hub, options) as it:
        assert it.room.view.unread == 2
        assert await it.room.read() == 0
        assert it.room.view.unread == 0
        await it.room.read(1)
        assert len(chat.called("chat.read")) == 1, "backwards is not asked for"


async def test_members(hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions) -> None:
    for user in ("ann", "ben", "cid"):
        chat.store.join(user, "member")
    async with watched(hub, options) as it:
        await it.room.load_members()
        assert sorted(it.room.view.members) == ["ann", "ben", "cid"]
        assert it.room.view.members_loaded


async def test_what_one_does(hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions) -> None:
    async with watched(hub, options) as it:
        number = (await it.room.send("one")).number
        assert (await it.room.edit(number, "two")).text == "two"
        await it.room.react(number, "👍")
        await eventually(lambda: it.room.view.messages and it.room.view.messages[0].reactions == {"👍": ("u1",)})
        await it.room.react(number, "👍", on=False)
        await it.room.delete(number)
        await eventually(lambda: it.room.view.messages[0].deleted)


async def test_typing_is_told_now_and_then(hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions) -> None:
    now = 100.0
    async with HubClient(hub.url, options=options) as client, Room(client, "lobby", clock=lambda: now) as room:
        await room.typing(on=False)
        for _ in range(5):
            await room.typing()
        now = 102.9
        await room.typing()
        now = 103.0
        await room.typing()
        now = 107.0
        await room.typing(on=False)
        await room.typing(on=False)
        await room.typing()
        await room.send("hello")
        await room.typing()
        assert [params["on"] for params in chat.called("chat.typing")] == [True, True, False, True, True]
        chat.refuse = ["forbidden"]
        await room.typing(on=False)


async def test_typing_of_others_expires(hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions) -> None:
    async with watched(hub, options) as it:
        typing = {"user": "ann", "name": "Ann", "on": True, "expires_in_ms": 150}
        await eventually(lambda: TOPIC in hub.peers[0].live)
        await chat.ephemeral("typing", typing)
        await eventually(lambda: it.names() == ["typing", "typing"])
        assert it.changes[0].data == typing
        assert it.changes[1].data == {}


async def test_presence_is_asked_for_when_the_snapshot_does_not_come(
    hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions
) -> None:
    # Whoever asks before the first snapshot has come is told that there is no presence here.
    options = msgspec.structs.replace(options, presence_patience_s=0.5)
    async with watched(hub, options) as it:
        presence = it.room.presence
        await chat.snapshot("ann", version=3)
        await eventually(lambda: set(presence.members) == {"ann"})
        chat.present = [
            {"epoch": "p", "version": 2, "online": 0, "away": 0, "listed": True, "members": []},
            {"epoch": "p", "version": 9, "online": 0, "away": 0, "listed": True, "members": []},
        ]
        leave = {"action": "leave", "user": "ann", "status": "offline", "epoch": "p", "online": 0, "away": 0}
        await chat.ephemeral("presence", {**leave, "version": 8})
        await eventually(lambda: presence.members == {})
        assert not presence.doubtful
        assert chat.called("presence.get") == [{"topic": TOPIC}] * 2
        assert it.names() == ["presence", "presence"]


async def test_a_hub_without_presence_is_not_asked_again(
    hub: ScriptedHub, chat: ScriptedChat, options: ClientOptions
) -> None:
    async with watched(hub, options) as it:
        await eventually(lambda: chat.called("presence.get"))
        chat.store.create("ann")
        await chat.tell()
        await eventually(lambda: it.texts == ["t1"])
        await asyncio.sleep(3 * options.presence_patience_s)  # nothing tells that nothing is asked
        assert len(chat.called("presence.get")) == 1
