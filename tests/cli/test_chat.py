"""``hub chat`` as a process, against a room on a scripted hub; the parts that are pure, by themselves."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import termios
import tty
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hub.cli.chat.clean import clean
from hub.cli.chat.line_editor import LineEditor
from tests.cli.conftest import Commands, Run
from tests.client.scripted_chat import TOPIC, ScriptedChat
from tests.client.scripted_hub import ScriptedHub, eventually
from tests.support.servers import free_port
from tests.support.waiting import until

NASTY = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202eevil\u2066\r\x00"


@pytest.fixture
def chat(hub: ScriptedHub) -> ScriptedChat:
    return ScriptedChat(hub)


@asynccontextmanager
async def visit(hub_command: Commands, hub: ScriptedHub, chat: ScriptedChat, *arguments: str) -> AsyncIterator[Run]:
    run = await hub_command.start("chat", "lobby", *arguments, stdin=PIPE, HUB_URL=hub.url)
    await until(lambda: any(TOPIC in peer.live for peer in hub.peers), 60, f"a subscription; {run.err!r}")
    yield run
    assert run.process.stdin is not None
    run.process.stdin.close()
    assert await run.ends() == 0, run.err


async def test_a_conversation(hub_command: Commands, hub: ScriptedHub, chat: ScriptedChat) -> None:
    chat.store.create("ann", "hi there\nsecond line")
    chat.store.edit(1, "hi there\nsecond line")
    await chat.tell()
    async with visit(hub_command, hub, chat) as run:
        await run.shows("#1 Ann (edited): hi there\n         second line\n")
        chat.store.create("ben", "hello @u1", mentions=("u1",), reply_to=1)
        await chat.tell()
        await run.shows("#3 Ben (to #1): hello @u1\n")
        await run.type("good morning @ben, @ghost and x@ann.org.\n")
        await run.shows("#4 U1: good morning @ben")
        (sent,) = chat.called("chat.send")
        assert sent["mentions"] == ["ben", "ghost"]
        chat.store.edit(4, "good night")
        chat.store.react(1, "ben", "👍", on=True)
        chat.store.react(1, "ben", "👍", on=False)
        chat.store.join("cid", "member")
        chat.store.leave("cid")
        chat.store.delete([3])
        await chat.tell()
        for line in (
            "#4 U1 (edited): good night",
            "-- ben 👍 #1",
            "-- ben 👍 #1 no more",
            "-- Cid is a member now",
            "-- cid is no member any more",
            "-- #3 deleted by ann",
        ):
            await run.shows(line)
        await eventually(lambda: chat.called("chat.read"))
    assert run.out.count("good morning") == 1


async def test_the_commands(hub_command: Commands, hub: ScriptedHub, chat: ScriptedChat) -> None:
    for number in range(1, 8):
        chat.store.create("ann", f"message {number}")
    await chat.tell()
    async with visit(hub_command, hub, chat, "--last", "3") as run:
        await run.shows("#7")
        assert "#4" not in run.out
        await run.type("/older\n/reply 7 yes\n")
        await run.shows("#2 Ann: message 2")
        await run.shows("that was older")
        await run.shows("#8 U1 (to #7): yes")
        await run.type("/edit #8 yes, please\n")
        await run.shows("#8 U1 (edited, to #7): yes, please")
        await run.type("/react 8 :thumbs_up\n")
        await run.shows("-- u1 👍 #8")
        await run.type("/react 8 👍\n")
        await run.shows("-- u1 👍 #8 no more")
        await run.type("/delete 8\n")
        await run.shows("-- #8 deleted")
        await run.type("/search message 1\n/away\n/online\n//slash\n")
        await run.shows("#1 Ann: message 1")
        await run.shows("1 found")
        await run.shows("#13 U1: /slash")
        assert chat.called("presence.set") == [{"status": "away"}, {"status": "online"}]
        await run.type("/help\n/dance\n/edit x y\n/delete\n/reply 3\n/search\n/delete 999\n")
        await run.shows("/react N :tada:")
        for problem in ("there is no /dance", "write /edit N text", "write /delete N", "write /reply N text"):
            await run.shows(problem, where="err")
        await run.shows("write /search words", where="err")
        await run.shows("hub: not_found: no such room", where="err")
        await run.type("/quit\n")
        await run.ends()


async def test_who_is_here_and_who_types(hub_command: Commands, hub: ScriptedHub, chat: ScriptedChat) -> None:
    async with visit(hub_command, hub, chat) as run:
        await chat.snapshot("ann", "u1", version=4)
        await run.shows("-- here: Ann, U1\n")
        change = {"user": "ben", "name": "Ben", "epoch": "p", "online": 3, "away": 0}
        await chat.ephemeral("presence", {**change, "action": "join", "status": "online", "version": 5})
        await run.shows("-- Ben is here\n")
        await chat.ephemeral("presence", {**change, "action": "update", "status": "away", "version": 6})
        await run.shows("-- Ben is away\n")
        await run.type("/who\n")
        await run.shows("-- here: Ann, Ben (away), U1\n")
        await chat.ephemeral("typing", {"user": "ann", "name": "Ann", "on": True, "expires_in_ms": 100})
        await run.shows("-- Ann types\n")
        await chat.ephemeral("presence", {**change, "action": "leave", "status": "offline", "version": 7})
        await run.shows("-- Ben is gone\n")
        counts = {"action": "count", "epoch": "p", "version": 900, "online": 700, "away": 20}
        await chat.ephemeral("presence", counts)
        await run.shows("-- 700 here, 20 away; too many to name\n")


async def test_what_one_is_told_beside_the_room(hub_command: Commands, hub: ScriptedHub, chat: ScriptedChat) -> None:
    async with visit(hub_command, hub, chat) as run:
        await until(lambda: "user:me" in hub.peers[0].live)
        told: dict[str, Any] = {"by": "ann", "room_name": "Attic", "number": 7, "name": "Attic", "role": "member"}
        for room in ("lobby", "attic"):
            for name in ("chat.mention", "chat.invited", "chat.removed", "chat.read", "invoice.paid"):
                await hub.publish("user:me", {"room": room, **told}, name=name)
        await run.shows("-- ann mentions you in attic (#7): hub chat attic\n")
        await run.shows("-- ann invites you to attic: hub chat attic\n")
        await run.shows("-- ann has removed you from attic\n")
        assert "lobby" not in run.out


async def test_a_room_that_is_not_there_is_made(hub_command: Commands, hub: ScriptedHub, chat: ScriptedChat) -> None:
    chat.room = None
    async with visit(hub_command, hub, chat) as run:
        await run.shows("-- there was no room lobby; it is there now, and public")
    assert chat.called("chat.create") == [{"room": "lobby", "name": "lobby", "public": True}]
    assert chat.called("chat.join") == []


async def test_a_public_room_is_joined(hub_command: Commands, hub: ScriptedHub, chat: ScriptedChat) -> None:
    assert chat.room is not None
    chat.room["role"] = None
    async with visit(hub_command, hub, chat) as run:
        await run.shows("-- you are a member of lobby now")


async def test_a_room_that_somebody_else_has(hub_command: Commands, hub: ScriptedHub, chat: ScriptedChat) -> None:
    chat.refuse = ["not_found", "conflict", "not_found"]
    run = await hub_command("chat", "lobby", HUB_URL=hub.url)
    assert (run.process.returncode, run.err) == (1, "hub: chat:lobby: not_found: no such room\n")


async def test_nothing_of_others_reaches_the_terminal_as_it_came(
    hub_command: Commands, hub: ScriptedHub, chat: ScriptedChat
) -> None:
    chat.store.create(NASTY, NASTY)
    chat.store.join(NASTY, "member")
    async with visit(hub_command, hub, chat) as run:
        await run.shows("#1 ")
        chat.store.react(1, NASTY, NASTY, on=True)
        chat.store.edit(1, NASTY + "edited")
        chat.store.leave(NASTY)
        await chat.tell()
        await chat.ephemeral("typing", {"user": NASTY, "name": NASTY, "on": True, "expires_in_ms": 100})
        await chat.snapshot(NASTY)
        await run.shows("-- here: ")
    await run.shows("edited")
    assert not any(character in run.out + run.err for character in "\x1b\x07\x9b\u202e\u2066\r\x00")


async def test_lost_connections_are_told_and_made_good(
    hub_command: Commands, hub: ScriptedHub, chat: ScriptedChat
) -> None:
    async with visit(hub_command, hub, chat) as run:
        await run.type("/away\n")
        await eventually(lambda: chat.called("presence.set"))
        hub.peers[0].drop()
        await run.shows("hub: not connected", where="err")
        chat.store.create("ann", "while you were gone")
        await chat.tell()
        await run.type("typed meanwhile\n")
        await run.shows("hub: connected", where="err")
        await run.shows("while you were gone")
        await run.shows("typed meanwhile")
        await eventually(lambda: len(chat.called("presence.set")) >= 2)
    assert run.out.count("typed meanwhile") == 1
    assert run.out.count("while you were gone") == 1


async def test_what_the_hub_cannot_bring_again_is_said(
    hub_command: Commands, hub: ScriptedHub, chat: ScriptedChat
) -> None:
    async with visit(hub_command, hub, chat, "--last", "2") as run:
        hub.peers[0].drop()
        for _ in range(4):
            chat.store.create("ann")
        chat.forget()
        await run.shows("some messages are not shown; /older shows them")
        await run.shows("#4 Ann: t4")
        assert "t2" not in run.out


async def test_what_was_piped_in_is_sent_before_it_leaves(
    hub_command: Commands, hub: ScriptedHub, chat: ScriptedChat
) -> None:
    chat.lose = ["", "", "", "connection"]
    run = await hub_command.start("chat", "lobby", stdin=PIPE, HUB_URL=hub.url)
    await run.type("one\ntwo\nthree")
    assert run.process.stdin is not None
    run.process.stdin.close()
    assert await run.ends() == 0
    assert [message["text"] for message in chat.store.messages.values()] == ["one", "two", "three"]
    assert "U1: three" in run.out


async def test_a_file_can_be_typed(hub_command: Commands, hub: ScriptedHub, chat: ScriptedChat) -> None:
    (hub_command.folder / "lines").write_text("one\ntwo\n")
    with (hub_command.folder / "lines").open() as file:
        run = await hub_command.start("chat", "chat:lobby", stdin=file.fileno(), HUB_URL=hub.url)
        assert await run.ends() == 0
    assert [message["text"] for message in chat.store.messages.values()] == ["one", "two"]


async def test_ctrl_c_and_a_room_that_is_taken_away(
    hub_command: Commands, hub: ScriptedHub, chat: ScriptedChat
) -> None:
    run = await hub_command.start("chat", "lobby", stdin=PIPE, HUB_URL=hub.url)
    await until(lambda: hub.peers and TOPIC in hub.peers[0].live, 60)
    run.signal(signal.SIGINT)
    assert await run.ends() == 130
    await eventually(lambda: hub.peers[0].got("unsubscribe"))
    run = await hub_command.start("chat", "lobby", stdin=PIPE, HUB_URL=hub.url)
    await until(lambda: len(hub.peers) > 1 and TOPIC in hub.peers[1].live, 60)
    ended = {"type": "unsubscribed", "topic": TOPIC, "code": "not_found", "message": "removed", "retry": "never"}
    await hub.peers[1].send(ended)
    assert await run.ends() == 1
    assert "hub: chat:lobby: not_found: removed" in run.err


async def test_no_room_of_that_name_is_possible(hub_command: Commands) -> None:
    run = await hub_command("chat", "no room")
    assert run.process.returncode == 2
    assert "is no room" in run.err


class Terminal:
    """What a user sees, and types with."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        self.before = termios.tcgetattr(self.theirs)
        self.screen = b""
        asyncio.get_running_loop().add_reader(self.ours, self._read)

    def _read(self) -> None:
        self.screen += os.read(self.ours, 65536)

    @property
    def last_line(self) -> str:
        return self.screen.rpartition(b"\x1b[K")[2].decode()

    async def shows(self, text: str) -> None:
        await until(lambda: text.encode() in self.screen, 60, f"{text!r} in {self.screen!r}")

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.ours)
        os.close(self.ours)
        os.close(self.theirs)


