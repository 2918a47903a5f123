"""What is sent to Redis: scripts, script calls and commands, each with the key that routes it. No I/O."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import NamedTuple

import hiredis

Arg = str | bytes | int | float


class Script(NamedTuple):
    """A Lua script as Redis knows it."""

    name: str
    text: str
    sha: str


def load_script(package: str, *files: str) -> Script:
    """A script from files of ``package``, joined in this order: what two scripts share has a file of its own."""
    folder = resources.files(package)
    text = "\n".join(folder.joinpath(file).read_text(encoding="utf-8") for file in files)
    return Script(files[-1].removesuffix(".lua"), text, hashlib.sha1(text.encode()).hexdigest())  # noqa: S324 - Redis names scripts so


class ScriptCall(NamedTuple):
    """One run of a script. All its keys share a hash tag; the first one routes it."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[Arg, ...]

    @property
    def key(self) -> str:
        """The key that decides which server is asked."""
        return self.keys[0]

    def packed(self) -> bytes:
        """The bytes that ask for it, assuming that the server knows the script."""
        return pack("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)


class Command(NamedTuple):
    """One command. ``key`` routes it and is not added to ``args``: ``Command("k", ("GETDEL", "k"))``."""

    key: str
    args: tuple[Arg, ...]

    def packed(self) -> bytes:
        """The bytes that ask for it."""
        return pack(*self.args)


def pack(*args: Arg) -> bytes:
    """One command in the Redis protocol."""
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]  # its stub means a tuple of one element
    return packed
