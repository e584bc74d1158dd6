import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from disc_train.conditions import Condition, compile_conditions, matches, parse_condition
from disc_train.data import Table, cell_array
from disc_train.schema import Schema
from trainworks.console import UserError

OPERATORS = ["=", "!=", "<", "<=", ">", ">="]


def table_of(**columns):
    return Table(tuple(columns), [cell_array(list(cells)) for cells in columns.values()])


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    count = 3000
    incomes = [str(v) for v in rng.lognormal(10, 1, count).astype(int)]
    incomes[:600] = ["0"] * 600
    incomes[600:620] = ["-9"] * 20
    return table_of(
        Income=incomes,
        Age=[str(v) for v in rng.integers(18, 90, count)],
        Price=[f"{v:.2f}" for v in rng.gamma(2, 50, count)],
        Tiny=[f"{v / 1e6:.3e}" for v in rng.random(count).tolist()],
        Float=[repr(v) for v in rng.random(count).tolist()],
        Day=[str(np.datetime64("2020-01-01") + int(v)) for v in rng.integers(0, 900, count)],
        Color=rng.choice(["red", "blue", "dark blue", "a|b", "", None], count).tolist(),
        Code=[f"c{v}" for v in rng.zipf(1.5, count) % 400],
    )


@pytest.fixture(scope="module")
def schema(table):
    return Schema.infer(table, max_exact=100, bins=64, max_categories=20)


def sample(schema, table, conditions, count=400, seed=0):
    """Rows whose tokens are drawn from the table's own, weighted by what the conditions leave."""
    rng = np.random.default_rng(seed)
    allowed = compile_conditions(conditions, schema)
    codes = schema.encode(table)[rng.integers(0, len(table), count)]
    for index, left in allowed.items():
        counts = schema.columns[index].counts * left.weight
        codes[:, index] = rng.choice(len(counts), size=count, p=counts / counts.sum())
    return schema.decode(codes, rng, allowed)


@pytest.mark.parametrize(
    ("text", "column", "op", "values"),
    [
        ("Age>=30", "Age", ">=", ("30",)),
        ("Age >= 30", "Age", ">=", ("30",)),
        ("Day<2024-02-29", "Day", "<", ("2024-02-29",)),
        ("Color=red", "Color", "=", ("red",)),
        ("Color != red | blue", "Color", "!=", ("red", "blue")),
        ("Color=", "Color", "=", (None,)),
        ('Color=""', "Color", "=", ("",)),
        ('Color=|""|red', "Color", "=", (None, "", "red")),
        ('Color="a|b"|" c "', "Color", "=", ("a|b", " c ")),
        ('Note="say ""hi"""', "Note", "=", ('say "hi"',)),
        ("City=Paris, TX", "City", "=", ("Paris, TX",)),
        ("x=a=b", "x", "=", ("a=b",)),
        ('"a<b"=5', "a<b", "=", ("5",)),
    ],
)
def test_conditions_are_read(text, column, op, values):
    assert parse_condition(text) == Condition(column, op, values)


@given(
    st.text().filter(bool),
    st.sampled_from(["=", "!="]),
    st.lists(st.none() | st.text(), min_size=1).map(tuple),
)
@example("a!", "=", ("b", None))
def test_any_name_and_value_can_be_written(column, op, values):
    condition = Condition(column, op, values)
    assert parse_condition(str(condition)) == condition


@pytest.mark.parametrize(
    "text",
    ["Age", "", "=5", "Age>", "Age>old", "Age>1|2", 'Age>""', 'Color="red', 'Color="red"x', "Age<2024-02-30"],
)
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(UserError):
        parse_condition(text)


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ("x=5", [1, 1, 0, 0, 0, 0]),
        ("x!=5", [0, 0, 1, 1, 1, 1]),
        ("x<5", [0, 0, 1, 0, 0, 0]),
        ("x<=5", [1, 1, 1, 0, 0, 0]),
        ("x>-10", [1, 1, 1, 0, 0, 0]),
        ("x=", [0, 0, 0, 1, 0, 0]),
        ("x!=", [1, 1, 1, 0, 1, 1]),
        ('x=""|?', [0, 0, 0, 0, 1, 1]),
    ],
)
def test_matches(condition, met):
    table = table_of(x=["5", "5.0", "-9", None, "", "?"])
    assert matches([parse_condition(condition)], table).tolist() == list(map(bool, met))


def test_categories_match_by_their_text():
    table = table_of(x=["5", "5.0"])
    schema = Schema.infer(table, overrides={"x": "categorical"})
    assert matches([parse_condition("x=5")], table, schema).tolist() == [True, False]


