"""Puts the chunks of a content stream together: the reference for every client. No dependency on the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ContentAssembler:
    """What a reader of a content stream has: ``begin`` takes each ``stream_start``'s data, ``apply`` each chunk's, in
    the order of the events.

    After every chunk ``html`` is well-formed and safe to show; after the last it is the whole document.
    """

    def __init__(self) -> None:
        self._run = ""
        self._next = 0
        self._first_block = 0  # what was before it is not kept any more
        self._closed: list[str] = []
        self._texts: list[str] = []
        self._body: list[str] = []  # of the last block, without the end tags it ends with
        self._ends: list[str] = []  # those, the outermost first
        self._open = False

    @property
    def blocks(self) -> list[str]:
        """The top-level blocks, each one element."""
        return [*self._closed, self._tail()] if self._open else list(self._closed)

    @property
    def html(self) -> str:
        """The document so far."""
        return "".join(self.blocks)

    @property
    def text(self) -> str:
        """The same as plain text, a line or more per block."""
        return "".join(self._texts)

    def begin(self, start: Mapping[str, Any]) -> bool:
        """A part begins, with chunk ``index`` and block ``block``: what was there from that block on is gone, which is
        nothing unless the stream was lost and another one of its name begins. True: something went.

        When it is the first that comes, what was before it is not kept any more, and this begins there. Raises
        ValueError when chunks are missing: subscribe again from the start.
        """
        if start["run"] <= self._run:
            return False  # it was there before
        if 0 < self._next < start["index"]:
            raise ValueError(f"a part began with chunk {start['index']} where {self._next} was expected")
        self._run = start["run"]
        self._next = start["index"]
        self._first_block = min(self._first_block, start["block"]) if self._texts else start["block"]
        left = int(start["block"]) - self._first_block
        went = len(self._texts) > left
        del self._closed[left:], self._texts[left:]
        self._open = self._open and not went
        return went

    def apply(self, chunk: Mapping[str, Any]) -> bool:
        """Takes the next chunk's data. False: it was there before, after a reconnect. Raises ValueError when chunks are
        missing: subscribe again from the start.
        """
        if chunk["index"] < self._next or chunk.get("run", self._run) < self._run:
            return False
        if chunk["index"] > self._next:
            raise ValueError(f"chunk {chunk['index']} came where {self._next} was expected")
        self._next += 1
        op = chunk["op"]
        if op == "append":
            self._append(chunk["html"], chunk["depth"])
            self._texts[-1] += chunk["text"]
        elif op == "close":
            self._closed.append(self._tail())
            self._texts[-1] += chunk["text"]
            self._open = False
        else:  # open, replace_tail
            if op == "open":
                self._texts.append("")
            self._open = True
            self._body.clear()
            self._ends.clear()
            self._append(chunk["html"], 0)
            self._texts[-1] = chunk["text"]
        return True

    def _append(self, html: str, depth: int) -> None:
        """Inserts before the last ``depth`` end tags."""
        while len(self._ends) > depth:
            self._body.append(self._ends.pop())
        ends: list[str] = []
        while (begin := html.rfind("<")) >= 0 and html.startswith("</", begin) and html.endswith(">"):
            ends.append(html[begin:])
            html = html[:begin]
        self._body.append(html)
        self._ends.extend(ends)

    def _tail(self) -> str:
        return "".join(self._body) + "".join(reversed(self._ends))
