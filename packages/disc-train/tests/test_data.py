import csv
import io
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from disc_train.data import BUILTINS, Table, cell_array, read_table, write_rows
from trainworks.console import UserError

hostile = st.one_of(
    st.text(st.characters(codec="utf-8")),
    st.lists(st.sampled_from(['"', ",", "\n", "\r", " ", "a", "\u2028", "\x00", "\ufeff", "\x0b"])).map("".join),
    st.sampled_from(["", "007", "1e5", "-9", "NA", "null", "true", "-0", "1.50", "{}"]),
)
names = hostile.filter(str.strip)


@st.composite
def tables(draw):
    columns = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    num_rows = draw(st.integers(1, 5))
    cell = st.none() | hostile
    cells = [draw(st.lists(cell, min_size=num_rows, max_size=num_rows)) for _ in columns]
    return Table(tuple(columns), [cell_array(column) for column in cells])


def table_of(**columns):
    return Table(tuple(columns), [cell_array(cells) for cells in columns.values()])


def written(table, format, **options):
    stream = io.StringIO(newline="")
    write_rows(table, stream, format, **options)
    return stream.getvalue()


@pytest.fixture
def file(tmp_path):
    def write(content, name="rows.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def read_stdin(monkeypatch, text, format=None, min_rows=1):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    return read_table("-", format, min_rows=min_rows)


@pytest.mark.parametrize("format", ["csv", "jsonl"])
@given(table=tables())
def test_what_is_written_is_read_back_exactly(format, table):
    with pytest.MonkeyPatch.context() as patch:
        assert read_stdin(patch, written(table, format), format) == table


@given(tables())
def test_the_csv_module_reads_the_same_cells(table):
    if len(table.columns) == 1:
        return  # it skips the blank lines that hold a lone missing cell
    rows = list(csv.reader(io.StringIO(written(table, "csv"), newline="")))
    assert rows[0] == list(table.columns)
    assert rows[1:] == [["" if cell is None else cell for cell in row] for row in zip(*table.cells, strict=True)]


@given(tables())
def test_the_json_module_reads_the_same_cells(table):
    rows = [json.loads(line, parse_int=str, parse_float=str) for line in written(table, "jsonl").split("\n")[:-1]]
    booleans = {True: "true", False: "false"}
    read = [[booleans.get(cell, cell) if isinstance(cell, bool) else cell for cell in row.values()] for row in rows]
    assert read == [list(row) for row in zip(*table.cells, strict=True)]


def test_an_empty_cell_is_missing_and_a_quoted_one_an_empty_string(file):
    table = read_table(file('a,b\n,""\n"",\n'))
    assert table == table_of(a=[None, ""], b=["", None])


def test_bom_crlf_quotes_and_line_breaks_inside_cells(file):
    table = read_table(file(b'\xef\xbb\xbfa,"b, c"\r\n1,"x\r\ny"\r\n2,"say ""hi"""'))
    assert table == Table(("a", "b, c"), [cell_array(["1", "2"]), cell_array(["x\r\ny", 'say "hi"'])])


def test_blank_lines_are_skipped_unless_they_are_cells(file):
    assert len(read_table(file("a,b\n1,2\n\n3,4\n\n"))) == 2
    assert read_table(file("a\n1\n\n3\n")) == table_of(a=["1", None, "3"])


def test_many_batches_and_many_columns(file):
    rows = 20_000
    tall = table_of(a=[str(i) for i in range(rows)], b=['x,"y"', None] * (rows // 2))
    assert read_table(file(written(tall, "csv"))) == tall
    wide = Table(tuple(f"c{i}" for i in range(2000)), [cell_array([str(i), None]) for i in range(2000)])
    assert read_table(file(written(wide, "csv"))) == wide


def test_json_numbers_keep_their_text_and_strings_stay_strings(file):
    source = (
        '{"id": "007", "zip": "90210", "x": 1e5, "flag": true}\n'
        '{"id": "8", "x": 1.50, "flag": null, "late": "NA"}\n'
        '{"id": "9", "zip": "10115", "x": -0, "flag": false, "late": 3}\n'
    )
    table = read_table(file(source, "rows.jsonl"))
    assert table == table_of(
        id=["007", "8", "9"],
        zip=["90210", None, "10115"],
        x=["1e5", "1.50", "-0"],
        flag=["true", None, "false"],
        late=[None, "NA", "3"],
    )
    first, second, third = written(table, "jsonl").splitlines()
    assert first == '{"id": "007", "zip": "90210", "x": 1e5, "flag": true, "late": null}'
    assert '"id": "8"' in second
    assert '"late": "NA"' in second
    assert third.endswith('"late": 3}')


def test_a_csv_column_becomes_json_numbers_only_as_a_whole(file):
    text = written(read_table(file("age,zip\n30,90210\n31,02134\n")), "jsonl")
    assert text.splitlines()[0] == '{"age": 30, "zip": "90210"}'


def test_chunks_written_one_after_another_are_one_table(file):
    table = table_of(a=["1", "2", "3"], b=["x", None, ""])
    text = written(table.take(slice(0, 2)), "csv") + written(table.take([2]), "csv", header=False)
    assert read_table(file(text)) == table


def test_stdin_is_sniffed(monkeypatch):
    assert read_stdin(monkeypatch, "a,b\n1,2\n").columns == ("a", "b")
    assert read_stdin(monkeypatch, ' {"a": 1, "b": 2}\n').columns == ("a", "b")


def test_take_column_and_concat():
    table = table_of(Age=["1", "2", "3"], Name=["x", "y", "z"])
    assert table.take(np.array([2, 0])) == table_of(Age=["3", "1"], Name=["z", "x"])
    assert table.take(table.column("Age") != "2").concat(table.take([1])) == table.take([0, 2, 1])
    with pytest.raises(UserError, match='no column "age"; did you mean "Age"'):
        table.column("age")


def test_digest_depends_on_the_cells_alone(file):
    table = table_of(a=["1", None], b=["x", "y"])
    assert read_table(file(written(table, "jsonl"), "rows.jsonl")).digest() == table.digest()
    assert table_of(a=["1", ""], b=["x", "y"]).digest() != table.digest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("a,b\n", "only a header"),
        ("a,b\n1,2\n", "only 1 row;"),
        ("a,b\n1,2\n3\n", "line 3: 1 cell where the header names 2"),
        ('a,b\n"1\n1",2\n3,4,5\n', "line 4: 3 cells where the header names 2"),
        ("a,b,a\n1,2,3\n4,5,6\n", 'line 1: two columns are named "a"'),
        ("a,,c\n1,2,3\n4,5,6\n", "line 1: the name of column 2 is empty"),
        (b"a,b\n1,2\n3,\xe9\n", "line 3: not UTF-8"),
        ('a,b\n1,2\n3,"4\n5,6\n', "line 3: a quote opens cell 2 and nothing closes it"),
        ('a,b\n1,2\n"3"x,4\n', "line 3: text follows the closing quote of cell 1"),
    ],
)
def test_a_bad_csv_file_gets_one_line(file, content, message):
    path = file(content)
    with pytest.raises(UserError) as caught:
        read_table(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": 1', "line 2: not JSON"),
        ('{"a": 1}\n[1]\n', "line 2: one JSON object a line was wanted"),
        ('{"a": 1}\n\n{"a": [1]}\n', 'line 3: the value of "a" is nested'),
        ('{"a": {"b": 1}}\n', 'line 1: the value of "a" is nested'),
        ("[" * 100_000, "line 1: values are nested"),
        ('{"a": 1, "a": 2}\n', 'line 1: the key "a" stands there twice'),
        ('{"a": NaN}\n', "line 1: NaN is not JSON"),
        ('{"a": "\\ud800"}\n', 'line 1: the value of "a" holds half a surrogate pair'),
        ('{"": 1}\n{"": 2}\n', "the name of column 1 is empty"),
        ('{"a": 1}\n', "only 1 row;"),
    ],
)
def test_a_bad_json_lines_file_gets_one_line(file, content, message):
    with pytest.raises(UserError) as caught:
        read_table(file(content, "rows.jsonl"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_what_was_wanted(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*none\.csv; a CSV or JSON Lines file .* builtin:fair"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(UserError, match="is a directory"):
        read_table(tmp_path)
    with pytest.raises(UserError, match='no built-in table "fiar"; did you mean "fair"'):
        read_table("builtin:fiar")


def test_one_row_is_enough_where_it_is_asked_for(file):
    assert len(read_table(file("a,b\n1,2\n"), min_rows=1)) == 1


@pytest.mark.parametrize(("name", "shape"), list(zip(BUILTINS, [(6366, 9), (944, 11), (569, 31)], strict=True)))
def test_built_in_tables(name, shape):
    table = read_table(f"builtin:{name}")
    assert (len(table), len(table.columns)) == shape
    if name == "fair":
        assert [str(column[0]) for column in table.cells] == [
            "3",
            "32",
            "9",
            "3",
            "3",
            "17",
            "2",
            "5",
            "0.1111111",
        ]
