"""CSV and its like: encoding, delimiter, the first row, and the number of rows. The bytes are not changed.

Formulas in cells are the reader's business: whoever opens a table of strangers in a spreadsheet has to know that.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from typing import Literal

from hub.api import ErrorCode, Settings
from services.uploads.checking import formats
from services.uploads.checking.facts import Rejected, TableFacts, told_header, too_large, unsupported
from services.uploads.checking.source import Budget, Source
from services.uploads.checking.text import CONTROLS, SOME_ASCII, UTF8, WINDOWS, encoding_of

MAX_CELL = 200
_SAMPLE = 65_536
_SAMPLE_ROWS = 50
# What a table can be whose beginning is in an encoding, and a later place is not.
_LESS = {UTF8: (UTF8, WINDOWS, SOME_ASCII), WINDOWS: (WINDOWS, SOME_ASCII)}
_DELIMITERS = ",;\t|"
_MAX_LINE = 1_048_576
_MAX_RECORD = 2_097_152
# Counting ends there and says that there is more; the rest of the time is for what comes after.
_SHARE = 0.7
_TICK_ROWS = 64
_LAST = "\ue000"  # the line after the last: it is a row of its own, unless a quote is open


def table_facts(source: Source, media_type: str, bounds: Settings) -> TableFacts:
    """Raises ``Rejected``: not text, an endless line, field or record, or nothing in it."""
    encoding = encoding_of(source.at(0, _SAMPLE))
    if encoding is None:
        raise unsupported("the table is not text; save it as CSV in UTF-8")
    counting = source.budget.share(_SHARE)
    for each in _LESS.get(encoding, (encoding,)):
        try:
            return _read_quoted(source, each, media_type, bounds, counting)
        except UnicodeDecodeError:
            continue
    raise unsupported(f"the table begins as {encoding} and is something else later; save it in UTF-8")


def _read_quoted(source: Source, encoding: str, media_type: str, bounds: Settings, counting: Budget) -> TableFacts:
    """If a quote is not closed none is one: then rows are lines."""
    try:
        return _read(source, encoding, media_type, bounds, counting, quoted=True)
    except _NotClosed:
        return _read(source, encoding, media_type, bounds, counting, quoted=False)


def _read(
    source: Source, encoding: str, media_type: str, bounds: Settings, counting: Budget, *, quoted: bool
) -> TableFacts:
    text = _Text(source, encoding, quoted)
    delimiter = "\t" if media_type == formats.TSV else _delimiter(text.sample())
    header: list[str] = []
    rows, more = -1, False
    for number, record in enumerate(_records(text, delimiter, quoted)):
        if number % _TICK_ROWS == 0 and not _in_time(counting):
            more = True
            break
        if not any(record) or (number == 0 and _names_delimiter("".join(record))):
            continue
        rows += 1
        if rows == 0:
            header = [cell.replace("\0", "").strip()[:MAX_CELL] for cell in record[: bounds.uploads_max_columns]]
        elif rows >= bounds.uploads_max_rows:
            more = True
            break
    if rows < 0:
        raise Rejected(ErrorCode.EMPTY_CONTENT, "there is no row in the table")
    # Of tables with tabs that is how they are meant.
    lines = not quoted and media_type != formats.TSV
    return TableFacts(told_header(header), rows, more, encoding.removesuffix("-sig"), delimiter, lines=lines)


def _records(text: _Text, delimiter: str, quoted: bool) -> Iterator[list[str]]:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    try:
        for record in csv.reader(text.lines(), delimiter=delimiter, quoting=quoting):
            if text.ended:
                if record != [_LAST]:
                    raise _NotClosed
                return
            text.begin_record()
            yield record
    except csv.Error as error:
        if quoted:
            raise _NotClosed from None
        raise unsupported(f"the table cannot be read as CSV ({error})") from None


class _NotClosed(Exception):
    """A quote has no end, or none within bounds."""


def _in_time(counting: Budget) -> bool:
    try:
        counting.tick()
    except Rejected:
        return False
    return True


def _delimiter(sample: str) -> str:
    """The one that cuts most of the first rows into the same number of cells; a comma if none does."""
    first = sample.split("\n", 1)[0].strip()
    if len(first) == 5 and _names_delimiter(first) and first[4] in _DELIMITERS:
        return first[4]
    best, best_score = ",", (0, 0)
    for delimiter in _DELIMITERS:
        rows = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
        try:
            widths = [len(row) for row in itertools.islice(rows, _SAMPLE_ROWS) if row]
        except csv.Error:
            continue
        common = max(set(widths), key=widths.count, default=1)
        score = (widths.count(common) * 100 // max(1, len(widths)), common)
        if common > 1 and score > best_score:
            best, best_score = delimiter, score
    return best


def _names_delimiter(line: str) -> bool:
    """A first line that is for Excel: "sep=;"."""
    return len(line) <= 5 and line.lower().startswith("sep=")


class _Bytes(io.RawIOBase):
    """The source from its first character on; ``look``: for bytes that no text has, unless zeros belong to it."""

    def __init__(self, source: Source, start: int, look: bool) -> None:
        super().__init__()
        self._source = source
        self._position = start
        self._look = look

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._source.at(self._position, len(buffer))
        if self._look and CONTROLS.search(data):
            raise unsupported("the table has bytes that are no text; save it as CSV in UTF-8")
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _Text:
    """Lines of bounded length, and records of bounded length."""

    def __init__(self, source: Source, encoding: str, quoted: bool) -> None:
        self.ended = False
        """All lines of the table were read."""
        self._quoted = quoted
        self._source = source
        self._encoding = encoding
        self._record = 0

    def begin_record(self) -> None:
        self._record = 0

    def sample(self) -> str:
        """Whole lines of the beginning, if there are some."""
        sample = self._open().read(_SAMPLE // 4)
        whole, newline, _ = sample.rpartition("\n")
        return whole + newline or sample

    def lines(self) -> Iterator[str]:
        text = self._open()
        while True:
            line = text.readline(_MAX_LINE)
            if not line:
                self.ended = True
                yield _LAST
                return
            self._record += len(line)
            if len(line) >= _MAX_LINE:
                raise too_large(f"the table has a line of more than {_MAX_LINE} characters")
            if self._record > _MAX_RECORD and self._quoted:
                raise _NotClosed
            if self._record > _MAX_RECORD:
                raise too_large(f"the table has a row of more than {_MAX_RECORD} characters; is a quote not closed?")
            yield line

    def _open(self) -> io.TextIOWrapper:
        head = self._source.at(0, 4)
        start = 2 if head[:2] in (b"\xff\xfe", b"\xfe\xff") and self._encoding.startswith("utf-16") else 0
        raw = _Bytes(self._source, start, look=not self._encoding.startswith("utf-16"))
        some = self._encoding == SOME_ASCII
        encoding, errors = ("ascii", "replace") if some else (self._encoding, "strict")
        return io.TextIOWrapper(io.BufferedReader(raw, 262_144), encoding, errors, newline="")
