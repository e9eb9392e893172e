r"""Derivatives of a function of noise levels along a tangent, beside its values."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from .tensors import expand_like

__all__ = ["DERIVATIVES", "Derivative", "difference", "forward"]


# A function of levels `(B,)`, and a tangent of those: its values, and its derivative along them.
Derivative = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]


def forward(f: Callable[[Tensor], Tensor], s: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns a function's values with their graph, and its derivative along a tangent without,
    in one pass of the forward mode."""
    # Fused attention has no forward mode.
    with sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        value, along = forward_ad.unpack_dual(f(forward_ad.make_dual(s, tangent)))
    return value, torch.zeros_like(value) if along is None else along.detach()


def difference(
    f: Callable[[Tensor], Tensor], s: Tensor, tangent: Tensor, h: float = 2e-3
) -> tuple[Tensor, Tensor]:
    r"""Returns the same by a centred difference in :math:`\ln s`, two more calls without a graph.

    Its error is :math:`\tfrac{h^2}{6} \partial^3 f / \partial (\ln s)^3` of the derivative by
    :math:`\ln s`, and beside that the rounding of the function over :math:`h`.
    """
    with torch.no_grad():
        rise = (f(s * (1 + h)) - f(s * (1 - h))) / (2 * h)
    return f(s), expand_like(tangent / s, rise) * rise


DERIVATIVES: Mapping[str, Derivative] = {"forward": forward, "difference": difference}
