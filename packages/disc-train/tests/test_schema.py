import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from disc_train.data import Table, cell_array
from disc_train.number_format import NumberFormat
from disc_train.schema import Schema
from trainworks.console import UserError


def table_of(**columns):
    return Table(tuple(columns), [cell_array(list(cells)) for cells in columns.values()])


def infer(cells, **options):
    return Schema.infer(table_of(x=cells), **options)


def decoded(schema, codes, seed=0):
    return schema.decode(np.asarray(codes), np.random.default_rng(seed)).cells[0].tolist()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["red", "blue", "red"], "categorical"),
        (["1", "-2", "30"], "integer"),
        (["1", "2.5"], "decimal"),
        (["1e5", "2.5E-3"], "decimal"),
        (["true", "False"], "boolean"),
        (["Yes", "No", None], "boolean"),
        (["0", "1"], "integer"),
        (["2024-02-29", "2023-12-01"], "date"),
        (["2023-02-29", "2023-12-01"], "categorical"),
        (["007", "12", "345"], "categorical"),
        (["1,000", "2,500"], "categorical"),
        (["+5", "6"], "categorical"),
        ([" 5", "6"], "categorical"),
        (["٣", "٤"], "categorical"),
        (["nan", "inf"], "categorical"),
        (["9007199254740993", "1"], "categorical"),
        ([*map(str, range(90)), *["NA"] * 6, *["?"] * 4], "integer"),
        ([*map(str, range(90)), *["NA"] * 11], "categorical"),
        ([*map(str, range(200)), *"abcdefghi"], "categorical"),
        ([None, None], "categorical"),
    ],
)
def test_kinds(cells, kind):
    assert infer(cells).column("x").kind == kind


def test_overrides():
    table = table_of(a=["1", "2"], b=["1", "x"])
    assert Schema.infer(table, overrides={"a": "categorical"}).column("a").kind == "categorical"
    assert Schema.infer(table, overrides={"a": "boolean", "b": "integer"}).column("b").kind == "integer"
    with pytest.raises(UserError, match='column "c"'):
        Schema.infer(table, overrides={"c": "integer"})
    with pytest.raises(UserError, match=r'unknown type "int".*did you mean "integer"'):
        Schema.infer(table, overrides={"a": "int"})
    with pytest.raises(UserError, match='column "b" cannot be date: 2 of its values are not, such as "1" in row 1'):
        Schema.infer(table, overrides={"b": "date"})
    with pytest.raises(UserError, match="cannot be boolean: it has 3 distinct values"):
        infer("abc", overrides={"x": "boolean"})


@given(st.lists(st.none() | st.text(max_size=3) | st.integers(-9, 99).map(str), min_size=1))
def test_small_vocabularies_are_exact_for_any_cells(cells):
    schema = infer(cells)
    table = table_of(x=cells)
    codes = schema.encode(table)
    assert codes.dtype == np.int32
    assert codes.max() < schema.vocab_sizes[0]
    assert schema.decode(codes, np.random.default_rng(0)) == table
    assert schema.validate(table) == []


def test_missing_empty_marker_code_and_number_are_tokens_in_order():
    cells = [*map(str, range(100)), "-9", "-7", "?", None]
    schema = infer(cells)
    column = schema.column("x")
    assert column.texts[:6] == (None, "?", "-9", "-7", "0", "1")
    assert column.missing == 0
    assert column.special_codes == (-9.0, -7.0)
    values = schema.token_values()[0]
    assert np.isnan(values[:2]).all()
    assert values[2:].tolist() == [-9, -7, *range(100)]
    assert infer(["", None, "a"]).column("x").texts == (None, "", "a")


def test_negative_numbers_are_no_codes_among_other_negative_ones():
    assert infer(["-9", "-25", "3", "8"]).column("x").special_codes == ()
    assert infer(["-9", "-7"]).column("x").special_codes == ()


@pytest.fixture
def incomes(rng):
    """A column that is binned: half a heavy 0, codes, missing cells, and numbers with gaps."""
    drawn = rng.lognormal(10, 1, 4000).astype(int)
    return table_of(x=["0"] * 4000 + [str(v) for v in drawn] + ["-9"] * 3 + [None] * 5)


def test_a_binned_column_keeps_heavy_numbers_codes_and_missing(incomes, rng):
    schema = Schema.infer(incomes)
    column = schema.column("x")
    assert 60 < schema.vocab_sizes[0] < 140
    assert column.texts[:3] == (None, "-9", "0")
    codes = schema.encode(incomes)
    made = schema.decode(codes, rng)
    for token in ("0", "-9", None):
        assert ((made.column("x") == token) == (incomes.column("x") == token)).all()
    assert (schema.encode(made) == codes).all()
    assert schema.validate(made) == []
    values = schema.token_values()[0]
    assert (np.diff(values[1:]) > 0).all()


