import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from disc_train.text import TextError, row_to_text, text_to_row
from trainworks.console import UserError

hostile = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from([" is ", ", ", "is", "missing", '"', "\\", " ", ",", "a", "\n", "\u2028", "é", "\ud800"])
    ).map("".join),
    st.sampled_from(["", "007", "1e5", "-9", "null", "None", " is ", ", ", "a, b is c", "\r\n", "x is", "is x"]),
)
rows = st.dictionaries(hostile.filter(bool), st.none() | hostile, min_size=1, max_size=5)


def test_reads_as_a_sentence():
    names = ["RiskPerformance", "ExternalRiskEstimate", "Note"]
    text = row_to_text(names, ["Bad", "55", None])
    assert text == "RiskPerformance is Bad, ExternalRiskEstimate is 55, Note is missing"


@given(rows)
@example({"a": "missing", "b": None, "c": ""})
@example({"a is": "is b", "a": "is", "b,": "c,"})
@example({"a": "x, b is y", " b ": " y "})
def test_every_row_comes_back_exactly(row):
    text = row_to_text(list(row), list(row.values()))
    assert text_to_row(text) == row
    assert list(text_to_row(text)) == list(row)


@given(rows)
def test_a_row_is_one_printable_line(row):
    assert row_to_text(list(row), list(row.values())).isprintable()


def test_clauses_come_in_any_order():
    assert text_to_row('b is "x, y", a is 1') == {"a": "1", "b": "x, y"}


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("", 0),
        ("Age", 0 + 3),
        ("Age is ", 7),
        ("Age is 5, ", 10),
        ("Age is 5, Age is 6", 10),
        ('Age is "5', 7),
        ('Age is "5"x', 10),
        ("Age is 5 is 6", 7),
        ('"Age"is 5', 5),
        ("Age is a\nb", 7),
    ],
)
def test_malformed_text_is_refused_with_its_position(text, position):
    with pytest.raises(TextError) as caught:
        text_to_row(text)
    assert caught.value.position == position
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, ValueError)
    assert f"at character {position + 1}" in str(caught.value)
