"""CSV and workbooks: encoding, header and rows; and those that would cost their reader memory or time."""

from __future__ import annotations

import msgspec
import pytest

from hub.api import ErrorCode
from services.uploads.checking import Rejected, SheetFacts, TableFacts, source
from tests.services.uploads.checking.samples import (
    archive,
    look,
    number,
    shared,
    sheet,
    workbook,
    workbook_files,
)


def table(data: bytes, filename: str = "a.csv", **overrides: object) -> TableFacts:
    facts = look(data, filename, "csv" if filename.endswith("sv") else "excel", **overrides)
    assert facts.table
    return facts.table


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"name,room\nAnn,12\nBob,13\n", TableFacts(["name", "room"], 2, False, "utf-8", ",")),
        (b"name,room", TableFacts(["name", "room"], 0, False, "utf-8", ",")),
        (b"name;price\r\nAnn;1,5\r\n\r\nBob;2,5", TableFacts(["name", "price"], 2, False, "utf-8", ";")),
        (b"sep=|\nname|room\nAnn,x|12\n", TableFacts(["name", "room"], 1, False, "utf-8", "|")),
        (b"\n\n name , room \nAnn,12\n,\n", TableFacts(["name", "room"], 1, False, "utf-8", ",")),
        (b'"a\nb","c ""d"""\n"1\n\n2",3\n', TableFacts(["a\nb", 'c "d"'], 1, False, "utf-8", ",")),
        (b"only\n1\n2\n3\n", TableFacts(["only"], 3, False, "utf-8", ",")),
        (b"\xef\xbb\xbfname\n1\n", TableFacts(["name"], 1, False, "utf-8", ",")),
        ("Größe;Ort\n1;Köln\n".encode("utf-16"), TableFacts(["Größe", "Ort"], 1, False, "utf-16-le", ";")),
        ("Größe;Ort\n1;Köln\n".encode("utf-16-be"), TableFacts(["Größe", "Ort"], 1, False, "utf-16-be", ";")),
        ("Größe;Ort\n1;Köln €\n".encode("cp1252"), TableFacts(["Größe", "Ort"], 1, False, "windows-1252", ";")),
        (b"name\r1\r2\r", TableFacts(["name"], 2, False, "utf-8", ",")),
        (b'a,b\n1,"2\n3,4\n', TableFacts(["a", "b"], 2, False, "utf-8", ",", lines=True)),
        (b'a,b\n1,"' + b"x\n" * 200_000, TableFacts(["a", "b"], 200_000, False, "utf-8", ",", lines=True)),
        (b'a,b\n1,2" x 3"\n4,"5"', TableFacts(["a", "b"], 2, False, "utf-8", ",")),
        (
            "имя;город\nИван;Москва\n".encode("cp1251"),
            TableFacts(["\ufffd" * 3, "\ufffd" * 5], 1, False, "unknown", ";"),
        ),
        ("id;Größe\n1;Jürgen\n".encode("mac-roman"), TableFacts(["id", "Gr\ufffd\ufffde"], 1, False, "unknown", ";")),
        ("id;name\n1;Jürgen\n".encode("cp850"), TableFacts(["id", "name"], 1, False, "unknown", ";")),
        ("id,a\n1,住所\n".encode("shift-jis"), TableFacts(["id", "a"], 1, False, "unknown", ",")),
        ("имя;город\nИван;Москва\n".encode("utf-16-le"), TableFacts(["имя", "город"], 1, False, "utf-16-le", ";")),
        ("имя;город\nИван;Москва\n".encode("utf-16-be"), TableFacts(["имя", "город"], 1, False, "utf-16-be", ";")),
        (
            "a;b\nL’été – „Žižek“;Œuvre… œil ÄÖÜ «é» 3€\n".encode("cp1252"),
            TableFacts(["a", "b"], 1, False, "windows-1252", ";"),
        ),
        (b'=HYPERLINK("x"),b\n@SUM(1),2\n', TableFacts(['=HYPERLINK("x")', "b"], 1, False, "utf-8", ",")),
    ],
)
def test_csv(data: bytes, expected: TableFacts) -> None:
    assert table(data) == expected


def test_tabs() -> None:
    assert table(b"name\tprice\nAnn\t1,5\n", "a.tsv") == TableFacts(["name", "price"], 1, False, "utf-8", "\t")


@pytest.mark.parametrize("rows", [1, 100_000])
def test_a_quote_is_nothing_in_a_table_with_tabs_if_it_is_not_closed(rows: int) -> None:
    data = b'size\tprice\n"12 inch\t4\n' + b"x\ty\n" * rows
    assert table(data, "a.tsv") == TableFacts(["size", "price"], rows + 1, False, "utf-8", "\t")


def test_a_row_that_has_no_end_within_bounds_is_read_by_lines() -> None:
    assert table(b'"a\n",' * 600_000).lines


def test_another_encoding_is_seen_late() -> None:
    data = b"name,room\n" + b"Ann,12\n" * 50_000 + "Jürgen,13\n".encode("cp1252") + b"Bob,14\n" * 20_000
    assert table(data) == TableFacts(["name", "room"], 70_001, False, "windows-1252", ",")
    data = b"name,room\n" + b"Ann,12\n" * 50_000 + b"J\x81rgen,13\n"
    assert table(data) == TableFacts(["name", "room"], 50_001, False, "unknown", ",")


