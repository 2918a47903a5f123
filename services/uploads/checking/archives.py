"""ZIP archives and what is built on them: really unpacked once, into nothing, so that no declared size is believed.

Archives within are files like others; they are not opened.
"""

from __future__ import annotations

from collections.abc import Iterator

from hub.api import Settings
from services.uploads.checking.facts import ArchiveFacts, too_large
from services.uploads.checking.source import Source
from services.uploads.checking.zip_files import Entry, unpack

_MIB = 1_048_576


class Archive:
    """The files of an archive that lies in ``source``, whose directory was read.

    Raises ``Rejected`` when it declares more than the bounds allow; more than it declares is never unpacked.
    """

    def __init__(self, source: Source, entries: list[Entry], bounds: Settings) -> None:
        self.source = source
        self._entries = entries
        self._followers = [entry.offset for entry in entries[1:]] + [source.size]
        self._places = {entry.name: place for place, entry in enumerate(entries)}
        declared = sum(entry.unpacked for entry in entries)
        # A single small file of zeros is no bomb, whatever its ratio.
        limit = min(bounds.uploads_max_unpacked_bytes, max(_MIB, bounds.uploads_max_unpack_ratio * source.size))
        if declared > limit:
            raise too_large(
                f"the archive has {source.size} bytes and {declared} when it is unpacked; at most {limit} are taken"
            )

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def read(self, name: str) -> Iterator[bytes]:
        """The bytes of one file. Raises ``Rejected``."""
        place = self._places[name]
        return unpack(self.source, self._entries[place], self._followers[place])

    def facts(self) -> ArchiveFacts:
        """Unpacks everything. Raises ``Rejected`` when it is damaged, or lies."""
        unpacked = sum(len(piece) for name in self._places for piece in self.read(name))
        return ArchiveFacts(len(self._entries), unpacked)
