"""Excel workbooks (.xlsx): names of the sheets, the first row of the first one, and how many rows each has.

Everything is streamed; formulas are not looked at, and no value but those of the first row.
"""

from __future__ import annotations

import posixpath

from hub.api import Settings
from services.uploads.checking.archives import Archive
from services.uploads.checking.facts import SheetFacts, TableFacts, damaged, told_header, told_sheets, too_large
from services.uploads.checking.xml_events import Handler, read_xml

MAX_CELL = 200  # characters of a header's cell that are told
_WORKBOOK, _RELATIONS, _STRINGS = "xl/workbook.xml", "xl/_rels/workbook.xml.rels", "xl/sharedStrings.xml"
_MAX_SHEETS = 256
_MAX_NAME = 255


def workbook_facts(archive: Archive, bounds: Settings) -> TableFacts:
    """Raises ``Rejected`` when a part is missing or is not what it should be."""
    sheets = _Sheets()
    targets = _Targets()
    for part, handler in ((_WORKBOOK, sheets), (_RELATIONS, targets)):
        if part not in archive:
            raise damaged(f"the workbook lacks {part}")
        read_xml(archive.read(part), handler, archive.source.budget)
    counted: list[SheetFacts] = []
    header: list[str | int] | None = None
    rows, read = 0, set()
    for name, relation in sheets.found:
        part = targets.found.get(relation, "")
        if part not in archive or part in read:
            raise damaged(f'the workbook lacks the sheet "{name}"')
        sheet = _Rows(bounds.uploads_max_columns, bounds.uploads_max_rows - rows)
        read.add(part)
        if rows < bounds.uploads_max_rows:
            read_xml(archive.read(part), sheet, archive.source.budget)
        rows += sheet.rows
        header = sheet.header if header is None else header
        counted.append(SheetFacts(name, max(0, sheet.rows - 1)))
    if not counted or header is None:
        raise damaged("the workbook has no sheet")
    told, more = told_header(_texts(archive, header)), rows >= bounds.uploads_max_rows
    return TableFacts(told, counted[0].rows, more=more, sheets=told_sheets(counted))


def _texts(archive: Archive, header: list[str | int]) -> list[str]:
    """The header with its shared strings, which are read up to the last one that is needed."""
    wanted = {cell for cell in header if isinstance(cell, int)}
    strings = _Strings(wanted)
    if wanted and _STRINGS in archive:
        read_xml(archive.read(_STRINGS), strings, archive.source.budget)
    return [cell if isinstance(cell, str) else strings.found.get(cell, "") for cell in header]


class _Sheets(Handler):
    """Name and relation of each sheet, in the order of the tabs."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name != "sheet":
            return
        if len(self.found) >= _MAX_SHEETS:
            raise too_large(f"the workbook has more than {_MAX_SHEETS} sheets")
        relation = next((value for key, value in attributes.items() if key.endswith("relationships id")), "")
        self.found.append((attributes.get("name", "")[:_MAX_NAME], relation))


class _Targets(Handler):
    """The part that each relation of the workbook leads to; of worksheets only, a chart has no rows."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "Relationship" and len(self.found) < 4 * _MAX_SHEETS:
            target = posixpath.normpath(posixpath.join("/xl", attributes.get("Target", "")))
            self.found[attributes.get("Id", "")] = target.lstrip("/")


class _Rows(Handler):
    """Counts rows in which something stands, and keeps the first: texts, or numbers of shared strings."""

    def __init__(self, max_columns: int, max_rows: int) -> None:
        self.rows = 0
        self.header: list[str | int] = []
        self._max_columns = max_columns
        self._max_rows = max_rows
        self._filled = False
        self._in_value = False
        self._column = 0
        self._cell_type = ""
        self._text = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "row":
            self._filled, self._column = False, 0
        elif name == "c" and self.rows == 0:
            self._column = _column(attributes.get("r", "")) or self._column + 1
            self._cell_type, self._text = attributes.get("t", ""), ""
        elif name in ("v", "t"):
            self._in_value = self._filled = True

    def text(self, data: str) -> None:
        if self._in_value and self.rows == 0 and len(self._text) < MAX_CELL:
            self._text = (self._text + data)[:MAX_CELL]

    def end(self, name: str) -> None:
        if name in ("v", "t"):
            self._in_value = False
        elif name == "c" and self.rows == 0 and self._text:
            self._keep()
        elif name == "row" and self._filled and self.rows < self._max_rows:
            self.rows += 1

    def done(self) -> bool:
        return self.rows >= self._max_rows

    def _keep(self) -> None:
        if self._column > self._max_columns:
            return
        self.header += [""] * (self._column - len(self.header))
        is_number = self._cell_type == "s" and self._text.isdecimal()
        self.header[self._column - 1] = int(self._text) if is_number else self._text


class _Strings(Handler):
    """Those of the shared strings that are wanted; pronunciations (``rPh``) are no part of them."""

    def __init__(self, wanted: set[int]) -> None:
        self.found: dict[int, str] = {}
        self._last = max(wanted, default=-1)
        self._wanted = wanted
        self._index = -1
        self._inside = False
        self._aside = False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "si":
            self._index += 1
        elif name == "rPh":
            self._aside = True
        elif name == "t":
            self._inside = self._index in self._wanted and not self._aside

    def text(self, data: str) -> None:
        if self._inside:
            self.found[self._index] = (self.found.get(self._index, "") + data)[:MAX_CELL]

    def end(self, name: str) -> None:
        if name == "t":
            self._inside = False
        elif name == "rPh":
            self._aside = False

    def done(self) -> bool:
        return self._index > self._last


def _column(reference: str) -> int:
    """ "C7" -> 3; 0 when it does not say."""
    number = 0
    for character in reference[:4]:
        if not "A" <= character <= "Z":
            break
        number = 26 * number + ord(character) - 64
    return number
