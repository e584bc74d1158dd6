import io
import json
import os
import subprocess
import sys
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from disc_train.conditions import matches, parse_condition
from disc_train.data import Table, cell_array, read_table
from disc_train.sample import Wanted, impute, sample_rows, write_stream


def table_from(text, format="csv"):
    """Rows as a reader of the command's output gets them."""
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(text.encode()))
    try:
        return read_table("-", format, min_rows=0)
    finally:
        sys.stdin = before


def draw(trained, num_rows, seed=0, **wanted):
    """All rows at once, as one table."""
    first, *others = sample_rows(trained, Wanted(num_rows, **wanted), seed)
    return first.concat(*others)


def shares(cells):
    counts = Counter(cells.tolist())
    return {value: count / len(cells) for value, count in counts.items()}


def test_every_row_is_valid_and_looks_like_the_table(trained, table_csv):
    rows = draw(trained, 3000)
    assert len(rows) == 3000
    assert trained.schema.validate(rows) == []
    real, drawn = (shares(table.column("color")) for table in (read_table(table_csv), rows))
    for value, share in real.items():
        assert drawn[value] == pytest.approx(share, abs=0.1)
    sizes = np.array([{"red": "S", "green": "M", "blue": "L"}[color] for color in rows.column("color")])
    assert (sizes == rows.column("size")).mean() > 0.7  # about 0.4 if the columns were independent


