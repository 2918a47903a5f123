"""Begins a content stream and shows its text as it comes: what ``hub stream`` does while it is connected."""

from __future__ import annotations

import sys
from typing import Any

from hub.client import HubClient, RequestRefused
from hub.client.content import ContentAssembler

_START = "stream_start"
_COMPLETE = "stream_complete"
_ENDS = (_COMPLETE, "stream_error")


async def unfold(client: HubClient, method: str, params: dict[str, Any]) -> bool:
    """Text to stdout, everything else to stderr. False: the stream was refused or did not come to its end."""
    async with client:
        try:
            begun = await client.call(method, params)
        except RequestRefused as refused:
            _say(str(refused))
            return False
        _say(f"{begun['topic']}; watch it elsewhere: hub tail {begun['topic']} --since start")
        screen = _Screen()
        events = client.subscribe(begun["topic"], since="start", on_gap=lambda gap: _say(f"gap: {gap.reason}"))
        async for event in events:
            if event.name == _START:
                screen.begin(event.data)
            elif event.name == "chunk":
                screen.show(event.data)
            elif event.name in _ENDS:
                return _ended(event.name, event.data)
    return False


class _Screen:
    """What stands in the terminal, which cannot take anything back."""

    def __init__(self) -> None:
        self._document = ContentAssembler()
        self._shown = ""

    def begin(self, start: dict[str, Any]) -> None:
        """A part begins."""
        self._document.begin(start)

    def show(self, chunk: dict[str, Any]) -> None:
        """The text of one more chunk. What was shown and turns out otherwise is shown once more."""
        if not self._document.apply(chunk):
            return
        text = self._document.text
        begin = len(self._shown) if text.startswith(self._shown) else text.rstrip("\n").rfind("\n") + 1
        print(("" if begin == len(self._shown) else "\n") + text[begin:], end="", flush=True)
        self._shown = text


def _ended(name: str, result: dict[str, Any]) -> bool:
    if name == _COMPLETE:
        _say(f"complete: {result['chunks']} chunks of {result['avg_chunk_size']} characters, {result['complexity']}")
        return True
    _say(f"{result['state']}: {result['code']}: {result['message']}")
    return False


def _say(text: str) -> None:
    print(f"hub: {text}", file=sys.stderr)
