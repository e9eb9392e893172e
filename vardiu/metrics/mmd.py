r"""Maximum mean discrepancy with a mixture of Gaussian kernels.

.. math:: \mathrm{MMD}^2 = \mathbb{E} \, k(x, x') + \mathbb{E} \, k(y, y') - 2 \, \mathbb{E} \,
    k(x, y), \qquad k(x, y) = \frac1H \sum_h \exp \left( - \frac{\| x - y \|^2}{2 h^2} \right)

References:
    | A Kernel Two-Sample Test (Gretton et al., 2012)
    | https://jmlr.org/papers/v13/gretton12a.html
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..functional.tensors import pairwise_square
from .metric import Metric, check_pair, fingerprint

__all__ = ["PAPER_BANDWIDTHS", "mmd2", "mmd2_biased", "mmd2_unbiased"]


# VarDiU (Wang et al., 2025): 1/4, 1/2, 1, 2, 4, averaged.
PAPER_BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


class _Means(NamedTuple):
    r"""Row means of the three kernel matrices; the diagonals of the first two are ones."""

    xx: Tensor
    yy: Tensor
    xy: Tensor
    yx: Tensor


def _kernel(x: Tensor, y: Tensor, bandwidths: Sequence[float]) -> Tensor:
    # Distances in float64 are slow, and float32 is precise enough: terms are of order one, and
    # their sums are taken in float64. Below -80 an exponential is nothing, and slow to compute.
    square = pairwise_square(x.float(), y.float())
    total, term, last = torch.zeros_like(square), square, math.inf
    for h in sorted(bandwidths, reverse=True):
        # Of half the bandwidth a Gaussian is the fourth power: two products, no exponential.
        if h * 2 == last:
            term = term.square_().square_()
        else:
            term = (square / (-2 * h * h)).clamp_min_(-80.0).exp_()
        total += term
        last = h
    return total.div_(len(bandwidths))


def _means(x: Tensor, y: Tensor, bandwidths: Sequence[float]) -> _Means:
    if not bandwidths or min(bandwidths) <= 0:
        raise ValueError(f"bandwidths must be positive, got {list(bandwidths)}")
    shift = y.mean(0)  # float32 is most precise about the origin
    x, y = x - shift, y - shift
    xx, yy = torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(y), dtype=torch.float64)
    xy, yx = torch.zeros_like(xx), torch.zeros_like(yy)
    size = 64  # of rows: what a block takes stays in the cache
    for i in range(0, len(x), size):
        rows = slice(i, i + size)
        xx[rows] = _kernel(x[rows], x, bandwidths).sum(1, dtype=torch.float64)
        cross = _kernel(x[rows], y, bandwidths)
        xy[rows] = cross.sum(1, dtype=torch.float64)
        yx += cross.sum(0, dtype=torch.float64)
    for i in range(0, len(y), size):
        yy[i : i + size] = _kernel(y[i : i + size], y, bandwidths).sum(1, dtype=torch.float64)
    return _Means(xx / len(x), yy / len(y), xy / len(y), yx / len(x))


def _error(means: _Means) -> float:
    r"""Returns the standard error by the first-order projection of the statistic.

    Where both distributions are equal that projection vanishes, and the spread is of the second
    order: about the value that two true samples have.
    """
    n, m = len(means.xx), len(means.yy)
    first = (means.xx - means.xy).var() / n + (means.yy - means.yx).var() / m
    return 2 * math.sqrt(first.item())


def mmd2(
    x: Tensor, y: Tensor, bandwidths: Sequence[float] = PAPER_BANDWIDTHS
) -> tuple[Metric, Metric]:
    r"""Returns the biased and the unbiased MMD^2, from one pass over the pairs.

    Arguments:
        x: The samples to measure, with shape :math:`(N, d)`.
        y: The reference, with shape :math:`(M, d)`.
        bandwidths: The kernels' standard deviations :math:`h`.
    """
    x, y = check_pair(x, y, ("x", "y"))
    means = _means(x, y, bandwidths)
    n, m = len(x), len(y)
    cross = 2 * means.xy.mean()
    biased = means.xx.mean() + means.yy.mean() - cross
    within_x = (means.xx.mean() * n - 1) / (n - 1)
    within_y = (means.yy.mean() * m - 1) / (m - 1)
    unbiased = within_x + within_y - cross
    kernels = "Gaussian kernels of bandwidth " + ", ".join(f"{h:g}" for h in bandwidths)
    about = (_error(means), n, False)
    return (
        Metric("mmd2", biased.item(), *about, f"V-statistic, {kernels}", fingerprint(y)),
        Metric(
            "mmd2_unbiased", unbiased.item(), *about, f"U-statistic, {kernels}", fingerprint(y)
        ),
    )


def mmd2_biased(x: Tensor, y: Tensor, bandwidths: Sequence[float] = PAPER_BANDWIDTHS) -> Metric:
    r"""Returns the paper's MMD^2: the V-statistic, whose diagonal counts.

    It is positive also between two samples of one distribution, by about :math:`(1/N + 1/M)
    (1 - \mathbb{E} k)`: report that value beside it. The arguments are those of `mmd2`.
    """
    return mmd2(x, y, bandwidths)[0]


def mmd2_unbiased(x: Tensor, y: Tensor, bandwidths: Sequence[float] = PAPER_BANDWIDTHS) -> Metric:
    r"""Returns the unbiased MMD^2, without the diagonals; zero on average for equal ones.

    The arguments are those of `mmd2`.
    """
    return mmd2(x, y, bandwidths)[1]
