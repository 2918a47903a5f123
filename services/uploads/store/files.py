"""Plain files: what of ``folder`` blocks. Raises ``OSError``; below the root no symbolic link is followed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from services.uploads.store.words import Digest, Piece

_FOLDER_MODE = 0o700
_FILE_MODE = 0o600
_PROBE = b"hub"
_MOST_VECTORS = os.sysconf("SC_IOV_MAX")
_COPY_BYTES = 1_048_576
# What is written is sent to the disk in such steps, and leaves the kernel's cache so far behind the end: large files
# would fill it with what is rarely read again, and every page of it that is new costs (on virtual machines ten times
# the rest of writing). Small files stay in it, for the check that follows.
_BEHIND_STEP_BYTES = 8_388_608
_BEHIND_BYTES = 33_554_432
# A file system, or a pair of them, that cannot copy by itself.
_CANNOT_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


class Tree:
    """The files below a root, by paths such as ``org/upload/content``. ``durable``: names are on the disk at once."""

    def __init__(self, root: Path, *, durable: bool) -> None:
        self.root = root
        self.durable = durable

    def prepare(self) -> None:
        """The root is there, and files can be made in it."""
        self.root.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        self.probe()

    def probe(self) -> None:
        """Writes a file, reads and removes it. What a crash leaves of it is in nobody's way."""
        path = f".probe-{secrets.token_hex(8)}"
        file = self.create(path)
        try:
            write_all(file, [_PROBE])
            if self.durable:
                os.fsync(file)
            if os.pread(file, len(_PROBE), 0) != _PROBE:
                raise OSError(errno.EIO, "what was written is not what is read")
        finally:
            os.close(file)
            self.unlink(path)

    def create(self, path: str) -> int:
        """A new file to be written, with the folders above it. ``FileExistsError`` when there is one."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._folder_of(path, make=True) as (folder, name):
            file = os.open(name, flags, _FILE_MODE, dir_fd=folder)
            try:
                if self.durable:
                    os.fsync(folder)
            except OSError:
                os.close(file)
                raise
            return file

    def open(self, path: str) -> int:
        """A file to be read."""
        with self._folder_of(path) as (folder, name):
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)

    def size(self, path: str) -> int | None:
        """Its bytes; ``None`` when it is not there."""
        try:
            with self._folder_of(path) as (folder, name):
                return os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
        except FileNotFoundError:
            return None

    def rename(self, source: str, target: str) -> None:
        """In one step; what was ``target`` before is gone."""
        with self._folder_of(source) as (source_folder, old), self._folder_of(target) as (target_folder, new):
            os.replace(old, new, src_dir_fd=source_folder, dst_dir_fd=target_folder)
            if self.durable:
                os.fsync(target_folder)
                os.fsync(source_folder)

    def unlink(self, path: str) -> None:
        """Removes a file, if it is there."""
        with contextlib.suppress(FileNotFoundError), self._folder_of(path) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def empty(self, path: str, keep: frozenset[str] = frozenset()) -> None:
        """Removes what is in a folder, except the names in ``keep``; of those nothing is looked at."""
        with contextlib.suppress(FileNotFoundError), self._folder(path.split("/")) as folder:
            _empty(folder, keep)

    def remove(self, path: str) -> None:
        """Removes a folder and what is in it, if it is there."""
        self.empty(path)
        with contextlib.suppress(FileNotFoundError), self._folder_of(path) as (folder, name):
            os.rmdir(name, dir_fd=folder)

    def folders(self, path: str) -> list[str]:
        """The names of the folders in a folder (``""``: the root), in order."""
        try:
            with self._folder(path.split("/") if path else []) as folder, os.scandir(folder) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return []

    @contextmanager
    def _folder_of(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        *folders, name = path.split("/")
        with self._folder(folders, make=make) as folder:
            yield folder, name

    @contextmanager
    def _folder(self, names: Sequence[str], *, make: bool = False) -> Iterator[int]:
        with self._root() as folder, contextlib.ExitStack() as opened:
            for name in names:
                if make:
                    self._make(folder, name)
                folder = _open_folder(name, folder)
                opened.callback(os.close, folder)
            yield folder

    def _make(self, folder: int, name: str) -> None:
        try:
            os.mkdir(name, _FOLDER_MODE, dir_fd=folder)
        except FileExistsError:
            return
        if self.durable:
            os.fsync(folder)

    @contextmanager
    def _root(self) -> Iterator[int]:
        folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield folder
        finally:
            os.close(folder)


def _open_folder(name: str, parent: int) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def _empty(folder: int, keep: frozenset[str]) -> None:
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries if entry.name not in keep]
    for name, is_folder in found:
        with contextlib.suppress(FileNotFoundError):
            if is_folder:
                inner = _open_folder(name, folder)
                try:
                    _empty(inner, frozenset())
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=folder)
            else:
                os.unlink(name, dir_fd=folder)


class SharedFile:
    """A file that threads use. It is closed when that is wanted and nobody uses it any more, not before."""

    def __init__(self, opened_by: Callable[[], int]) -> None:
        self._opened_by = opened_by
        self._file: int | None = None
        self._users = 0
        self._closed = False
        self._lock = threading.Lock()

    @contextmanager
    def used(self) -> Iterator[int]:
        """The file, opened by the first user; they come one after the other. Raises ``OSError`` after ``close``."""
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the file was closed")
            self._users += 1
        try:
            if self._file is None:
                self._file = self._opened_by()
            yield self._file
        finally:
            with self._lock:
                self._users -= 1
                self._close_unused()

    def close(self) -> None:
        """Nobody may begin to use it. Again is nothing."""
        with self._lock:
            self._closed = True
            self._close_unused()

    def _close_unused(self) -> None:
        if self._closed and not self._users and self._file is not None:
            os.close(self._file)
            self._file = None


def write_all(file: int, pieces: Sequence[Piece]) -> None:
    """Appends ``pieces``, however little of them the kernel takes at once."""
    waiting = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
    first = 0
    while first < len(waiting):
        written = os.writev(file, waiting[first : first + _MOST_VECTORS])
        while first < len(waiting) and written >= len(waiting[first]):
            written -= len(waiting[first])
            first += 1
        if written:
            waiting[first] = waiting[first][written:]


def write_behind(file: int, before: int, now: int) -> None:
    """``file`` has grown from ``before`` to ``now`` bytes: a large one is written to the disk while it grows."""
    first = before - before % _BEHIND_STEP_BYTES
    for start in range(first, now - now % _BEHIND_STEP_BYTES, _BEHIND_STEP_BYTES):
        forget(file, start, _BEHIND_STEP_BYTES)  # dirty still: begins to be written
        if start >= _BEHIND_BYTES:
            forget(file, start - _BEHIND_BYTES, _BEHIND_STEP_BYTES)  # written by now: leaves the cache


def read_behind(file: int, before: int, now: int) -> None:
    """``file`` was read from ``before`` to ``now``, by somebody who needs it once: of a large one only the beginning
    stays in the cache."""
    if before >= _BEHIND_BYTES:
        forget(file, before, now - before)


def forget(file: int, start: int, count: int) -> None:
    """Some bytes of ``file`` need not be in the kernel's cache. Where it cannot be told this, nothing happens."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, start, count, os.POSIX_FADV_DONTNEED)


def copy(source: int, start: int, count: int, target: int) -> int:
    """Appends up to ``count`` bytes from ``start`` of ``source`` to ``target``, within the kernel if it can.

    Returns how many; 0 when ``source`` has no more.
    """
    if hasattr(os, "copy_file_range"):
        try:
            copied = os.copy_file_range(source, target, count, offset_src=start)
        except OSError as error:
            if error.errno not in _CANNOT_COPY:
                raise
        else:
            if copied:
                return copied
    return copy_seen(source, start, min(count, _COPY_BYTES), target, None)


def copy_seen(source: int, start: int, count: int, target: int, digest: Digest | None) -> int:
    """The same through this process, so that ``digest`` sees the bytes."""
    data = os.pread(source, count, start)
    write_all(target, [data])
    if digest is not None:
        digest.update(data)
    return len(data)
