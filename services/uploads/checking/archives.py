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
    """The files of an archive that lies in ``source``, whose directory was read."""

    def __init__(self, source: Source, entries: list[Entry], bounds: Settings) -> None:
        self.source = source
        self.entries = entries
        # A single small file of zeros is no bomb, whatever its ratio.
        self.limit = min(bounds.uploads_max_unpacked_bytes, max(_MIB, bounds.uploads_max_unpack_ratio * source.size))
        self._followers = [entry.offset for entry in entries[1:]] + [source.size]
        self._places = {entry.name: place for place, entry in enumerate(entries)}

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def read(self, name: str) -> Iterator[bytes]:
        """The bytes of one file. Raises ``Rejected``."""
        place = self._places[name]
        return unpack(self.source, self.entries[place], self._followers[place], self.limit)

    def facts(self) -> ArchiveFacts:
        """Unpacks everything. Raises ``Rejected``: more than the bounds allow, or damaged."""
        declared = sum(entry.unpacked for entry in self.entries)
        if declared > self.limit:
            raise too_large(
                f"the archive holds {declared} bytes when it is unpacked; of one of {self.source.size} bytes "
                f"at most {self.limit} are taken"
            )
        unpacked = 0
        for entry, follower in zip(self.entries, self._followers, strict=False):
            for piece in unpack(self.source, entry, follower, self.limit - unpacked):
                unpacked += len(piece)
        return ArchiveFacts(len(self.entries), unpacked)
