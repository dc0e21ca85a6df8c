"""Percentiles that come from a histogram of few numbers."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from app.histograms import MAX_BUCKETS, add_values, bucket_of, middle_of, percentiles

SHARES = (0.0, 0.5, 0.95, 0.99, 1.0)


def counted(values: list[int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    add_values(counts, Counter(values))
    return counts


def test_buckets_follow_each_other_and_their_middle_is_near_every_value_in_them() -> None:
    values = [*range(5000), *(2**power + offset for power in range(13, 31) for offset in (-1, 0, 1)), 2**31 - 1]
    buckets = [bucket_of(value) for value in values]

    assert all(after - before in (0, 1) for before, after in zip(buckets[:5000], buckets[1:5000], strict=False))
    assert sorted(buckets) == buckets
    assert buckets[-1] == MAX_BUCKETS - 1
    for value, bucket in zip(values, buckets, strict=True):
        assert abs(middle_of(bucket) - value) <= value / 16


@pytest.mark.parametrize("spread", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("count", [1, 2, 19, 1000])
def test_percentiles_are_right_within_a_sixteenth(spread: float, count: int) -> None:
    draw = random.Random(count)
    values = sorted(int(draw.lognormvariate(6, spread)) for _ in range(count))

    for share, found in zip(SHARES, percentiles(counted(values), SHARES), strict=True):
        exact = values[max(0, -int(-share * count // 1) - 1)]
        assert found == pytest.approx(exact, rel=1 / 16)


def test_small_numbers_are_exact() -> None:
    assert percentiles(counted([1, 2, 3, 4, 15]), (0.5, 1.0)) == [3, 15]


def test_nothing_counted_has_no_percentile() -> None:
    assert percentiles({}, (0.5, 0.95)) == [None, None]
    assert percentiles({"5": 0, "damaged": 3}, (0.5,)) == [None]
