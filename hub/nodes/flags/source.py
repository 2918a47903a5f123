"""The file of flags as it lies there: where it is, what it says now, and what is wrong with it.

Reading blocks, and a large file takes a while to check: everything but the first look is for a thread.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sysconfig
from pathlib import Path
from typing import Final

from msgspec import Struct

from hub.config import Settings
from hub.config.flag_bounds import FLAG_FILE_BYTES
from hub.errors import ConfigError
from hub.flags import FlagFile, FlagFileError, load_flags

DEFAULT: Final = "feature_flags.yaml"
EMPTY: Final = "flags: {}\n"
"""What is loaded where a deployment has no file."""


class FileProblem(Struct, frozen=True):
    """Why the file is not in effect; what it said before is."""

    message: str
    line: int | None = None


class Stamp(Struct, frozen=True):
    """How a file looks from outside."""

    changed_ns: int
    size: int
    last_line: str


class Look(Struct, frozen=True):
    """What was found. ``digest``: of the bytes, or of why there are none; one of ``file`` and ``problem`` is there."""

    digest: str
    stamp: Stamp | None = None
    file: FlagFile | None = None
    problem: FileProblem | None = None


class FlagSource:
    """One file. None of what is asked of it raises, but for the first look of a node that starts."""

    def __init__(self, settings: Settings) -> None:
        self.path: Final = _find(settings.flags_file)

    @property
    def name(self) -> str:
        """How it is called in messages."""
        return str(self.path) if self.path is not None else "no file"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where something happens when it changes: beside it, and beside what it is a link to."""
        if self.path is None:
            return ()
        beside = (self.path.absolute().parent, self.path.resolve().parent)
        return tuple(folder for folder in dict.fromkeys(beside) if folder.is_dir())

    def first(self) -> tuple[FlagFile, Look]:
        """The file, and how it was found. Raises ``ConfigError`` when there is none, or it is invalid."""
        look = self.look(None)
        if look.file is None:
            assert look.problem is not None  # noqa: S101 - one of both is there
            raise ConfigError(f"HUB_FLAGS_FILE is invalid. {look.problem.message}")
        return look.file, look

    def look(self, known: str | None) -> Look:
        """What is there now; without both, when it is what has the digest ``known``."""
        try:
            text, digest, stamp = self._read()
        except (OSError, ValueError) as error:
            reason = f"{self.name} cannot be read: {getattr(error, 'strerror', None) or error}"
            return Look(reason, problem=None if reason == known else FileProblem(reason))
        if digest == known:
            return Look(digest, stamp)
        try:
            return Look(digest, stamp, load_flags(text, self.name))
        except FlagFileError as error:
            return Look(digest, stamp, problem=FileProblem(str(error), error.line))

    def _read(self) -> tuple[str, str, Stamp | None]:
        if self.path is None:
            return EMPTY, "", None
        # Whatever is there is opened without waiting: a pipe that nobody writes to would never be.
        with open(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ValueError("it is no regular file; put one there")
            data = file.read(FLAG_FILE_BYTES + 1)
        if len(data) > FLAG_FILE_BYTES:
            raise ValueError(f"it has more than {FLAG_FILE_BYTES} bytes")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"it is not UTF-8 at byte {error.start}") from None
        stamp = Stamp(about.st_mtime_ns, len(data), text.rstrip().rpartition("\n")[2])
        return text, hashlib.sha256(data).hexdigest(), stamp


def may_be_half(look: Look, before: FlagFile, stamp: Stamp | None) -> bool:
    """Whether a file that is valid may yet be the beginning of one, when the one before it had this ``stamp``.

    One that is written in two goes is valid where it ends between two flags, and what is not there yet is on.
    """
    if look.file is None or look.stamp is None:
        return False
    if not before.flags.keys() <= look.file.flags.keys():
        return True
    return stamp is not None and look.stamp.size < stamp.size and look.stamp.last_line != stamp.last_line


def _find(setting: str) -> Path | None:
    """The file that the setting names; for the default also the one that ships. Raises ``ConfigError``."""
    if not setting:
        return None
    path = Path(setting)
    if path.is_file():
        return path
    if setting != DEFAULT:
        raise ConfigError(f"HUB_FLAGS_FILE={setting}: there is no such file; write one, or take the setting away")
    checkout = Path(__file__).resolve().parents[3] / DEFAULT
    installed = Path(sysconfig.get_path("data")) / "share" / "hub" / DEFAULT
    for shipped in (checkout, installed):
        if shipped.is_file():
            return shipped
    raise ConfigError(f"no {DEFAULT} found, neither in {checkout.parent} nor in {installed.parent}; install it again")
