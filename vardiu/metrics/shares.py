r"""How many of some shares reach a threshold, with the standard error of that number."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["reaching"]


# Shares that a true one is sought among, evenly spaced in their root, in which counts have the
# same deviation everywhere; and updates of their weights, after which errors stay to 2 %.
GRID, UPDATES = 200, 100


def reaching(share: Tensor, n: int, threshold: float) -> tuple[float, float]:
    r"""Returns the number of shares of at least a threshold, and its standard error.

    The error is that of fresh samples,

    .. math:: \mathrm{error}^2 = \sum_i \mathbb{E} \big[ q(p_i) (1 - q(p_i)) \mid c_i \big], \qquad
        q(p) = P(\mathrm{Bin}(n, p) \geq t n),

    with the true share :math:`p_i` given its count :math:`c_i` under the distribution of shares
    that is likeliest for all counts, by expectation maximisation on a grid. The counts alone,
    :math:`p_i = c_i / n`, tell more spread of the true shares than there is: of 40 even ones they
    state 1.4, 2.6 and 5 times the spread of fresh draws of 100, 400 and 1,000 samples, this 1.1,
    1.2 and 1.6 times. It is an upper limit where that spread is below a third of one: there it was
    1.4 times it and more.

    References:
        | Consistency of the Maximum Likelihood Estimator in the Presence of Infinitely Many
        | Incidental Parameters (Kiefer and Wolfowitz, 1956), https://doi.org/10.1214/aoms/1177728066

    Arguments:
        share: The shares that were counted, with shape `(M,)`.
        n: The number of samples.
        threshold: The threshold :math:`t`.
    """
    count = (share.double() * n).round()
    least = max(0, math.ceil(threshold * n - 1e-9))
    grid = torch.linspace(0, math.sqrt(share.max().item()), GRID, dtype=torch.float64).square()
    q = _reaches(grid, n, least)
    likely = _log_binomial(count[:, None], n, grid)
    likely = (likely - likely.amax(1, keepdim=True)).exp()
    weights = torch.full_like(grid, 1 / GRID)
    for _ in range(UPDATES):
        weights = _posterior(weights, likely).mean(0)
    variance = _posterior(weights, likely) @ (q * (1 - q))
    return float((count >= least).sum()), variance.sum().clamp_min(0).sqrt().item()


def _posterior(weights: Tensor, likely: Tensor) -> Tensor:
    r"""Returns the probability of each share of the grid given each count, `(M, GRID)`."""
    joint = weights * likely
    return joint / joint.sum(1, keepdim=True)


def _reaches(p: Tensor, n: int, least: int) -> Tensor:
    r"""Returns the probability of a count of at least so many, of each share, `(GRID,)`."""
    below = torch.arange(least, dtype=torch.float64)
    ways = math.lgamma(n + 1) - (below + 1).lgamma() - (n - below + 1).lgamma()
    log_mass = ways + _log_binomial(below, n, p[:, None])
    return (1 - log_mass.exp().sum(1)).clamp(0, 1)


def _log_binomial(count: Tensor, n: int, p: Tensor) -> Tensor:
    r"""Returns the logarithm of the binomial's mass, but for the number of ways."""
    return torch.xlogy(count, p) + torch.special.xlog1py(n - count, -p)