def test_the_same_seed_gives_the_same_rows(run_dir, disc_train):
    texts = [disc_train("sample", run_dir, "-n", 50, "--seed", seed).out for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_the_number_asked_for_comes_with_one_header(run_dir, disc_train, format):
    ended = disc_train("sample", run_dir, "-n", 5000, "--format", format)
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    if format == "csv":
        assert lines.pop(0) == "color,size,age,visits,income"
        assert "color,size,age,visits,income" not in lines
    else:
        assert list(json.loads(lines[0])) == ["color", "size", "age", "visits", "income"]
    assert len(lines) == 5000


def test_integers_stay_integers_and_decimals_keep_their_digits(run_dir, disc_train):
    for format in ("csv", "jsonl"):
        ended = disc_train("sample", run_dir, "-n", 400, "--format", format)
        rows = table_from(ended.out, format)
        assert all(cell.lstrip("-").isdecimal() for name in ("age", "visits") for cell in rows.column(name))
        incomes = [cell for cell in rows.column("income") if cell is not None]
        assert all(len(cell.partition(".")[2]) == 2 for cell in incomes)
        assert len(incomes) < 400, "missing cells are drawn too"
    assert isinstance(json.loads(ended.out.splitlines()[0])["age"], int)


@pytest.mark.parametrize(
    "where",
    [
        ["color=green"],
        ["color!=red"],
        ["color=green|blue"],
        ["age<30"],
        ["age<=18"],
        ["age>45"],
        ["age>=59"],
        ["visits=-9"],
        ["visits=2|3"],
        ["income>3000.5"],
        ["income<2500", "income>=2400.25"],
        ["income="],
        ["income!="],
        ["color=blue", "size!=L"],
        ["age>=25", "age<40", "color=red|blue", "size=S"],
        ["age>50", "income<5000", "visits!=-9"],
    ],
    ids=" ".join,
)
def test_conditions_hold_in_every_row(trained, where):
    rows = draw(trained, 200, where=tuple(where), max_tries=1000)
    assert len(rows) == 200
    assert matches([parse_condition(text) for text in where], rows, trained.schema).all()
    assert trained.schema.validate(rows) == []


def test_conditional_rows_are_like_the_unconditional_ones_that_meet_the_condition(trained):
    """Two restricted columns: drawn one after the other without rejection the shares would be off."""
    where = ("size=S|M", "age<30")
    free = draw(trained, 40_000)
    met = free.take(matches([parse_condition(text) for text in where], free))
    drawn = draw(trained, 4000, where=where)
    for column in ("color", "size"):
        expected, got = shares(met.column(column)), shares(drawn.column(column))
        for value, share in expected.items():
            assert got.get(value, 0.0) == pytest.approx(share, abs=0.06), column


def test_balance_gives_equal_shares(trained):
    colors = shares(draw(trained, 3000, balance="color").column("color"))
    assert colors == pytest.approx({"red": 1 / 3, "green": 1 / 3, "blue": 1 / 3}, abs=0.04)


@pytest.mark.parametrize(
    "where",
    [("size!=S",), ("age>=30", "color!=red"), ("age>=30", "size!=S")],
    ids=" ".join,
)
def test_balance_holds_beside_conditions(trained, where):
    rows = draw(trained, 3000, balance="color", where=where)
    left = {"green", "blue"} if "color!=red" in where else {"red", "green", "blue"}
    assert shares(rows.column("color")) == pytest.approx(dict.fromkeys(left, 1 / len(left)), abs=0.04)
    assert matches([parse_condition(text) for text in where], rows).all()


def test_balance_holds_beside_resampling(trained):
    rows = draw(trained, 301, balance="color", resample=True)
    assert sorted(Counter(rows.column("color").tolist()).values()) == [100, 100, 101]


def test_balance_wants_a_column_of_few_values(run_dir, disc_train, trained):
    assert draw(trained, 600, balance="visits").columns == trained.schema.names
    ended = disc_train("sample", run_dir, "--balance", "colour")
    assert (ended.status, ended.out) == (2, "")
    assert 'did you mean "color"?' in ended.err


def test_resampling_raises_the_row_discriminators_score(trained):
    def mean_score(rows):
        import torch

        codes = torch.as_tensor(trained.schema.encode(rows), dtype=torch.int64)
        order = torch.arange(5).expand(len(codes), -1)
        return trained.discriminators.credits(codes, order)["row"].mean().item()

    plain, filtered = draw(trained, 2000), draw(trained, 2000, resample=True)
    assert len(filtered) == 2000
    assert mean_score(filtered) > mean_score(plain) + 0.05


def test_resampling_says_how_many_rows_it_rejected(run_dir, disc_train):
    ended = disc_train("sample", run_dir, "-n", 300, "--resample")
    assert len(ended.out.splitlines()) == 301
    assert ended.err.startswith("warning: rejected ")
    assert "the row discriminator takes it for generated" in ended.err


def test_it_ends_with_what_it_has_when_a_condition_is_hardly_ever_met(run_dir, disc_train):
    """Old and poor: the two hold together next to never."""
    ended = disc_train("sample", run_dir, "-n", 400, "--where", "age>=55", "--where", "income<2000", "--max-tries", 1)
    assert ended.status == 0
    given = len(ended.out.splitlines()[1:])
    assert given < 400
    assert ended.err.splitlines()[-1] == (
        f"warning: gave {given} of 400 rows after 400 tries; raise --max-tries for more"
    )
    assert f"rejected {400 - given} of 400 rows: conditions" in ended.err


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (["age>200"], 'no value of "age" meets age>200'),
        (["age<30", "age>40"], 'no value of "age" meets age<30 and age>40'),
        (["color=gren"], 'did you mean "green"?'),
        (["colour=red"], 'did you mean "color"?'),
        (["color<red"], "takes one number or one date"),
        (["size>3"], "has no order"),
        (["age"], "is not a condition"),
    ],
)
def test_a_condition_that_no_row_can_meet_is_refused_in_one_line(run_dir, disc_train, where, message):
    ended = disc_train("sample", run_dir, *(part for text in where for part in ("--where", text)))
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert message in ended.err


def test_rows_come_out_before_all_are_drawn(trained):
    batches = sample_rows(trained, Wanted(10**9), seed=0)
    assert len(next(batches)) < 10_000


