"""How a chat is shown: a line or more per message, and in a terminal a last line with who is here and what is typed."""

from __future__ import annotations

import shutil
import sys
import time
import zlib
from collections.abc import Iterable
from io import TextIOWrapper

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from hub.cli.chat.clean import clean
from hub.client import Message

_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
_CLEAR_LINE = "\r\x1b[K"


class Screen:
    """Messages and what happens in the room go to stdout, what happens to the connection to stderr.

    Everything that others wrote is cleaned here, so that none of it reaches the terminal as it came.
    """

    def __init__(self, me: str) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="replace")  # a character that the terminal does not have is no reason to end
        self.me = me
        self._out = Console(highlight=False, soft_wrap=True, emoji=False, markup=False)
        self._err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False, markup=False)
        self.live = self._out.is_terminal and not self._out.is_dumb_terminal
        """Whether there is a last line."""
        self._status = ""
        self._typed = ""

    def message(self, message: Message, *, note: str = "") -> None:
        """A message, or what is left of it. ``note``: what is special about it."""
        notes = [note] if note else []
        if message.reply_to is not None:
            notes.append(f"to #{message.reply_to}")
        if message.edited_at and not note:
            notes.append("edited")
        line = Text(time.strftime("%H:%M:%S", time.localtime(message.created_at / 1000)), style="dim")
        line.append(f" #{message.number} ", style="dim")
        line.append(clean(message.name or message.author), style=_colour(message.author))
        line.append(f" ({', '.join(notes)})" if notes else "", style="dim")
        line.append(": ")
        if message.deleted:
            line.append("deleted" + (f" ({clean(message.reason)})" if message.reason else ""), style="dim italic")
        else:
            indent = "\n" + " " * len("12:34:56 ")
            text = clean(message.text, lines=True).replace("\n", indent)
            line.append(text, style="bold" if self.me in message.mentions else "")
        if message.attachments:
            line.append(f" [{len(message.attachments)} attached]", style="dim")
        if message.reactions:
            counts = (f"{clean(emoji)} {len(users)}" for emoji, users in message.reactions.items())
            line.append(f" [{', '.join(counts)}]", style="dim")
        self._print(self._out, line)

    def fact(self, text: str) -> None:
        """Something that happened in the room, or the answer to a command."""
        self._print(self._out, Text(f"-- {clean(text)}", style="dim"))

    def note(self, text: str) -> None:
        """Something about the connection."""
        self._print(self._err, Text(f"hub: {clean(text)}", style="dim"))

    def problem(self, text: str) -> None:
        """Something that did not work."""
        self._print(self._err, Text(f"hub: {clean(text)}", style="red"))

    def status(self, parts: Iterable[str]) -> None:
        """The last line's first half."""
        status = " · ".join(clean(part) for part in parts if part)
        if status != self._status:
            self._status = status
            self._draw()

    def typed(self, text: str) -> None:
        """The last line's second half."""
        self._typed = text
        self._draw()

    def close(self) -> None:
        """Leaves a clean line behind."""
        if self.live:
            self._write(_CLEAR_LINE)
            self.live = False

    def _print(self, console: Console, line: Text) -> None:
        if self.live:
            self._write(_CLEAR_LINE)
        console.print(line)
        self._draw()

    def _draw(self) -> None:
        if not self.live:
            return
        width = max(20, shutil.get_terminal_size().columns) - 1
        status = self._status
        if cell_len(status) > width // 2:
            status = set_cell_size(status, width // 2 - 1) + "…"
        prompt = f"[{status}] > " if status else "> "
        typed = self._typed[-width:]
        while cell_len(prompt) + cell_len(typed) > width:
            typed = typed[1:]
        self._write(f"{_CLEAR_LINE}{prompt}{typed}")

    def _write(self, text: str) -> None:
        self._out.file.write(text)
        self._out.file.flush()


def _colour(author: str) -> str:
    return _COLOURS[zlib.crc32(author.encode(errors="replace")) % len(_COLOURS)]