def test_draws_follow_the_distribution_and_stay_in_the_range(incomes, rng):
    schema = Schema.infer(incomes)
    drawn, real = (
        np.array([float(cell) for cell in table.column("x") if cell is not None and float(cell) > 0])
        for table in (schema.decode(schema.encode(incomes), rng), incomes)
    )
    assert drawn.min() >= real.min()
    assert drawn.max() <= real.max()
    shares = np.linspace(0.01, 0.99, 99)
    assert np.allclose(np.quantile(drawn, shares), np.quantile(real, shares), rtol=0.03)
    assert len(set(drawn.tolist()) - set(real.tolist())) > 500  # not only numbers that were seen


def test_each_number_of_a_bin_keeps_its_share(rng):
    # Rounding a draw between the ends would halve the share of the smallest and largest number.
    cells = [str(v) for v in rng.integers(0, 600, 60_000)]
    schema = infer(cells, bins=100)
    drawn = np.array(decoded(schema, schema.encode(table_of(x=cells))), dtype=int)
    counts = np.bincount(drawn, minlength=600)
    assert counts.min() > 40
    assert counts.max() < 180


@pytest.mark.parametrize(
    "write",
    [
        lambda v: f"{v * 100:.2f}",
        lambda v: f"{v * 100:.3f}".rstrip("0").rstrip("."),
        lambda v: str(round(v, 2)),
        lambda v: f"{v / 1e7:.3e}",
        lambda v: f"{v * 1e9:.4E}".replace("E+0", "E"),
        lambda v: repr(v * 10 ** (6 * v - 8)),
        lambda v: str(round(v * 500) * 500),
        lambda v: f"{2000 + int(v * 20):04}-01-{1 + int(v * 997) % 28:02}",
    ],
    ids=["fixed", "stripped", "float", "scientific", "short exponent", "repr", "hundreds", "date"],
)
def test_draws_are_written_as_the_column_is(write, rng):
    cells = [write(v) for v in rng.random(2000).tolist()]
    schema = infer(cells, max_exact=50, bins=20)
    column = schema.column("x")
    assert column.bins is not None
    made = schema.decode(schema.encode(table_of(x=cells)), rng)
    assert schema.validate(made) == []
    texts = made.column("x").tolist()
    number = np.array([column.parse(text) for text in texts])
    real = np.array([column.parse(text) for text in cells])
    assert real.min() <= number.min() <= number.max() <= real.max()
    assert {"e" in t for t in texts} <= {"e" in t for t in cells}
    assert {"E" in t for t in texts} <= {"E" in t for t in cells}
    assert max(map(len, texts)) <= max(map(len, cells))
    if cells[0].endswith("00"):
        assert all(int(text) % 500 == 0 for text in texts)
    assert (schema.encode(made) == schema.encode(table_of(x=cells))).all()


@given(st.lists(st.decimals(-1000, 1000, places=3).map(str), min_size=1, max_size=20))
def test_a_format_writes_its_own_numbers_back(texts):
    texts = [text.lstrip("+").replace("-0.000", "0.000") for text in texts]
    format = NumberFormat.fit("decimal", texts)
    units = format.units(np.array([float(text) for text in texts]))
    assert (units == np.rint(units)).all()
    assert format.texts(units).tolist() == texts


def test_rare_categories_share_a_token(rng):
    cells = ["a"] * 50 + ["b"] * 40 + ["c"] * 3 + [f"r{i}" for i in range(30)]
    schema = infer(cells, max_categories=4)
    assert schema.column("x").texts == ("a", "b", "c", None)
    assert schema.vocab_sizes == [4]
    assert "33 categories; the 30 rarest share one token" in schema.warnings[0]
    table = table_of(x=cells)
    codes = schema.encode(table)
    made = decoded(schema, np.full((3000, 1), 3))
    assert set(made) == {f"r{i}" for i in range(30)}
    assert schema.validate(schema.decode(codes, rng)) == []
    assert schema.encode(table_of(x=["r7", "zz"]), strict=False).tolist() == [[3], [3]]


def test_rare_categories_are_drawn_by_frequency():
    cells = ["a"] * 99 + ["b"] * 30 + ["c"] * 10
    made = decoded(infer(cells, max_categories=2), np.full((4000, 1), 1))
    assert made.count("b") / 4000 == pytest.approx(0.75, abs=0.04)


