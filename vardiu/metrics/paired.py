r"""Differences over common seeds, with their interval.

Of differences :math:`d_1, \dots, d_n` the mean has the interval

.. math:: \bar d \pm t_{n - 1, 0.975} \, \frac{s}{\sqrt n},

:math:`s` their standard deviation and :math:`t` the quantile of Student's distribution. It covers
the expected difference with a probability of 0.95 where the differences are normal.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import NamedTuple

from scipy.stats import t as student_t

__all__ = ["Paired", "paired"]


class Paired(NamedTuple):
    r"""The mean difference of a metric that is to be low.

    Arguments:
        seeds: The number of common seeds.
        mean: The mean difference; NaN without common seeds, or where a value is not finite.
        half: Half of its 95 % interval; infinite of fewer than two seeds, and where the mean is
            not a number.
    """

    seeds: int
    mean: float
    half: float

    @property
    def verdict(self) -> str:
        r"""`better` or `worse` where the interval leaves out zero, else `undecided`."""
        if self.mean + self.half < 0:
            return "better"
        return "worse" if self.mean - self.half > 0 else "undecided"


def paired(mine: Mapping[int, float], theirs: Mapping[int, float]) -> Paired:
    r"""Returns the difference of two arms, each a value for each of its seeds."""
    found = [mine[seed] - theirs[seed] for seed in sorted(set(mine) & set(theirs))]
    n = len(found)
    if not all(map(math.isfinite, found)):
        return Paired(n, math.nan, math.inf)
    mean = statistics.fmean(found) if found else math.nan
    half = math.inf
    if n > 1:
        half = float(student_t.ppf(0.975, n - 1)) * statistics.stdev(found) / math.sqrt(n)
    return Paired(n, mean, half)
