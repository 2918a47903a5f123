"""How ``hub tail`` shows what comes: a coloured line per event, or JSON. Events on stdout, the connection on stderr."""

from __future__ import annotations

import sys
import time
import zlib

import msgspec
from rich.console import Console
from rich.text import Text

from hub.client import Event, Gap

_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
_TIME_CHARS = len("12:34:56")


class Printer:
    """Writes to stdout and stderr; everything is out before the next event is asked for."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._out = Console(highlight=False, soft_wrap=True)
        self._err = Console(stderr=True, highlight=False, soft_wrap=True)

    def event(self, event: Event) -> None:
        """One event."""
        if self._as_json:
            self._line(msgspec.json.encode({"type": "event", **msgspec.structs.asdict(event)}))
            return
        colour = _COLOURS[zlib.crc32(event.topic.encode()) % len(_COLOURS)]
        text = Text(time.strftime("%H:%M:%S", time.localtime(event.ts / 1000)), style="dim")
        text.append(f" {event.topic} ", style=colour)
        text.append(f"{event.seq if event.seq is not None else '~'} ", style="dim")
        text.append(f"{event.name} ", style="bold")
        text.append(msgspec.json.encode(event.data).decode())
        if event.tags:
            text.append(f" {msgspec.json.encode(event.tags).decode()}", style="dim")
        self._out.print(text)

    def gap(self, gap: Gap) -> None:
        """Events that will not come."""
        if self._as_json:
            self._line(msgspec.json.encode(gap))
            return
        missing = (
            "an unknown number of events" if gap.from_ is None or gap.to is None else f"events {gap.from_}–{gap.to}"
        )
        blank = " " * _TIME_CHARS
        self._out.print(
            Text(f"{blank} {gap.topic} GAP: {missing} will not come ({gap.reason})", style="bold white on red")
        )

    def note(self, text: str) -> None:
        """Something about the connection."""
        self._err.print(Text(f"hub: {text}", style="dim"))

    def problem(self, text: str) -> None:
        """Something that went wrong for good."""
        self._err.print(Text(f"hub: {text}", style="red"))

    def _line(self, line: bytes) -> None:
        sys.stdout.write(line.decode() + "\n")
        sys.stdout.flush()
