"""Histograms of durations with fixed buckets: two for each power of two, from 1 us on.

Fixed, so that those of all workers, minutes and queues can be added. A quantile is known to
within its bucket (its bounds are a factor of 1.33 or 1.5 apart) and is read by interpolation.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import frexp, ldexp

LAST = 95
"""The bucket of everything longer: about 8.5 years."""
_ZERO = 39
"""Bucket 0 has what is shorter than 2**-20 s, about 1 us."""


def bucket(seconds: float) -> int:
    """The bucket of a duration."""
    if seconds <= 0.0:
        return 0
    mantissa, exponent = frexp(seconds)  # 0.5 <= mantissa < 1
    found = 2 * exponent + _ZERO + (mantissa >= 0.75)
    # called for each job, and min() costs more than all the rest
    return 0 if found < 0 else found if found < LAST else LAST  # noqa: FURB136 (see above)


def bounds(number: int) -> tuple[float, float]:
    """From and to of a bucket, in seconds; the last is open and given a width of its own."""
    if number <= 0:
        return 0.0, ldexp(1.0, -20)
    exponent, half = divmod(number - _ZERO, 2)
    low = ldexp(0.75 if half else 0.5, exponent)
    return low, ldexp(1.0 if half else 0.75, exponent)


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """The duration below which `share` of all are; None where there are none.

    Args:
        counts: how many in each bucket.
        share: 0.95 for p95.
    """
    total = sum(counts.values())
    if total <= 0:
        return None
    rank, below = share * total, 0
    low = high = 0.0
    for number in sorted(counts):
        n = counts[number]
        if n <= 0:
            continue
        low, high = bounds(number)
        if below + n >= rank:
            return low + (high - low) * max(rank - below, 0.0) / n
        below += n
    return high
