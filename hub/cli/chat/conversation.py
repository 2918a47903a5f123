"""One visit to a room: enters it, shows what happens, does what is typed, leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Any

from hub.cli.chat.commands import Commands, Misused, present
from hub.cli.chat.keyboard import Keyboard
from hub.cli.chat.screen import Screen
from hub.client import Change, ClientError, HubClient, HubClosed, Message, RequestRefused, Room, SubscriptionEnded
from hub.errors import ErrorCode

_MAX_TYPED_AHEAD = 100
_READ_EVERY_S = 1.0
_LAST_LOOK_S = 2.0  # after the input has ended: for one's own last message to be shown
_CREATED = "message.created"


async def converse(client: HubClient, room: str, *, last: int) -> bool:
    """Until the input ends or ``/quit``. False: the room was refused or taken away. Raises ``HubClosed``."""
    async with client:
        screen = Screen(client.welcome.user if client.welcome is not None else "")
        try:
            return await _visit(client, room, last, screen)
        except RequestRefused as refused:
            screen.problem(f"chat:{room}: {refused}")
            return False
        finally:
            screen.close()


async def _visit(client: HubClient, name: str, last: int, screen: Screen) -> bool:
    await _enter(client, name, screen)
    async with Room(client, name, page=last) as room:
        conversation = Conversation(client, room, screen)
        return await conversation.hold()


async def _enter(client: HubClient, name: str, screen: Screen) -> None:
    """Becomes a member of the room, which is made when it is not there. Raises ``RequestRefused``."""
    try:
        found = (await client.call("chat.get", {"room": name}, retry=True))["room"]
    except RequestRefused as refused:
        if refused.code != ErrorCode.NOT_FOUND:
            raise
        if await _created(client, name):
            screen.fact(f"there was no room {name}; it is there now, and public")
            return
        found = {"role": None}
    if found["role"] is None:
        await client.call("chat.join", {"room": name}, retry=True)
        screen.fact(f"you are a member of {name} now")


async def _created(client: HubClient, name: str) -> bool:
    try:
        await client.call("chat.create", {"room": name, "name": name, "public": True}, retry=True)
    except RequestRefused as refused:
        if refused.code != ErrorCode.CONFLICT:
            raise
        return False  # somebody was quicker
    return True


class Conversation:
    """What goes on in the room, and what is typed."""

    def __init__(self, client: HubClient, room: Room, screen: Screen) -> None:
        self._client = client
        self._room = room
        self._screen = screen
        self._commands = Commands(client, room, screen)
        # A shell can start it without any stdin (`<&-`); that is one that has ended.
        fd = sys.stdin.fileno() if sys.stdin is not None else os.open(os.devnull, os.O_RDONLY)
        self._keyboard = Keyboard(fd, keys=screen.live and os.isatty(fd), on_text=self._on_text)
        self._typed: asyncio.Queue[str] = asyncio.Queue(_MAX_TYPED_AHEAD)
        self._shown_up_to = 0
        self._unread = asyncio.Event()
        self._typing = asyncio.Event()
        self._changed = asyncio.Event()
        self._connected = True
        self._said_who = ""

    async def hold(self) -> bool:
        """Until the input ends or the room is taken away."""
        self._client.on_state(self._on_state)
        self._show_new()
        self._draw_status()
        with contextlib.suppress(RequestRefused):
            await self._room.load_members()
        watching = asyncio.create_task(self._watch())
        listening = asyncio.create_task(self._listen())
        beside = [
            asyncio.create_task(work) for work in (self._work(), self._tell_read(), self._tell_typing(), self._inbox())
        ]
        try:
            await asyncio.wait((watching, listening, *beside), return_when=asyncio.FIRST_COMPLETED)
            for task in (watching, listening, *beside):
                if task.done():
                    task.result()
            return listening.done()
        except SubscriptionEnded as ended:
            self._screen.problem(f"{self._room.topic}: {ended}")
            return False
        finally:
            for task in (watching, listening, *beside):
                task.cancel()
            await asyncio.gather(watching, listening, *beside, return_exceptions=True)

    # --- what is typed

    async def _listen(self) -> None:
        async with contextlib.aclosing(self._keyboard.lines()) as lines:
            async for line in lines:
                self._screen.typed("")
                if line.strip() == "/quit":
                    return
                if line.strip():
                    await self._typed.put(line.rstrip())
        await self._typed.join()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_LOOK_S):
                while self._shown_up_to < self._commands.last_sent:
                    self._changed.clear()
                    await self._changed.wait()

    async def _work(self) -> None:
        while True:
            line = await self._typed.get()
            try:
                await self._commands.perform(line)
            except HubClosed:
                raise
            except (ClientError, Misused) as problem:
                self._screen.problem(str(problem))
            finally:
                self._typed.task_done()

    def _on_text(self, text: str) -> None:
        self._screen.typed(text)
        self._typing.set()

    async def _tell_typing(self) -> None:
        while True:
            await self._typing.wait()
            self._typing.clear()
            text = self._keyboard.text
            await self._room.typing(bool(text) and not text.startswith("/"))

    async def _tell_read(self) -> None:
        while True:
            await self._unread.wait()
            self._unread.clear()
            with contextlib.suppress(RequestRefused, TimeoutError):
                await self._room.read()
            await asyncio.sleep(_READ_EVERY_S)

    # --- what happens

    async def _watch(self) -> None:
        async for change in self._room:
            self._show(change)
            self._draw_status()
            self._changed.set()

    async def _inbox(self) -> None:
        """What oneself is told beside the room."""
        try:
            async for event in self._client.subscribe("user:me", on_gap=lambda _: None):
                if event.name == "chat.read" and event.data.get("room") == self._room.id:
                    self._room.view.own_read(event.data["number"])
                elif event.data.get("room") != self._room.id:
                    notice = _notice(event.name, event.data)
                    if notice:
                        self._screen.fact(notice)
        except SubscriptionEnded:
            await asyncio.Event().wait()  # the token does not allow it; one can talk all the same

    def _show(self, change: Change) -> None:
        match change.name:
            case "message.created" | "reloaded":
                self._show_new(change)
            case "message.edited":
                self._show_edited(change.data)
            case "presence":
                self._show_presence(change.data)
            case "typing":
                if not self._screen.live and change.data.get("on"):
                    self._screen.fact(f"{_name(change.data)} types")
            case _:
                fact = _fact(change)
                if fact:
                    self._screen.fact(fact)

    def _show_new(self, change: Change | None = None) -> None:
        """What is in the window and was not shown; or the message that came while the window is elsewhere."""
        view = self._room.view
        new = [message for message in view.messages if message.number > self._shown_up_to]
        if change is not None and change.name == _CREATED and view.more_after:
            new = [Message.of(change.data["message"])]
        elif change is not None and change.name != _CREATED and view.more_before and len(new) == len(view.messages):
            self._screen.fact("some messages are not shown; /older shows them")
        for message in new:
            if not message.superseded:  # else its text comes with an edit
                self._screen.message(message)
        if new:
            self._shown_up_to = new[-1].number
            self._unread.set()

    def _show_edited(self, data: dict[str, Any]) -> None:
        message = self._room.view.get(data["message"]["number"])
        if message is not None and not data["message"].get("superseded"):
            self._screen.message(message, note="edited")

    def _show_presence(self, data: dict[str, Any]) -> None:
        if self._screen.live:
            return  # it stands in the last line
        who = present(self._room.presence)
        if data.get("action") == "join":
            self._screen.fact(f"{_name(data)} is here")
        elif data.get("action") == "leave":
            self._screen.fact(f"{_name(data)} is gone")
        elif data.get("action") == "update":
            self._screen.fact(f"{_name(data)} is {data.get('status')}")
        elif who != self._said_who and (self._room.presence.members or not self._room.presence.listed):
            self._screen.fact(who)
        self._said_who = who

    def _draw_status(self) -> None:
        if not self._screen.live:
            return
        typing = list(self._room.who_types().values())
        verb = "types" if len(typing) == 1 else "type"
        self._screen.status(
            (
                "" if self._connected else "not connected",
                present(self._room.presence),
                f"{', '.join(typing[:3])} {verb}" if typing else "",
            )
        )

    def _on_state(self, state: str, detail: str) -> None:
        self._connected = state == "up"
        self._screen.note("connected" if self._connected else f"not connected: {detail}")
        if self._connected and self._commands.status != "online":
            # What one has said was said on the connection that is gone.
            with contextlib.suppress(asyncio.QueueFull):
                self._typed.put_nowait(f"/{self._commands.status}")
        self._draw_status()


def _fact(change: Change) -> str:
    data = change.data
    match change.name:
        case "message.deleted":
            return f"{', '.join(f'#{number}' for number in data['messages'])} deleted by {data.get('by') or 'the hub'}"
        case "reaction":
            return f"{data['user']} {data['emoji']} #{data['message']}" + ("" if data["on"] else " no more")
        case "member.joined":
            return f"{_name(data)} is a member now"
        case "member.left":
            return f"{_name(data)} is no member any more"
        case "member.changed":
            return f"{_name(data)} is {data.get('role')} now" + (", and muted" if data.get("muted_until") else "")
        case "room.changed":
            archived = ", archived" if data["room"].get("archived") else ""
            return f"the room is {data['room'].get('name')} now{archived}"
    return ""


def _notice(name: str, data: dict[str, Any]) -> str:
    room, by = data.get("room"), data.get("by")
    match name:
        case "chat.mention":
            return f"{by} mentions you in {room} (#{data.get('number')}): hub chat {room}"
        case "chat.invited":
            return f"{by} invites you to {room}: hub chat {room}"
        case "chat.removed":
            return f"{by} has removed you from {room}"
    return ""


def _name(data: dict[str, Any]) -> str:
    return str(data.get("name") or data.get("user"))
