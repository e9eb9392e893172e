r"""Sums, products and distances of rows."""

from __future__ import annotations

import math
from collections.abc import MutableMapping

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = [
    "covariance",
    "dot",
    "expand_like",
    "lattice_normal",
    "log_sum_exp",
    "pairwise_square",
    "placed",
    "scale_gradient",
    "sent",
]


def sent(x: Tensor, device: torch.device | str) -> Tensor:
    r"""Returns a tensor on a device; to a CUDA device it is copied from page-locked memory, and
    the host does not wait."""
    if x.device.type == "cpu" and torch.device(device).type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


# Of constants, what they are on the devices and in the types that they were asked for in.
PLACED: MutableMapping[Tensor, dict[tuple[torch.device, torch.dtype], Tensor]]
PLACED = WeakTensorKeyDictionary()


def placed(constant: Tensor, like: Tensor) -> Tensor:
    r"""Returns a tensor of the host that never changes on the device and in the type of another
    one. It is sent there once, and kept as long as the constant is.

    Example:
        >>> placed(torch.ones(2), torch.zeros(3, dtype=torch.float64)).dtype
        torch.float64
    """
    if constant.device == like.device:
        return constant.to(like.dtype)
    there = PLACED.setdefault(constant, {})
    key = like.device, like.dtype
    if key not in there:
        there[key] = sent(constant.detach().to(like.dtype), like.device)
    return there[key]


def expand_like(a: Tensor, x: Tensor) -> Tensor:
    r"""Appends singleton dimensions to `a`, shape `(B,)`, until it broadcasts with `x`, `(B, *)`.

    Example:
        >>> expand_like(torch.ones(4), torch.ones(4, 3, 8, 8)).shape
        torch.Size([4, 1, 1, 1])
    """
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim))


def dot(a: Tensor, b: Tensor) -> Tensor:
    r"""Returns the inner product of each pair of rows, with shape `(B,)`."""
    return (a * b).flatten(1).sum(dim=1)


def pairwise_square(x: Tensor, y: Tensor) -> Tensor:
    r"""Returns squared Euclidean distances between rows, `(N, d), (M, d) -> (N, M)`.

    In few dimensions the differences are summed directly: the expansion
    :math:`\|x\|^2 + \|y\|^2 - 2 \langle x, y \rangle` is faster only where a matrix product is,
    and cancels where :math:`x \approx y`; it is clamped at zero. It is taken about the mean of
    :math:`y`, so that it cancels no more where both are far from the origin.
    """
    if x.shape[-1] <= 4:
        # One coordinate after the other, each contiguous: strided ones are not vectorised.
        columns = zip(x.T.contiguous(), y.T.contiguous(), strict=True)
        differences = (a[:, None] - b for a, b in columns)
        total = next(differences).square_()
        for difference in differences:
            total = total.addcmul_(difference, difference)
        return total
    with torch.autocast(x.device.type, enabled=False):
        centre = y.detach().mean(0)
        x, y = x - centre, y - centre
        square = x.square().sum(-1)[:, None] + y.square().sum(-1)[None, :]
        return torch.addmm(square, x, y.T, alpha=-2.0).clamp_min(0.0)


# Dimensions in which a lattice of a batch's size is spread evenly, see `lattice_normal`.
LATTICE_DIMENSIONS = 3


def lattice_normal(shift: Tensor, n: int) -> Tensor:
    r"""Returns `n` points that are each standard normal, and together evenly spread, `(n, k)`.

    .. math:: z_i = \Phi^{-1} \big( (s + i \alpha) \bmod 1 \big), \qquad
        \alpha_j = \phi_k^{-j}, \quad \phi_k^{k + 1} = \phi_k + 1

    a Kronecker sequence with the generalised golden ratio, moved by one uniform shift. It is for
    few dimensions, up to `LATTICE_DIMENSIONS`: :math:`1 - \alpha_1` is about
    :math:`\log 2 / k`, and fewer points than :math:`k` lie side by side; beyond, see
    `stratified_normal`.

    References:
        | The Unreasonable Effectiveness of Quasirandom Sequences (Roberts, 2018)
        | Randomization of Number Theoretic Methods for Multiple Integration (Cranley and
        | Patterson, 1976), https://doi.org/10.1137/0713071

    Arguments:
        shift: The shift :math:`s`, uniform in [0, 1), with shape :math:`(k)`.
        n: The number of points.
    """
    k = len(shift)
    phi = 2.0
    for _ in range(64):
        phi = (1 + phi) ** (1 / (k + 1))
    powers = torch.arange(1, k + 1, device=shift.device, dtype=torch.float64)
    index = torch.arange(n, device=shift.device, dtype=torch.float64)[:, None]
    u = (shift.double() + index * phi**-powers) % 1.0
    # Both ends are out of reach of a normal's quantile function.
    return torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12)).to(shift.dtype)


def stratified_normal(uniform: Tensor, shift: Tensor) -> Tensor:
    r"""Returns `n` points that are each standard normal, and evenly spread in each dimension by
    itself, `(n, k)`: a Latin hypercube.

    .. math:: z_{ij} = \Phi^{-1} \Big( \frac{\pi_j(i) + s_j}{n} \Big)

    with an independent permutation :math:`\pi_j` of each dimension. In many dimensions a lattice
    spreads no better, and the ratio of its first dimension is so near to one that its points
    hardly move along it, see `lattice_normal`.

    References:
        | A Comparison of Three Methods for Selecting Values of Input Variables in the Analysis of
        | Output from a Computer Code (McKay, Beckman and Conover, 1979)

    Arguments:
        uniform: Uniform numbers, whose order in each column is its permutation, `(n, k)`.
        shift: The places :math:`s` in the cells, uniform in [0, 1), with shape :math:`(k)`.
    """
    cells = uniform.argsort(dim=0).double()
    u = (cells + shift.double()) / len(uniform)
    return torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12)).to(shift.dtype)


def covariance(x: Tensor) -> Tensor:
    r"""Returns the covariance of rows `(N, d)` over :math:`N - 1`, with shape `(d, d)`; of one
    column too, whose covariance is a scalar in torch."""
    centred = x - x.mean(0)  # torch's own looks at a number, and waits for an accelerator
    return centred.T @ centred / (len(x) - 1)


def scale_gradient(x: Tensor, factor: Tensor) -> Tensor:
    r"""Returns `x`; its gradient is multiplied by a factor for each row, `(B,)`."""
    factor = expand_like(factor, x)
    return factor * x + (x - factor * x).detach()


def log_sum_exp(exponents: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns the log-sum-exp of each row `(B,)`, and the softmax `(B, N)`.

    The softmax's kernel flushes what underflows; `torch.exp` takes some ten times longer there,
    and nearly all components of a mixture underflow at small noise. Rows of :math:`-\infty` have
    the value :math:`-\infty` and a softmax of zeros.
    """
    peak = exponents.amax(dim=1)
    share = exponents.softmax(dim=1)
    # The largest share is at least 1 / N: its logarithm is exact to rounding.
    value = peak - share.amax(dim=1).log()
    empty = peak == -math.inf
    # A GPU would make the host wait for the answer.
    if empty.device.type != "cpu" or bool(empty.any()):
        share = share.masked_fill(empty[:, None], 0.0)
        value = value.masked_fill(empty, -math.inf)
    return value, share
