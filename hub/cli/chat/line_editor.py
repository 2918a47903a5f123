"""Puts keys together to lines: characters, backspace, Ctrl-U, Ctrl-W, Enter, Ctrl-D. Pure; no I/O."""

from __future__ import annotations

from codecs import getincrementaldecoder
from enum import Enum

_BACKSPACE = "\b\x7f"
_CLEAR = "\x15"
_CLEAR_WORD = "\x17"
_END = "\x04"
_ESCAPE = "\x1b"


class _Escape(Enum):
    """Where in the sequence of a special key (an arrow, for example) the editor is. They are passed over."""

    NONE = 0
    BEGUN = 1
    INSIDE = 2


class LineEditor:
    """``text`` is what was typed so far."""

    def __init__(self, *, max_chars: int = 16_384) -> None:
        self.text = ""
        self.ended = False
        """Ctrl-D in an empty line: nothing more will come."""
        self._max_chars = max_chars
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")
        self._escape = _Escape.NONE

    def feed(self, keys: bytes) -> list[str]:
        """Takes keys, in whatever pieces they come; returns the lines that they complete."""
        lines: list[str] = []
        for key in self._decoder.decode(keys):
            if self._escape is not _Escape.NONE:
                self._pass_over(key)
            elif key in "\r\n":
                lines.append(self.text)
                self.text = ""
            else:
                self._edit(key)
        return lines

    def _edit(self, key: str) -> None:
        if key in _BACKSPACE:
            self.text = self.text[:-1]
        elif key == _CLEAR:
            self.text = ""
        elif key == _CLEAR_WORD:
            head, _, _ = self.text.rstrip().rpartition(" ")
            self.text = head + " " if head else ""
        elif key == _END:
            self.ended = self.ended or not self.text
        elif key == _ESCAPE:
            self._escape = _Escape.BEGUN
        elif (key.isprintable() or key == "\u200d") and len(self.text) < self._max_chars:
            self.text += key

    def _pass_over(self, key: str) -> None:
        """ESC [ … letter, ESC O letter, ESC letter."""
        if self._escape is _Escape.BEGUN and key in "[O":
            self._escape = _Escape.INSIDE
        elif self._escape is _Escape.BEGUN or "@" <= key <= "~":
            self._escape = _Escape.NONE
