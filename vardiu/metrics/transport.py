r"""Wasserstein distances, by POT."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .metric import Metric, check_pair, fingerprint

__all__ = ["wasserstein2_exact", "wasserstein2_sliced"]


def wasserstein2_exact(x: Tensor, y: Tensor) -> Metric:
    r"""Returns the 2-Wasserstein distance of two samples, by linear programming.

    It is biased upward, most in high dimension: compare it with the value of two true samples.

    Arguments:
        x: The samples to measure, with shape :math:`(N, d)`; a few thousand at most.
        y: The reference, with shape :math:`(M, d)`.

    Raises:
        ImportError: POT is not installed.
    """
    x, y = check_pair(x, y, ("x", "y"))
    try:
        import ot
    except ImportError as error:
        raise ImportError("exact transport needs POT: pip install 'vardiu[metrics]'") from error
    cost = ot.dist(x.numpy(), y.numpy())
    value = math.sqrt(max(float(ot.emd2([], [], cost, numItermax=2_000_000)), 0.0))
    note = "no error: the plan's spread needs repeated samples"
    return Metric("wasserstein2", value, None, len(x), False, note, fingerprint(y))


def wasserstein2_sliced(
    x: Tensor, y: Tensor, *, projections: int = 256, generator: torch.Generator | None = None
) -> Metric:
    r"""Returns the sliced 2-Wasserstein distance of two samples.

    .. math:: \left( \mathbb{E}_u \, W_2^2(\langle u, x \rangle, \langle u, y \rangle)
        \right)^{1/2}

    with :math:`u` uniform on the sphere. In one dimension transport is a sort. Its standard error
    is that of fresh directions and of fresh samples of both sets, by the first-order influence of
    a sample. Where both distributions are equal that vanishes, and the error says nothing.

    References:
        | Sliced and Radon Wasserstein Barycenters of Measures (Bonneel et al., 2015)
        | https://doi.org/10.1007/s10851-014-0506-3

    Arguments:
        x: The samples to measure, with shape :math:`(N, d)`.
        y: The reference, with shape :math:`(M, d)`.
        projections: The number of directions :math:`u`.
        generator: The source of the directions.
    """
    x, y = check_pair(x, y, ("x", "y"))
    u = torch.randn(x.shape[1], projections, generator=generator, dtype=torch.float64)
    u = u / u.norm(dim=0)
    # Each set is projected and sorted once: that takes longer than all the rest.
    (a, first), (b, second) = _sorted(x @ u), _sorted(y @ u)
    variance = _influence(a, b, first).var().item() / len(x)
    variance += _influence(b, a, second).var().item() / len(y)
    squares = _mean_square(a, b)
    value = squares.mean().sqrt().item()
    variance += squares.var().item() / projections
    # That of a root, by its derivative.
    error = math.sqrt(variance) / (2 * max(value, 1e-12))
    note = f"{projections} directions"
    return Metric("sliced_wasserstein2", value, error, len(x), False, note, fingerprint(y))


def _mean_square(a: Tensor, b: Tensor) -> Tensor:
    r"""Returns the squared 2-Wasserstein distance of each column, `(P,)`: the integral of the
    squared difference of both quantile functions, which are steps.

    Arguments:
        a: Sorted columns, with shape :math:`(N, P)`.
        b: Others, with shape :math:`(M, P)`.
    """
    n, m = len(a), len(b)
    if n == m:
        return (a - b).square().mean(dim=0)
    # In units of 1 / (N M) both functions step at whole numbers.
    cuts = torch.cat([torch.arange(n + 1) * m, torch.arange(m + 1) * n]).unique()
    width, start = cuts.diff().double() / (n * m), cuts[:-1]
    rows = zip(a.split(32, dim=1), b.split(32, dim=1), strict=True)
    return torch.cat([width @ (x[start // m] - y[start // n]).square() for x, y in rows])


def _sorted(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns columns in ascending order, and from where in its column each value comes."""
    # In memory a column's values lie beside each other: several times as fast.
    values, order = x.T.contiguous().sort()
    return values.T.contiguous(), order.T.contiguous()


def _influence(x: Tensor, y: Tensor, order: Tensor) -> Tensor:
    r"""Returns what each row of the samples adds to the mean squared distance to others, `(N,)`.

    .. math:: \varphi(x) = \int^x 2 \, (s - T(s)) \, \mathrm{d}s

    in each column, with the optimal map :math:`T`: the derivative of the squared distance with
    respect to the distribution. The mean over columns is taken.

    References:
        | Optimal Transport for Applied Mathematicians (Santambrogio, 2015), Proposition 7.17

    Arguments:
        x: Projections of the samples, each column sorted, with shape :math:`(N, P)`.
        y: Those of the other set, sorted too, with shape :math:`(M, P)`.
        order: The row of the samples that each of `x` is of, with shape :math:`(N, P)`.
    """
    places = (torch.arange(len(x)) + 0.5) * len(y) / len(x)
    gaps = x - y[places.long()]
    steps = (gaps[1:] + gaps[:-1]) * x.diff(dim=0)
    potential = torch.cat([torch.zeros_like(x[:1]), steps.cumsum(0)])
    return torch.empty_like(potential).scatter_(0, order, potential).mean(1)
