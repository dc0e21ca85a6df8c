"""
Histograms of durations in a few numbers: every power of two is cut into eight buckets of the same width, so that a
percentile read from them is wrong by a sixteenth at most. Below 16 ms they are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Final

#: Buckets that a power of two is cut into.
_CUTS: Final = 8
_CUT_BITS: Final = _CUTS.bit_length()
#: Enough for every duration of 31 bits.
MAX_BUCKETS: Final = (31 - _CUT_BITS + 2) * _CUTS


def bucket_of(value: int) -> int:
    """The bucket that counts `value`, 0 or more."""
    shift = max(0, value.bit_length() - _CUT_BITS)
    return shift * _CUTS + (value >> shift)


def middle_of(bucket: int) -> float:
    """The value that stands for all of the bucket's."""
    shift = max(0, bucket // _CUTS - 1)
    return ((bucket - shift * _CUTS) << shift) + ((1 << shift) - 1) / 2


def add_values(counts: dict[str, int], values: Mapping[int, int]) -> None:
    """Count values, given as {value: how often}, in `counts`: {bucket as text: how often}."""
    for value, times in values.items():
        bucket = str(bucket_of(value))
        counts[bucket] = counts.get(bucket, 0) + times


def percentiles(counts: Mapping[str, int], wanted: Iterable[float]) -> list[float | None]:
    """For each share from 0 to 1 the value that so many of the counted ones do not exceed; None where none is."""
    buckets = sorted((int(bucket), times) for bucket, times in counts.items() if bucket.isdecimal() and times > 0)
    total = sum(times for _, times in buckets)
    return [_ranked(buckets, max(1, math.ceil(share * total))) if total else None for share in wanted]


def _ranked(buckets: list[tuple[int, int]], rank: int) -> float:
    reached = accumulate(times for _, times in buckets)
    return next(middle_of(bucket) for (bucket, _), upto in zip(buckets, reached, strict=True) if upto >= rank)
