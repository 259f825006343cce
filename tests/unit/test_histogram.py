"""Histograms of durations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.histogram import LAST, bounds, bucket, quantile


@given(st.floats(min_value=0, max_value=2e8))
def test_a_duration_lies_within_the_bounds_of_its_bucket(seconds: float):
    low, high = bounds(bucket(seconds))
    assert low <= seconds < high


def test_buckets_touch_and_grow():
    for number in range(LAST):
        assert bounds(number)[1] == bounds(number + 1)[0]
    assert [bucket(seconds) for seconds in (-1.0, 0.0, 1e-9, 1e30)] == [0, 0, 0, LAST]


@given(st.lists(st.floats(min_value=1e-5, max_value=1e4), min_size=1, max_size=300))
def test_a_quantile_is_right_to_within_its_bucket(values: list[float]):
    counts: dict[int, int] = {}
    for value in values:
        counts[bucket(value)] = counts.get(bucket(value), 0) + 1
    values.sort()
    for share in (0.5, 0.95, 0.99, 1.0):
        exact = values[max(round(share * len(values) + 0.499999) - 1, 0)]
        low, high = bounds(bucket(exact))
        found = quantile(counts, share)
        assert found is not None
        assert low <= found <= high


@pytest.mark.parametrize("empty", [{}, {3: 0}])
def test_of_nothing_there_is_none(empty: dict[int, int]):
    assert quantile(empty, 0.5) is None
