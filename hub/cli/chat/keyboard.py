"""Reads stdin in the event loop: lines from a pipe, keys from a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import termios
import tty
from collections.abc import AsyncGenerator, Callable, Iterator

from hub.cli.chat.line_editor import LineEditor

_READ_BYTES = 4096


class Keyboard:
    """``lines`` ends with the input. ``on_text`` is told what is being typed, where keys can be seen one by one."""

    def __init__(self, fd: int, *, keys: bool, on_text: Callable[[str], None]) -> None:
        self._fd = fd
        self._keys = keys
        self._on_text = on_text
        self._editor = LineEditor()

    @property
    def text(self) -> str:
        """What was typed of the next line."""
        return self._editor.text

    async def lines(self) -> AsyncGenerator[str, None]:
        """Every line, without its end. The last one may have none."""
        with self._mode():
            async for piece in self._pieces():
                before = self._editor.text
                for line in self._editor.feed(piece):
                    before = ""
                    yield line
                if self._editor.text != before:
                    self._on_text(self._editor.text)
                if self._editor.ended:
                    return
        if self._editor.text and not self._keys:
            yield self._editor.text

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        try:
            loop.add_reader(self._fd, readable.set)
        except PermissionError:
            # epoll refuses files (epoll_ctl(2), EPERM): one is always readable, and cannot be waited for.
            while piece := os.read(self._fd, _READ_BYTES):
                yield piece
            return
        try:
            while True:
                await readable.wait()
                readable.clear()
                # Whoever waits in between leaves the rest where it is: the other side is slowed down, not forgotten.
                loop.remove_reader(self._fd)
                piece = self._read()
                if not piece:
                    return
                yield piece
                loop.add_reader(self._fd, readable.set)
        finally:
            loop.remove_reader(self._fd)

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, _READ_BYTES)
        except OSError:
            return b""  # the terminal is gone

    @contextlib.contextmanager
    def _mode(self) -> Iterator[None]:
        """Keys one by one and not echoed; Ctrl-C and Ctrl-Z mean what they always do."""
        if not self._keys:
            yield
            return
        loop = asyncio.get_running_loop()
        before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)
        # After Ctrl-Z and `fg` the terminal is as the shell had it.
        loop.add_signal_handler(signal.SIGCONT, self._take_over)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGCONT)
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, before)

    def _take_over(self) -> None:
        with contextlib.suppress(termios.error):
            tty.setcbreak(self._fd)
        self._on_text(self._editor.text)
