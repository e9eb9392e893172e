r"""The generalised energy distance of two laws, from paired rows of both."""

from __future__ import annotations

import torch
from torch import Tensor

from .tensors import pairwise_square

__all__ = ["energy_distance"]


def energy_distance(
    x: Tensor,
    y: Tensor,
    same: Tensor | None = None,
    *,
    exponent: float = 1.0,
    softness: float = 1e-3,
) -> Tensor:
    r"""Returns an unbiased estimate of the energy distance of two laws.

    .. math:: 2 \, \mathbb{E} \, \rho(x, y) - \mathbb{E} \, \rho(x, x')
        - \mathbb{E} \, \rho(y, y'), \qquad
        \rho(x, y) = \left( \| x - y \|^2 + c^2 \right)^{\beta / 2}

    It is zero where the laws are equal and positive elsewhere. A row of `y` may depend on the row
    of `x` beside it: no row meets the one of its own place, in none of the three terms.

    References:
        | Energy Statistics: A Class of Statistics Based on Distances (Szekely and Rizzo, 2013)
        | https://doi.org/10.1016/j.jspi.2013.03.018

    Arguments:
        x: Rows of the first law, with shape :math:`(B, *)`.
        y: Those of the second one, :math:`(B, *)`.
        same: Which rows may meet, symmetric, with shape :math:`(B, B)`; all of them by default.
        exponent: The exponent :math:`\beta` within (0, 2).
        softness: The constant :math:`c`, which makes :math:`\rho` smooth at zero.

    Returns:
        A scalar; zero where no two rows may meet.
    """
    a, b = x.flatten(1), y.flatten(1)
    meets = ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    if same is not None:
        meets = meets & same
    partners = meets.sum(1, keepdim=True)
    weight = (meets / partners.clamp_min(1)).to(a) / (partners > 0).sum().clamp_min(1)

    def mean(p: Tensor, q: Tensor) -> Tensor:
        return (weight * (softness**2 + pairwise_square(p, q)) ** (0.5 * exponent)).sum()

    return mean(a, b) + mean(b, a) - mean(a, a) - mean(b, b)