async def test_in_a_terminal(hub_command: Commands, hub: ScriptedHub, chat: ScriptedChat) -> None:
    terminal = Terminal()
    hub_command.environ["TERM"] = "xterm"
    run = await hub_command.start("chat", "lobby", stdin=terminal.theirs, stdout=terminal.theirs, HUB_URL=hub.url)
    try:
        await until(lambda: hub.peers and TOPIC in hub.peers[0].live, 60)
        await chat.snapshot("ann", "ben")
        await terminal.shows("[here: Ann, Ben] > ")
        os.write(terminal.ours, "hällo x\x7f".encode())
        await terminal.shows("[here: Ann, Ben] > hällo ")
        await eventually(lambda: chat.called("chat.typing"))
        chat.store.create("ann", "in between")
        await chat.tell()
        await terminal.shows("in between")
        await until(lambda: terminal.last_line == "[here: Ann, Ben] > hällo ", what="what was typed is there again")
        await chat.ephemeral("typing", {"user": "ann", "name": "Ann", "on": True, "expires_in_ms": 1500})
        await terminal.shows("[here: Ann, Ben · Ann types] > hällo ")
        await until(lambda: terminal.last_line == "[here: Ann, Ben] > hällo ", what="the end of typing")
        os.write(terminal.ours, b"again\r")
        await eventually(lambda: chat.called("chat.send"))
        assert chat.called("chat.send")[0]["text"] == "hällo again"
        assert termios.tcgetattr(terminal.theirs)[tty.LFLAG] & termios.ECHO == 0
        termios.tcsetattr(terminal.theirs, termios.TCSANOW, terminal.before)  # as a shell does after Ctrl-Z
        run.signal(signal.SIGCONT)
        await until(lambda: termios.tcgetattr(terminal.theirs)[tty.LFLAG] & termios.ECHO == 0)
        os.write(terminal.ours, b"\x04")
        assert await run.ends() == 0
        assert termios.tcgetattr(terminal.theirs) == terminal.before
        await until(lambda: terminal.last_line == "", what="the last that it wrote")
    finally:
        terminal.close()


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize(
    ("keys", "lines", "text"),
    [
        ("hello\nyou", ["hello"], "you"),
        ("a\r\nb\n", ["a", "", "b"], ""),
        ("grüße\x7f!", [], "grüß!"),
        ("one two\x17x", [], "one x"),
        ("one\x17\x17x\x15y", [], "y"),
        ("a\x1b[Ab\x1b[1;5Cc\x1bOPd\x1bxe\x07\x00f", [], "abcdef"),
        ("\x7f\x7fa", [], "a"),
    ],
)
def test_the_line_editor(keys: str, lines: list[str], text: str, size: int) -> None:
    editor = LineEditor()
    typed = keys.encode()
    found = [line for start in range(0, len(typed), size) for line in editor.feed(typed[start : start + size])]
    assert (found, editor.text, editor.ended) == (lines, text, False)


