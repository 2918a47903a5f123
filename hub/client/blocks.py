"""Server-sent events (WHATWG HTML section 9.2): bytes in, the data of blocks out. Pure; fed whole or piecewise."""

from __future__ import annotations

from hub.client.errors import ProtocolViolation

_BOM = b"\xef\xbb\xbf"


class Blocks:
    """The parser of one stream. Only ``data`` counts here: where a client stands it knows from the frames."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._rest = bytearray()
        self._scanned = 0
        self._data: list[bytes] = []
        self._size = 0
        self._begun = False
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the blocks that ``chunk`` completes. Raises ``ProtocolViolation`` for one that is too large."""
        self._rest += chunk
        if not self._begun:
            if len(self._rest) < len(_BOM) and _BOM.startswith(self._rest):
                return []
            self._begun = True
            if self._rest.startswith(_BOM):
                del self._rest[: len(_BOM)]
        found: list[bytes] = []
        while (line := self._line()) is not None:
            if line:
                self._field(line)
            elif self._data:
                found.append(b"\n".join(self._data))
                self._data, self._size = [], 0
        self._bounded(len(self._rest))
        return found

    def _line(self) -> bytes | None:
        """The next whole line, without its end, which is LF, CR or both."""
        rest = self._rest
        if self._after_cr and rest:
            self._after_cr = False
            if rest[0] == 0x0A:
                del rest[0]
        ends = [at for at in (rest.find(b"\n", self._scanned), rest.find(b"\r", self._scanned)) if at >= 0]
        if not ends:
            self._scanned = len(rest)
            return None
        at = min(ends)
        self._after_cr = rest[at] == 0x0D
        line = bytes(rest[:at])
        del rest[: at + 1]
        self._scanned = 0
        return line

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._bounded(len(value))
            self._size += len(value) + 1
            self._data.append(value[1:] if value.startswith(b" ") else value)

    def _bounded(self, more: int) -> None:
        if self._size + more > self._most:
            raise ProtocolViolation(f"a block of more than {self._most} bytes")