def test_constant_and_all_missing_columns_are_kept_with_a_warning(rng):
    table = table_of(a=["5", "5"], b=[None, None], c=["1", "2"])
    schema = Schema.infer(table)
    assert schema.vocab_sizes == [1, 1, 2]
    assert ['"a" is constant' in schema.warnings[0], '"b" is all missing' in schema.warnings[1]] == [
        True,
        True,
    ]
    assert schema.decode(schema.encode(table), rng) == table


def test_strict_encoding_names_row_column_and_nearest():
    schema = Schema.infer(table_of(Age=["20", "30", "50"], City=["Paris", "Rome", "Paris"]))
    with pytest.raises(UserError, match=r'row 2, column "Age": "33" is unknown; the nearest known number is 30'):
        schema.encode(table_of(Age=["20", "33"], City=["Rome", "Rome"]))
    with pytest.raises(UserError, match=r'row 1, column "City": "Romes" is unknown; did you mean "Rome"'):
        schema.encode(table_of(Age=["20"], City=["Romes"]))
    with pytest.raises(UserError, match=r'row 1, column "City": the cell is missing'):
        schema.encode(table_of(Age=["20"], City=[None]))
    with pytest.raises(UserError, match='no column "City"'):
        schema.encode(table_of(Age=["20"]))


def test_lenient_encoding_takes_the_nearest_number_or_the_most_frequent_category(incomes):
    schema = Schema.infer(table_of(Age=["20", "30", "-9"], City=["Paris", "Rome", "Paris"]))
    codes = schema.encode(table_of(Age=["26", "1"], City=["Oslo", None]), strict=False)
    assert schema.decode(codes, np.random.default_rng(0)) == table_of(Age=["30", "20"], City=["Paris", "Paris"])
    binned = Schema.infer(incomes)
    assert binned.encode(table_of(x=["999999999"]), strict=False)[0, 0] == binned.vocab_sizes[0] - 1
    with pytest.raises(UserError, match="the nearest known number is"):
        binned.encode(table_of(x=["999999999"]))


def test_columns_may_come_in_any_order():
    schema = Schema.infer(table_of(a=["1", "2"], b=["x", "y"]))
    assert (schema.encode(table_of(b=["y"], a=["1"])) == schema.encode(table_of(a=["1"], b=["y"]))).all()


def test_validate_gives_row_column_and_reason():
    schema = Schema.infer(
        table_of(
            age=["20", "30", "-9"],
            price=["1.50", "2.25", "9.00"],
            ok=["yes", "no", "yes"],
            day=["2024-01-05"] * 3,
        )
    )
    table = table_of(
        age=["25", "31", "-9", "-8", "2.5", None],
        price=["1.75", "1.5", "9.01", "3.00", "3.000", "x"],
        ok=["no", "maybe", "yes", "yes", "yes", "yes"],
        day=["2024-01-05", "2024-01-06", "2024-01-05", "2024-01-05", "2024-01-05", "5 Jan"],
    )
    faults = {(row, name): reason for row, name, reason in schema.validate(table)}
    assert set(faults) == {
        *[(row, "age") for row in (1, 3, 4, 5)],
        *[(row, "price") for row in (1, 2, 4, 5)],
        (1, "ok"),
        (1, "day"),
        (5, "day"),
    }
    assert faults[1, "age"] == "is outside the range 20 to 30"
    assert faults[4, "age"] == "is not an integer"
    assert faults[5, "age"] == "is missing, and no cell of this column was"
    assert "digits" in faults[1, "price"]
    assert faults[1, "ok"] == "is no known category"


def test_json_round_trip_gives_the_same_rows(incomes, rng):
    table = Table(
        ("x", "c", "s"),
        [*incomes.cells, cell_array([f"k{i % 90}" for i in range(8008)]), cell_array(["7", "8"] * 4004)],
        frozenset({"s"}),
    )
    schema = Schema.infer(table, max_categories=50)
    loaded = Schema.from_json(json.loads(json.dumps(schema.to_json(), allow_nan=False)))
    assert loaded.to_json() == schema.to_json()
    codes = schema.encode(table)
    assert (loaded.encode(table) == codes).all()
    made = [s.decode(codes, np.random.default_rng(1)) for s in (schema, loaded)]
    assert made[0] == made[1]
    assert made[1].text_columns == {"s"}


def test_a_schema_of_another_version_is_refused():
    with pytest.raises(UserError, match="version 99"):
        Schema.from_json({"schema": 99, "columns": []})


def test_draws_are_seeded(incomes):
    schema = Schema.infer(incomes)
    codes = schema.encode(incomes)
    assert decoded(schema, codes, seed=1) == decoded(schema, codes, seed=1) != decoded(schema, codes, seed=2)
