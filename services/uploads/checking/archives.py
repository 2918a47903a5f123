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
# Photos, films and the like grow no more than so many times: the size of the archive bounds them.
_HARDLY = 4


class Archive:
    """The files of an archive that lies in ``source``, whose directory was read.

    Raises ``Rejected`` when it declares more than the bounds allow; more than it declares is never unpacked. Files that
    are hardly packed are bounded by the size of the archive alone.
    """

    def __init__(self, source: Source, entries: list[Entry], bounds: Settings) -> None:
        self.source = source
        self._entries = entries
        self._followers = [entry.offset for entry in entries[1:]] + [source.size]
        self._places = {entry.name: place for place, entry in enumerate(entries)}
        declared = sum(entry.unpacked for entry in entries if entry.unpacked > _HARDLY * entry.packed)
        # A single small file of zeros is no bomb, whatever its ratio.
        limit = min(bounds.uploads_max_unpacked_bytes, max(_MIB, bounds.uploads_max_unpack_ratio * source.size))
        if declared > limit:
            raise too_large(
                f"the archive has {source.size} bytes and {declared} when it is unpacked; at most {limit} are taken"
            )
        self._bound = self._left = bounds.uploads_max_unpacked_bytes

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def read(self, name: str) -> Iterator[bytes]:
        """The bytes of one file, to be understood; of all such files together there is a bound. Raises ``Rejected``."""
        place = self._places[name]
        self._left -= self._entries[place].unpacked
        if self._left < 0:
            raise too_large(
                f"there are more than {self._bound} bytes to read in the file when it is unpacked; split it"
            )
        return self._unpack(place)

    def facts(self) -> ArchiveFacts:
        """Unpacks everything. Raises ``Rejected`` when it is damaged, or lies."""
        unpacked = sum(len(piece) for place in range(len(self._entries)) for piece in self._unpack(place))
        return ArchiveFacts(len(self._entries), unpacked)

    def _unpack(self, place: int) -> Iterator[bytes]:
        return unpack(self.source, self._entries[place], self._followers[place])
