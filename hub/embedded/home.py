"""The folder of one embedded server: its data, its log, and a lock that its processes hold while any lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hub.config import EMBEDDED_STOP_S
from hub.embedded.account import Account, server_account
from hub.errors import ConfigError

# sun_path holds 104 bytes on macOS and 108 on Linux, with the closing zero; the longest name in the folder is
# ".s.PGSQL.5432.lock".
_MAX_SOCKET_FOLDER_BYTES = 104 - 1 - len("/.s.PGSQL.5432.lock")
# A comma separates hosts in a database URL, blanks and quotes mean something to one server or the other.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./@%+~-]+")
_POLL_S = 0.005


class Home:
    """``folder`` of a server called ``name``. The data is given to ``account``; what is above it is left alone.

    ``sockets``: a folder made by ``socket_folder`` that several servers share; None: one of its own.
    """

    def __init__(self, folder: Path, name: str, sockets: Path | None = None) -> None:
        self.account: Account | None = server_account()
        self.name = name
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.log = self.folder / f"{name}.log"
        self._own_sockets = sockets is None
        self._sockets = sockets

    @property
    def sockets(self) -> Path:
        """The folder of the server's unix sockets; known once ``prepare`` was called."""
        if self._sockets is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._sockets

    @property
    def data_argument(self) -> str:
        """How the server, which is started inside its data folder, is told where that is.

        An account that was dropped to may not be allowed through the folders above (a project below /root); the
        kernel's name for the current folder does not lead through them.
        """
        return "/proc/self/cwd" if self.account is not None and sys.platform == "linux" else str(self.data)

    def prepare(self) -> None:
        """Makes the folders. Raises ``ConfigError`` when they belong to somebody else."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.data.mkdir(exist_ok=True)
            _close(self.data, self.account)
            if self._own_sockets and (self._sockets is None or not self._sockets.exists()):
                self._sockets = socket_folder(self.folder / "run", self.account)
        except OSError as error:
            raise unusable(error) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """A locked descriptor for the server to inherit.

        The lock lasts as long as any process of the server, whoever started it, so holding it proves that an earlier
        one and all its children are gone. Waits for one that is still shutting down; ``ConfigError`` after that.
        """
        descriptor = os.open(self.folder / f"{self.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + EMBEDDED_STOP_S
        try:
            while not try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise ConfigError(f"another {self.name} still runs in {self.folder}; stop it first")
                time.sleep(_POLL_S)
            yield descriptor
        finally:
            os.close(descriptor)

    def log_tail(self, lines: int = 8) -> str:
        """The end of the log, for an error message."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def discard_sockets(self) -> None:
        """Removes a socket folder of its own that had to be made elsewhere."""
        if self._own_sockets:
            discard_socket_folder(self.folder / "run")


def unusable(error: OSError) -> ConfigError:
    """What is said of a folder that cannot be made, entered or written."""
    hint = "start the hub as the user it belongs to, or choose another data folder"
    return ConfigError(f"cannot use {error.filename}: {error.strerror}; {hint}")


def try_lock(descriptor: int) -> bool:
    """Takes the exclusive lock if it is free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def socket_folder(wanted: Path, account: Account | None) -> Path:
    """``wanted``, or a short temporary folder that a link there leads to, when sockets cannot live in ``wanted``.

    They cannot when the path is too long for a socket's address, has characters that mean something else to a server,
    or leads through a folder that is closed to ``account``. Mode 0700: it is the only thing that keeps others from
    servers that ask for no password.
    """
    discard_socket_folder(wanted)
    wanted.parent.mkdir(parents=True, exist_ok=True)
    fits = len(os.fsencode(wanted)) <= _MAX_SOCKET_FOLDER_BYTES and _PLAIN_PATH.fullmatch(str(wanted)) is not None
    if fits and (account is None or account.can_reach(wanted.parent)):
        wanted.mkdir(exist_ok=True)
        folder = wanted
    else:
        base = tempfile.gettempdir()
        short = base if len(base) < _MAX_SOCKET_FOLDER_BYTES // 2 else "/tmp"  # noqa: S108 - mkdtemp makes it ours
        folder = Path(tempfile.mkdtemp(prefix="hub-run-", dir=short))
        wanted.symlink_to(folder)
    _close(folder, account)
    return folder


def discard_socket_folder(wanted: Path) -> None:
    """Removes the temporary folder behind ``wanted`` and the link to it; a folder that is really there stays."""
    if wanted.is_symlink():
        target = wanted.readlink()
        if target.name.startswith("hub-run-"):
            shutil.rmtree(target, ignore_errors=True)
        wanted.unlink()


def _close(folder: Path, account: Account | None) -> None:
    folder.chmod(0o700)
    if account is not None:
        account.give(folder)
