"""What is typed in ``hub chat``: a message, or a command that begins with a slash."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from rich.emoji import Emoji

from hub.cli.chat.screen import Screen
from hub.client import HubClient, Message, PresenceView, Room

HELP = """\
/who                who is here
/reply N text       answers message N
/edit N text        changes your message N
/delete N           deletes it
/react N :tada:     reacts to it; once more takes it back
/older              shows what came before
/search words       looks in this room
/away, /online      says whether you are
/quit               leaves; so do Ctrl-D and Ctrl-C
//text              sends a text that begins with a slash
@user in a text mentions somebody."""
_MENTION = re.compile(r"(?<![\w.@-])@([A-Za-z0-9._~-]{1,128})")
_SEARCH_LIMIT = 20
_MOST_MENTIONS = 20  # the hub's default; with more it would refuse the message


class Misused(Exception):
    """A command was not understood. The text says what to write."""


class Commands:
    """Does what is typed, one line after the other."""

    def __init__(self, client: HubClient, room: Room, screen: Screen) -> None:
        self._client = client
        self._room = room
        self._screen = screen
        self.status = "online"
        """What one has said to be."""
        self.last_sent = 0
        """Number of the last message that was sent."""
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "who": self._who,
            "reply": self._reply,
            "edit": self._edit,
            "delete": self._delete,
            "react": self._react,
            "older": self._older,
            "search": self._search,
            "away": lambda _: self.set_status("away"),
            "online": lambda _: self.set_status("online"),
            "help": self._help,
        }

    async def perform(self, line: str) -> None:
        """Raises ``Misused`` and what ``Room`` raises."""
        if not line.startswith("/") or line.startswith("//"):
            await self._send(line.removeprefix("/") if line.startswith("//") else line)
            return
        name, _, rest = line[1:].partition(" ")
        command = self._commands.get(name)
        if command is None:
            raise Misused(f"there is no /{name}; /help says what there is")
        await command(rest.strip())

    async def set_status(self, status: str) -> None:
        """Says whether one is online or away, on this connection; to be said again on the next one."""
        await self._client.call("presence.set", {"status": status}, retry=True)
        self.status = status

    async def _send(self, text: str, reply_to: int | None = None) -> None:
        message = await self._room.send(text, mentions=self._mentioned(text), reply_to=reply_to)
        self.last_sent = message.number

    def _mentioned(self, text: str) -> list[str]:
        view = self._room.view
        known = {*view.members, *self._room.presence.members, *(message.author for message in view.messages)}
        # A name at the end of a sentence has a full stop that is not its own.
        named = (name if name in known else name.rstrip(".") for name in _MENTION.findall(text))
        return list(dict.fromkeys(filter(None, named)))[:_MOST_MENTIONS]

    async def _who(self, rest: str) -> None:
        self._screen.fact(present(self._room.presence))

    async def _reply(self, rest: str) -> None:
        number, text = _number_and(rest, "/reply N text")
        await self._send(text, number)

    async def _edit(self, rest: str) -> None:
        number, text = _number_and(rest, "/edit N text")
        await self._room.edit(number, text)

    async def _delete(self, rest: str) -> None:
        await self._room.delete(_number(rest, "/delete N"))

    async def _react(self, rest: str) -> None:
        number, name = _number_and(rest, "/react N :tada:")
        emoji = Emoji.replace(name if name.endswith(":") or not name.startswith(":") else f"{name}:")
        message = self._room.view.get(number)
        mine = message is not None and self._room.view.me in message.reactions.get(emoji, ())
        await self._room.react(number, emoji, on=not mine)

    async def _older(self, rest: str) -> None:
        messages = await self._room.older()
        if not messages:
            self._screen.fact("there is nothing older")
            return
        self._show(messages)
        self._screen.fact("that was older; what is new follows")

    async def _search(self, rest: str) -> None:
        if not rest:
            raise Misused("write /search words")
        params = {"query": rest, "room": self._room.id, "limit": _SEARCH_LIMIT}
        found = await self._client.call("chat.search", params, retry=True)
        messages = [Message.of(one) for one in found["messages"]]
        self._show(sorted(messages, key=lambda message: message.number))
        self._screen.fact(f"{len(messages)} found" + ("; there are more" if found.get("next") else ""))

    async def _help(self, rest: str) -> None:
        for line in HELP.splitlines():
            self._screen.fact(line)

    def _show(self, messages: list[Message]) -> None:
        for message in messages:
            self._screen.message(message)


def present(presence: PresenceView) -> str:
    """Who is here, in one line."""
    if presence.doubtful and not presence.epoch:
        return "who is here is not known yet"
    if not presence.listed:
        return f"{presence.online} here, {presence.away} away; too many to name"
    names = sorted(
        (member.name or member.user) + (" (away)" if member.status == "away" else "")
        for member in presence.members.values()
    )
    return "here: " + ", ".join(names) if names else "nobody is here"


def _number(text: str, usage: str) -> int:
    digits = text.removeprefix("#")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 15:
        raise Misused(f"write {usage}; N is the number behind #")
    return int(digits)


def _number_and(rest: str, usage: str) -> tuple[int, str]:
    number, _, text = rest.partition(" ")
    if not text.strip():
        raise Misused(f"write {usage}; N is the number behind #")
    return _number(number, usage), text.strip()
