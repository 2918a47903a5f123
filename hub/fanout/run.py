"""A run of publications of one topic, encoded at most once per encoding however many subscribers it goes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hub.fanout.bodies import author
from hub.protocol.codec import Encoding, Packet, encode_event, websocket_frames
from hub.protocol.frames import Tags
from hub.topics.filters import tags_of
from hub.topics.publication import Publication

_T = TypeVar("_T")


class Run:
    """Publications in order. ``whole`` gives all of them as one packet, ``single`` one of them."""

    __slots__ = ("_frames", "_payloads", "_singles", "_tags", "_whole", "_wire_topic", "publications")

    def __init__(self, wire_topic: str, publications: Sequence[Publication]) -> None:
        self.publications = publications
        self._wire_topic = wire_topic
        # Made when they are needed: most runs are one event for few subscribers of one encoding.
        self._payloads: dict[Encoding, list[bytes]] = {}
        self._whole: dict[Encoding, Packet] = {}
        self._frames: dict[Encoding, list[bytes]] | None = None
        self._singles: dict[tuple[Encoding, int], Packet] | None = None
        self._tags: dict[int, Tags] | None = None

    def __len__(self) -> int:
        return len(self.publications)

    def whole(self, encoding: Encoding) -> Packet:
        """All events, joined."""
        found = self._whole.get(encoding)
        if found is None:
            found = self._whole[encoding] = Packet(encoding, self._encoded(encoding))
        return found

    def part(self, encoding: Encoding, start: int) -> Packet:
        """The events from index ``start`` on."""
        if start == 0:
            return self.whole(encoding)
        return Packet(encoding, self._encoded(encoding)[start:])

    def single(self, encoding: Encoding, index: int) -> Packet:
        """One event."""
        if len(self.publications) == 1:
            return self.whole(encoding)
        if self._singles is None:
            self._singles = {}
        found = self._singles.get((encoding, index))
        if found is None:
            found = self._singles[encoding, index] = Packet(encoding, (self._encoded(encoding)[index],))
        return found

    def tags(self, index: int) -> Tags:
        """The tags of one event."""
        if self._tags is None:
            self._tags = {}
        found = self._tags.get(index)
        if found is None:
            found = self._tags[index] = tags_of(self.publications[index].body)
        return found

    def of_authors(self) -> dict[str, Run]:
        """What the author of an event that he does not get has in place of this run, for each such author.

        An event whose author cannot be told goes to everybody.
        """
        hidden: dict[str, list[int]] = {}
        for index, item in enumerate(self.publications):
            if not item.echo and (user := author(item.body)) is not None:
                hidden.setdefault(user, []).append(index)
        return {user: _Rest(self, indices) for user, indices in hidden.items()}

    def _encoded(self, encoding: Encoding) -> list[bytes]:
        found = self._payloads.get(encoding)
        if found is None:
            found = self._payloads[encoding] = [
                encode_event(self._wire_topic, item.seq, item.ts, item.body, encoding) for item in self.publications
            ]
        return found

    def _framed(self, encoding: Encoding) -> list[bytes]:
        if self._frames is None:
            self._frames = {}
        found = self._frames.get(encoding)
        if found is None:
            found = self._frames[encoding] = websocket_frames(encoding, self._encoded(encoding))
        return found


class _Rest(Run):
    """A run without some of its publications. Encoded is the whole one: there may be many that differ by one event."""

    __slots__ = ("_left_out", "_of")

    def __init__(self, of: Run, left_out: Sequence[int]) -> None:
        super().__init__(of._wire_topic, _without(of.publications, left_out))
        self._of = of
        self._left_out = left_out

    def whole(self, encoding: Encoding) -> Packet:
        found = self._whole.get(encoding)
        if found is None:
            frames = _without(self._of._framed(encoding), self._left_out)
            found = self._whole[encoding] = Packet(encoding, self._encoded(encoding), frames)
        return found

    def _encoded(self, encoding: Encoding) -> list[bytes]:
        found = self._payloads.get(encoding)
        if found is None:
            found = self._payloads[encoding] = _without(self._of._encoded(encoding), self._left_out)
        return found


def _without(items: Sequence[_T], indices: Sequence[int]) -> list[_T]:
    """``items`` without those at ``indices``, which are in order."""
    left = list(items)
    for index in reversed(indices):
        del left[index]
    return left