def test_ctrl_d_ends_an_empty_line_only() -> None:
    editor = LineEditor(max_chars=3)
    editor.feed(b"abcd\x04")
    assert (editor.text, editor.ended) == ("abc", False)
    editor.feed(b"\n\x04")
    assert editor.ended


def test_cleaning() -> None:
    assert clean("a\nb\tc") == "a b c"
    assert clean("a\r\nb", lines=True) == "a\nb"
    assert clean("👩‍🚀 Zürich ñ 東京") == "👩‍🚀 Zürich ñ 東京"
    assert clean("x\u202ey\u200bz\ufeff") == "xyz"
    assert clean("\x1b[2J\x85\u2028\ud800") == "�[2J���"
    assert clean(7) == "7"


@pytest.fixture
async def dev(hub_command: Commands) -> AsyncIterator[Run]:
    """A whole hub."""
    del hub_command.environ["HUB_JWT_SECRET"]
    hub_command.environ |= {"HUB_DRAIN_WINDOW_S": "0", "PORT": str(free_port())}
    run = await hub_command.start("dev", "--ephemeral")
    await run.shows("chat lobby --user ann")
    await run.shows(' sql "')
    yield run
    run.signal(signal.SIGINT)
    assert await run.ends() == 0


@pytest.mark.usefixtures("dev")
async def test_two_people_over_a_real_hub(hub_command: Commands) -> None:
    cli = await hub_command.start("chat", "lobby", stdin=PIPE)
    await cli.shows("-- there was no room lobby; it is there now, and public")
    await cli.type("first\n")
    await cli.shows("#1 cli: first")
    ann = await hub_command.start("chat", "lobby", "--user", "ann", stdin=PIPE)
    await ann.shows("-- you are a member of lobby now")
    await ann.shows("#1 cli: first")
    await cli.shows("-- ann is a member now")
    await cli.shows("-- ann is here")
    await ann.type("hello @cli\n")
    await cli.shows("#3 ann: hello @cli")
    await ann.shows("#3 ann: hello @cli")
    await ann.type("/edit 3 good morning @cli\n/react 1 :tada:\n/search first\n/away\n")
    await cli.shows("#3 ann (edited): good morning @cli")
    await cli.shows("-- ann 🎉 #1")
    await cli.shows("-- ann is away")
    await ann.shows("-- 1 found")
    await cli.type("/reply 3 yes\n/delete 1\n/edit 3 no\n/who\n")
    await ann.shows("cli (to #3): yes")
    await ann.shows("-- #1 deleted by cli")
    await cli.shows("hub: forbidden: only its author edits a message", where="err")
    await cli.shows("-- here: ann (away), cli")
    await ann.type("/quit\n")
    assert await ann.ends() == 0
    await cli.shows("-- ann is gone")
    ben = await hub_command("chat", "lobby", "--user", "ben")
    assert ben.process.returncode == 0
    for text in ("#1 cli: deleted (author)", "#3 ann (edited): good morning @cli", "cli (to #3): yes"):
        assert text in ben.out
    cli.signal(signal.SIGINT)
    assert await cli.ends() == 130