@pytest.mark.parametrize(
    "conditions",
    [
        ["Income>20000"],
        ["Income<=0"],
        ["Income<=5000"],
        ["Income>=1000", "Income<1010"],
        ["Income=51234"],
        ["Income!=0"],
        ["Income=-9|0|51234"],
        ["Income<50000", "Income!=-9|0|20000"],
        ["Price>=99.995", "Price<100.5"],
        ["Price=120.5"],
        ["Price<3"],
        ["Tiny<5e-7"],
        ["Tiny>5.004e-7", "Tiny<5.012e-7"],
        ["Tiny=3.21e-7"],
        ["Float>0.25", "Float<=0.26", "Float!=0.255"],
        ["Float=0.12345"],
        ["Day>=2021-03-01", "Day<=2021-03-03"],
        ["Day=2021-05-05"],
        ["Day!=2021-05-05"],
        ["Age>=30", "Age<40", "Age!=33"],
        ["Color=", "Age>80"],
        ['Color=""|a|b'.replace("a|b", '"a|b"')],
        ["Color!="],
        ["Code=c1"],
        ["Code=c1|c57|c99"],
        ["Code!=c1|c2|c3|c57"],
    ],
    ids=" and ".join,
)
def test_every_decoded_row_matches(schema, table, conditions):
    conditions = [parse_condition(condition) for condition in conditions]
    made = sample(schema, table, conditions)
    assert matches(conditions, made, schema).all()
    assert matches(conditions, made).all()
    assert schema.validate(made) == []


@given(data=st.data())
def test_every_decoded_row_matches_any_numeric_condition(schema, table, data):
    column = data.draw(st.sampled_from(["Income", "Age", "Price", "Tiny", "Float", "Day"]))
    known = st.sampled_from(table.column(column).tolist())
    conditions = [
        Condition(column, data.draw(st.sampled_from(OPERATORS)), (data.draw(known),))
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    can_be_met = matches(conditions, table, schema).any()
    try:
        made = sample(schema, table, conditions, count=50)
    except UserError:
        assert not can_be_met
    else:
        assert matches(conditions, made, schema).all()
        assert schema.validate(made) == []


@pytest.mark.parametrize(
    "condition", ["Income<20000", "Price>=100", "Float<0.5", "Day>2021-01-01", "Age<30", "Code!=c1"]
)
def test_weights_are_the_share_of_rows_that_meet_the_condition(schema, table, condition):
    condition = parse_condition(condition)
    ((index, allowed),) = compile_conditions([condition], schema).items()
    assert allowed.weight.min() >= 0
    assert allowed.weight.max() <= 1
    counts = schema.columns[index].counts
    expected = matches([condition], table, schema).mean()
    assert (allowed.weight * counts).sum() / counts.sum() == pytest.approx(expected, abs=0.003)


def test_draws_within_a_bound_follow_the_column(schema, table):
    condition = parse_condition("Price>=100")
    made = sample(schema, table, [condition], count=4000).column("Price").astype(float)
    real = table.column("Price").astype(float)
    real = real[real >= 100]
    shares = [0.1, 0.25, 0.5, 0.75, 0.9]
    assert np.allclose(np.quantile(made, shares), np.quantile(real, shares), rtol=0.06)


def test_an_equality_keeps_the_number_asked_for(schema, table):
    for column, value in (
        ("Income", "51234"),
        ("Price", "120.50"),
        ("Tiny", "3.210e-07"),
        ("Float", "0.12345"),
    ):
        made = sample(schema, table, [parse_condition(f"{column}={value}")], count=20).column(column)
        assert {float(cell) for cell in made} == {float(value)}


def test_a_number_between_two_bins_can_be_asked_for():
    cells = [str(v) for v in range(100)] + [str(v) for v in range(9000, 9101)]
    table = table_of(x=cells)
    schema = Schema.infer(table, max_exact=10, bins=2)
    for conditions in (["x=500"], ["x>500", "x<510"], ["x>=8000", "x<8990"]):
        conditions = [parse_condition(condition) for condition in conditions]
        assert matches(conditions, sample(schema, table, conditions, count=50)).all()


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (["age>3"], 'no column "age"; did you mean "Age"'),
        (["Color=rad"], 'no value "rad"; did you mean "red"'),
        (["Color=red|rad"], 'no value "rad"'),
        (["Code=c"], '"Code" has no value "c"'),
        (["Color<5"], '"Color" is categorical and has no order'),
        (["Age=17"], 'no value "17"; the nearest is 18, the range 18 to 89'),
        (["Age=30.5"], 'no value "30.5"'),
        (["Age=young"], 'no value "young"'),
        (["Age="], 'no cell of "Age" is missing'),
        (["Income=99999999999"], 'no value "99999999999"; the nearest is'),
        (["Price=10.005"], 'no value "10.005"'),
        (["Age>200"], 'no value of "Age" meets Age>200; it runs from 18 to 89'),
        (["Age>1e300"], 'no value of "Age" meets'),
        (["Income>1e308"], 'no value of "Income" meets'),
        (["Price<-1e308"], 'no value of "Price" meets'),
        (["Age>40", "Age<30"], 'no value of "Age" meets Age>40 and Age<30'),
        (["Income>20000", "Income<20001"], 'no value of "Income" meets'),
        (["Color=red", "Color!=red"], 'no value of "Color" meets'),
        (["Day>5"], '"Day" is date, so a date was wanted'),
        (["Age>2020-01-01"], '"Age" is integer, so a number was wanted'),
    ],
)
def test_what_no_row_can_meet_is_refused(schema, conditions, message):
    with pytest.raises(UserError) as caught:
        compile_conditions([parse_condition(condition) for condition in conditions], schema)
    assert message in str(caught.value)
