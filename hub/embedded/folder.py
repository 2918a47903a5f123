"""The data folder of `hub dev` (``.hub/``), used by one hub at a time, or a temporary one that keeps nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Self

from hub.embedded.account import server_account
from hub.embedded.home import discard_socket_folder, socket_folder, try_lock, unusable
from hub.errors import ConfigError

_TEMPORARY_PREFIX = "hub-ephemeral-"
# A folder younger than this may be about to be locked by the hub that made it.
_LEFTOVER_AGE_S = 60.0


class DataFolder:
    """A locked data folder. ``close`` gives it back, and removes it when it is temporary."""

    def __init__(self, path: Path | None = None) -> None:
        """``path`` None: a temporary one. Raises ``ConfigError`` when another hub uses it or it cannot be written."""
        self.temporary = path is None
        if path is None:
            _remove_leftovers()
            path = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX))
            path.chmod(0o711)  # so that the account of the servers gets through to the sockets
        self.path = path.absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.path)
            self.sockets = socket_folder(self.path / "run", server_account())
        except OSError as error:
            raise unusable(error) from error

    def close(self) -> None:
        """Ends the use; the servers in it must have been stopped."""
        discard_socket_folder(self.path / "run")
        if self.temporary:
            shutil.rmtree(self.path)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lock(path: Path) -> int:
    """A descriptor that no child inherits: the lock goes with the hub, however it ends."""
    descriptor = os.open(path / "hub.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not try_lock(descriptor):
        pid = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise ConfigError(
            f"another hub (pid {pid}) uses the data folder {path}; stop it, or give this one a folder of its own"
        )
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _remove_leftovers() -> None:
    """Removes temporary folders of this user whose hub was killed, and whose servers are gone with it."""
    for path in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY_PREFIX}*"):
        try:
            status = path.lstat()
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > _LEFTOVER_AGE_S and _unused(path):
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # somebody else is removing it


def _unused(path: Path) -> bool:
    for lock in (path / "hub.lock", *path.glob("*/*.lock")):
        if not lock.exists():
            continue
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not try_lock(descriptor):
                return False
        finally:
            os.close(descriptor)
    return True
