r"""Samples of a product: what the teacher makes, times a Gaussian around a given point.

.. math:: r(y \mid x) = \frac{p(y) \, \mathcal{N}(x; y, \lambda^2 I)}{p_\lambda(x)}, \qquad
    \mathbb{E}_r[y] - x = \lambda^2 \, \nabla \log p_\lambda(x) = D(x, \lambda) - x
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from ..functional.tensors import expand_like, sent
from ..functional.trajectories import step
from .trajectories import require_decreasing

__all__ = ["attracted", "product_sample"]


def attracted(
    z: Tensor, x: Tensor, sigma: Tensor, target: Tensor, width: float | Tensor
) -> Tensor:
    r"""Returns what the pull of the kernel makes of states between two levels, exactly.

    .. math:: z' = x + (z - x) \exp \Big( -\frac{\sigma^2 - \sigma'^2}{2 \lambda^2} \Big)

    the solution of :math:`\mathrm{d} z = -(x - z) / \lambda^2 \, \sigma \, \mathrm{d} \sigma`
    from :math:`\sigma` down to :math:`\sigma'`; an explicit step of it diverges.

    Arguments:
        z: The states, with shape :math:`(B, *)`.
        x: The points that pull, with the same shape.
        sigma: The level from which, with shape :math:`(B)`.
        target: The level to which, with shape :math:`(B)`.
        width: The kernel's standard deviation :math:`\lambda`, a number or one a row.
    """
    if isinstance(width, Tensor):
        width = sent(width.to(x.dtype), x.device)
    passed = (sigma.square() - target.square()) / (2 * width**2)
    return x + expand_like((-passed).exp(), x) * (z - x)


@torch.no_grad()
def product_sample(
    denoiser: Callable[..., Tensor],
    x: Tensor,
    z: Tensor,
    sigmas: Tensor,
    width: float | Tensor,
    *,
    low: float = 0.0,
    high: float = float("inf"),
    **cond: Tensor,
) -> Tensor:
    r"""Returns samples of the product density around points, `(B, *)`, one call a level.

    A step of the probability-flow equation, and after it the pull of the kernel (`attracted`). It
    is not exact: the kernel that belongs to a noisy state is another one. At small
    :math:`\lambda` nothing is left of where the state starts, and the sample is near to the mean.

    References:
        | Mean-Shift Distillation for Diffusion Mode Seeking (Thamizharasan et al., 2025)
        | https://arxiv.org/abs/2502.15989

    Arguments:
        denoiser: The denoiser :math:`D(x_t, \sigma)`, with levels of shape :math:`(B)`.
        x: The points, clean, with shape :math:`(B, *)`.
        z: Standard normal noise to start from, with the same shape.
        sigmas: The levels, decreasing, with shape :math:`(N + 1)`; the last may be zero.
        width: The kernel's standard deviation :math:`\lambda`, a number or one a row.
        low: The kernel pulls in steps that end at this level or above,
        high: and begin at this one or below.
        cond: The denoiser's conditions.

    Raises:
        ValueError: The levels do not decrease, or the width is not positive.
    """
    require_decreasing(sigmas)
    if not bool((torch.as_tensor(width) > 0).all()):
        raise ValueError(f"the kernel's width must be positive, got {width}")
    known = sigmas.to(x.dtype)
    levels, ends = sent(known, x.device), list(itertools.pairwise(known.tolist()))
    state = levels[0] * z
    for i, (here, there) in enumerate(ends):
        sigma, target = (level.expand(len(x)) for level in levels[i : i + 2])
        state = step(state, sigma, target, denoiser(state, sigma, **cond))
        if low <= there and here <= high:
            state = attracted(state, x, sigma, target, width)
    return state
