"""Reads what is typed: durations, positions, ``key=value`` pairs, JSON. A mistake is a ``BadParameter`` (code 2)."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, Literal

import msgspec
import typer

from hub.protocol.frames import Position, TagValue

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_ROOM = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_META_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def duration_s(text: str) -> float:
    """``90``, ``90s``, ``30m``, ``1h``, ``7d`` in seconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration; write 90s, 30m, 1h or 7d")
    return float(match[1]) * _SECONDS[match[2]]


def percentage(text: str) -> float:
    """``10``, ``10%`` or ``0.125%``."""
    from hub.flags.definition import parse_percent

    try:
        return parse_percent(text) / 1000
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def position(text: str | None) -> Position | Literal["start", "now"] | None:
    """``start``, ``now`` or ``epoch:seq``."""
    if text is None:
        return None
    if text == "start":
        return "start"
    if text == "now":
        return "now"
    epoch, colon, seq = text.rpartition(":")
    if not colon or not seq.isdigit():
        raise typer.BadParameter(f"{text!r} is no position; write start, now or epoch:seq")
    return Position(epoch, int(seq))


def room_id(text: str) -> str:
    """``lobby`` or ``chat:lobby``."""
    name = text.removeprefix("chat:")
    if _ROOM.fullmatch(name) is None:
        raise typer.BadParameter(f"{text!r} is no room; write up to 128 letters, digits, and any of . _ ~ -")
    return name


def tags(pairs: list[str]) -> dict[str, TagValue]:
    """``k=v`` pairs; a value that reads as a JSON number or boolean is one, everything else is text."""
    return dict(map(_pair, pairs))


def metadata(pairs: list[str]) -> dict[str, TagValue]:
    """The same for what an upload is to carry: names of up to 64 of ``A-Z a-z 0-9 _ . -``."""
    for key, _ in map(_pair, pairs):
        if _META_KEY.fullmatch(key) is None:
            raise typer.BadParameter(
                f"{key!r} cannot name metadata; write up to 64 of the characters A-Z a-z 0-9 _ . -"
            )
    return tags(pairs)


def wanted_tags(pairs: list[str]) -> dict[str, TagValue | list[TagValue]]:
    """The same for a filter: a key given several times means any of its values."""
    values: dict[str, list[TagValue]] = {}
    for key, value in map(_pair, pairs):
        values.setdefault(key, []).append(value)
    return {key: several[0] if len(several) == 1 else several for key, several in values.items()}


def json_value(text: str, name: str = "DATA") -> Any:
    """JSON; ``-`` reads it from stdin. ``name`` is the argument's."""
    try:
        return msgspec.json.decode(sys.stdin.read() if text == "-" else text)
    except msgspec.DecodeError as error:
        raise typer.BadParameter(f"{name} is not JSON ({error}); a text needs its quotes: '\"hello\"'") from error


def text_of(file: str) -> str:
    """The text of a file; ``-`` reads stdin."""
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} cannot be read as text ({error})") from error


def check_file(file: Path) -> None:
    """A file that can be read more than once."""
    if str(file) == "-" or (file.exists() and not file.is_file() and not file.is_dir()):
        raise typer.BadParameter(f"{file} cannot be read again after a lost connection; write it to a file first")
    if not file.is_file():
        raise typer.BadParameter(f"{file} is a folder" if file.is_dir() else f"{file} does not exist")
    if not os.access(file, os.R_OK):
        raise typer.BadParameter(f"{file} may not be read")


def _pair(text: str) -> tuple[str, TagValue]:
    key, equals, raw = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"{text!r}: write key=value")
    try:
        value = msgspec.json.decode(raw, type=int | float | bool | str)
    except msgspec.DecodeError:
        value = raw
    return key, value
