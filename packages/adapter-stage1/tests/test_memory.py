import pytest

from adapter_stage1.memory import largest_batch


@pytest.mark.parametrize(("most", "limit", "found"), [(5, 16, 4), (16, 16, 16), (100, 12, 12), (0, 16, 1), (11, 12, 8)])
def test_batches_grow_until_one_does_not_fit(most, limit, found):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= most

    assert largest_batch(fits, limit) == found
    assert max(tried, default=1) <= limit
