"""Tells when something happens in a folder: a thread of its own, because the wait for the kernel is blocking.

Only a hint: what is missed (a folder that was made anew, a system without notifications) is found by whoever looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Final

import structlog
from watchfiles import watch
from watchfiles.main import FileChange

# An editor writes, renames and touches: what happens within a step of each other is told once, at the latest so late.
_STEP_MS: Final = 50
_LATEST_MS: Final = 400

log = structlog.get_logger(__name__)


class FolderWatcher:
    """Calls ``changed`` on the event loop that starts it. Each is a thread and a handle of inotify, until ``close``.

    Folders and not files: editors put another file in the place of the one that was there, Kubernetes another link.
    """

    def __init__(self, folders: Sequence[Path], changed: Callable[[], None]) -> None:
        self._folders = folders
        self._changed = changed
        self._stop = threading.Event()
        self._ended = asyncio.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to watch. Where that cannot be done it says so in the log, and nothing will be told."""
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, args=(loop,), name="flags file", daemon=True)
        self._thread.start()

    def retire(self) -> None:
        """Begins to end: so that nobody waits for it in ``close``, which must follow."""
        self._stop.set()

    async def close(self) -> None:
        """Returns when thread and handle are gone: within a step."""
        self._stop.set()
        if self._thread is not None:
            await self._ended.wait()
            self._thread.join()
            self._thread = None

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        known = False
        try:
            for changes in self._watch():
                # Told once in any case, when it surely watches: something may have happened before that.
                if changes or not known:
                    known = True
                    loop.call_soon_threadsafe(self._changed)
        except (OSError, RuntimeError) as error:
            log.warning("flags file is not watched; it is looked at now and then", reason=str(error))
        finally:
            # The loop is closed where nobody waited.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._ended.set)

    def _watch(self) -> Generator[set[FileChange], None, None]:
        return watch(
            *self._folders,
            watch_filter=None,
            debounce=_LATEST_MS,
            step=_STEP_MS,
            stop_event=self._stop,
            rust_timeout=_LATEST_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=False,
        )
