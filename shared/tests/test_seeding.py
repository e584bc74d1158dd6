from hypothesis import given
from hypothesis import strategies as st

from trainworks.seeding import derive, rng

names = st.lists(st.text() | st.integers(0, 2**63), max_size=3)


def test_streams_are_the_same_on_every_machine() -> None:
    assert derive(0) == 7520536977032167579
    assert derive(7, "shuffle", 3) == 3953047641349359093
    assert rng(7, "shuffle", 3).integers(1000, size=3).tolist() == [894, 305, 653]


@given(st.integers(0, 2**63), names, names)
def test_other_names_are_other_streams(seed: int, a: list[str | int], b: list[str | int]) -> None:
    assert (derive(seed, *a) == derive(seed, *b)) == (a == b)
    assert 0 <= derive(seed, *a) < 2**63


def test_a_number_and_its_text_are_two_names() -> None:
    assert derive(0, 1) != derive(0, "1")
    assert derive(0, "a", "b") != derive(0, "ab")