def test_sampling_takes_no_more_memory_for_more_rows(trained):
    """Peak bytes of Python and NumPy objects; all rows at once would take ten times as many for ten times the rows."""
    peaks = []
    with open(os.devnull, "w") as nowhere:
        for count in (8_000, 80_000):
            tracemalloc.start()
            write_stream(sample_rows(trained, Wanted(count), 0), nowhere, "csv")
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_a_reader_that_leaves_is_no_error(run_dir, disc_train_process):
    arguments = ["sample", run_dir, "-n", 1_000_000_000, "--quiet"]
    process = disc_train_process(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "color,size,age,visits,income\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=300) == 141  # as `yes | head -1` leaves it: 128 + SIGPIPE


def partial_table(fresh_csv, hidden, seed=0):
    """The fresh rows with the cells of the columns `hidden` missing in about half of the rows."""
    table = read_table(fresh_csv)
    rng = np.random.default_rng(seed)
    cells = [
        np.where(rng.random(len(table)) < 0.5, None, column) if name in hidden else column
        for name, column in zip(table.columns, table.cells, strict=True)
    ]
    return Table(table.columns, cells, table.text_columns)


def test_imputing_keeps_what_is_given_and_leaves_nothing_missing(run_dir, disc_train, fresh_csv):
    partial = partial_table(fresh_csv, {"color", "size", "age", "visits", "income"})
    stream = io.StringIO()
    write_stream(iter([partial]), stream, "csv")
    ended = disc_train("impute", run_dir, "-", stdin=stream.getvalue())
    assert ended.status == 0, ended.err
    full = table_from(ended.out)
    assert full.columns == partial.columns
    assert len(full) == len(partial)
    for before, after in zip(partial.cells, full.cells, strict=True):
        given = np.array([cell is not None for cell in before])
        assert 0 < given.sum() < len(given)
        assert (after[given] == before[given]).all()
        assert all(cell is not None for cell in after)


def test_given_cells_that_training_never_saw_stay_byte_for_byte(run_dir, disc_train):
    rows = 'color,size,age,visits,income\n"da, ""rk",XL,0017,-8,1e3\nred,,30,,\n'
    ended = disc_train("impute", run_dir, "-", stdin=rows)
    assert ended.status == 0, ended.err
    _, first, second = ended.out.splitlines()
    assert first == '"da, ""rk",XL,0017,-8,1e3'
    assert second.startswith("red,")
    assert "" not in second.split(",")


def test_columns_that_are_absent_are_added(run_dir, disc_train):
    ended = disc_train("impute", run_dir, "-", "--format", "jsonl", stdin='{"size": "M", "age": 40}\n' * 30)
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert len(rows) == 30
    for row in rows:
        assert list(row) == ["color", "size", "age", "visits", "income"]
        assert (row["size"], row["age"]) == ("M", 40)
        assert None not in row.values()


def test_imputed_cells_follow_from_the_given_ones(trained, fresh_csv):
    size_of = {"red": "S", "green": "M", "blue": "L"}
    partial = partial_table(fresh_csv, {"size", "color"})
    (full,) = impute(trained, partial, seed=0)
    color, size = full.column("color"), full.column("size")
    one_given = np.array(
        [(c is None) != (s is None) for c, s in zip(partial.column("color"), partial.column("size"), strict=True)]
    )
    agree = np.array([size_of[c] == s for c, s in zip(color, size, strict=True)])
    assert one_given.sum() > 100
    assert agree[one_given].mean() > 0.7  # about 0.4 if given cells were ignored


def test_a_column_that_training_did_not_have_is_refused(run_dir, disc_train):
    ended = disc_train("impute", run_dir, "-", stdin="color,sise\nred,\n")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == 'error: there is no column "sise"; did you mean "size"?\n'


def test_imputing_is_seeded(trained):
    table = Table(("color",), [cell_array(["red"] * 40)])
    drawn = [next(impute(trained, table, seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