def test_rows_and_columns_are_counted_up_to_a_bound() -> None:
    data = b"a,b,c\n" + b"1,2,3\n" * 100
    assert table(data, uploads_max_rows=40, uploads_max_columns=2) == TableFacts(["a", "b"], 40, True, "utf-8", ",")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"a,b\n" + b"x" * 2_000_000, "field limit|line"),
        (b"a,b\n" + b"x," * 1_000_000, "a line of more"),
        (b"a,b\n" * 50_000 + b"\0\1\2" + b"a,b\n" * 50_000, "no text"),
        ("a,b\n".encode("utf-16") + "c,d\n".encode("utf-16-le") * 50_000 + b"\0\xd8", "something else later"),
    ],
)
def test_tables_that_are_none(data: bytes, why: str) -> None:
    with pytest.raises(Rejected, match=why):
        table(data)


@pytest.mark.parametrize("data", [b"\n\n\n", b",,,\n,,\n", b"sep=;\n"])
def test_nothing_in_it(data: bytes) -> None:
    with pytest.raises(Rejected) as refused:
        table(data)
    assert refused.value.code is ErrorCode.EMPTY_CONTENT


def test_a_workbook() -> None:
    expected = TableFacts(["guest", "first name"], 2, sheets=[SheetFacts("Guests", 2), SheetFacts("Rooms", 1)])
    assert table(workbook(), "a.xlsx") == expected


def test_a_workbook_with_gaps_and_readings() -> None:
    """Cells say where they are; the reading of a Japanese name is no part of it."""
    header = ['<c r="B1" t="s"><v>1</v></c>', '<c r="D1" t="str"><f>A1</f><v>sum</v></c>', '<c r="E1"><v>7</v></c>']
    strings = "<si><t>unused</t></si><si><t>山田</t><rPh sb='0' eb='2'><t>ヤマダ</t></rPh></si><si><t>late</t></si>"
    data = archive(workbook_files({"S": sheet([[], header, [number(1)]])}, strings))
    assert table(data, "a.xlsx").header == ["", "山田", "", "sum", "7"]
    assert table(data, "a.xlsx", uploads_max_columns=2).header == ["", "山田"]


def test_rows_of_a_workbook_are_bounded() -> None:
    data = archive(workbook_files({"S": sheet([[number(1)]] * 500), "T": sheet([[number(1)]] * 5)}))
    facts = table(data, "a.xlsx", uploads_max_rows=100)
    assert facts.more
    assert facts.sheets
    assert facts.sheets[1].rows == 0


def test_what_is_told_fits_into_an_event() -> None:
    """Whatever is in the file: it is told beside metadata, and both have their share."""
    wide = ";".join(f"{index:03}" + "колонка" * 18 for index in range(500))
    header = table(f"{wide}\n1;2\n".encode()).header
    assert 20 < len(header) < 500
    assert header == [cell[:200] for cell in wide.split(";")[: len(header)]]
    cells = [f'<c t="str"><v>{index}{"山" * 190}</v></c>' for index in range(500)]
    names = {f"{index}{'山' * 240}": sheet([[number(1)]]) for index in range(1, 250)}
    facts = table(archive(workbook_files({"S": sheet([cells]), **names})), "a.xlsx")
    assert facts.sheets
    assert 5 < len(facts.sheets) < 250
    assert len(msgspec.json.encode(facts)) < 25_000


LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LAUGHS + "<worksheet><sheetData><row><c><v>&b;</v></c></row></sheetData></worksheet>", "document type"),
        ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><worksheet/>', "document type"),
        ("<a>" * 100_000, "nested deeper"),
        ('<worksheet x="' + "y" * 3_000_000 + '"/>', "a tag of more than"),
        ("<worksheet>" + "".join(f"<n{index}/>" for index in range(60_000)) + "</worksheet>", "different names"),
        (
            "<worksheet>" + "".join(f'<n xmlns:p{index}="u"/>' for index in range(60_000)) + "</worksheet>",
            "different names",
        ),
        ("<worksheet><sheetData>", "well-formed"),
        ("", "well-formed"),
    ],
)
def test_xml_that_costs_its_reader(text: str, why: str) -> None:
    with pytest.raises(Rejected, match=why):
        look(archive(workbook_files({"S": text})), "a.xlsx", "excel", uploads_max_unpack_ratio=10_000)


def test_a_workbook_that_lacks_parts() -> None:
    files = workbook_files({"S": sheet([[shared(0)]])})
    assert table(archive(files), "a.xlsx").header == [""], "without its strings a header is empty"
    for part in ("xl/_rels/workbook.xml.rels", "xl/worksheets/sheet1.xml"):
        with pytest.raises(Rejected, match="lacks"):
            look(archive({name: text for name, text in files.items() if name != part}), "a.xlsx", "excel")


def test_the_same_sheet_many_times_is_read_once() -> None:
    files = workbook_files({"S": sheet([[number(1)]])})
    files["xl/workbook.xml"] = str(files["xl/workbook.xml"]).replace(
        "</sheets>", '<sheet name="T" r:id="rId1"/></sheets>'
    )
    with pytest.raises(Rejected, match="lacks the sheet"):
        look(archive(files), "a.xlsx", "excel")


class Clock:
    """Every look at it is a millisecond later."""

    now = 0.0

    def monotonic(self) -> float:
        self.now += 0.001
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table is counted as far as the time reaches; a workbook that takes too long is refused."""
    monkeypatch.setattr(source, "time", Clock())
    facts = table(b"a,b\n" + b"1,2\n" * 100_000, uploads_check_timeout_s=0.5)
    assert facts.more
    assert 10_000 < facts.rows < 90_000
    many = archive(workbook_files({"S": sheet([[number(1)] * 10] * 20_000)}))
    with pytest.raises(Rejected) as refused:
        table(many, "a.xlsx", uploads_check_timeout_s=0.3)
    assert refused.value.code is ErrorCode.TIMEOUT
