r"""f-divergences of the teacher's law from the student's, by the ratio of their densities.

.. math:: D_f(p \,\|\, q) = \int q(x) \, f(r(x)) \, \mathrm{d}x, \qquad r = p / q,
    \quad f \text{ convex}, \quad f(1) = 0

with the teacher's density :math:`p` and the student's :math:`q`. Where a sample :math:`x` of the
student moves, the divergence changes along

.. math:: h(r) \left( \nabla \log q(x) - \nabla \log p(x) \right), \qquad h(r) = f''(r) \, r^2,

and at noise :math:`\sigma` the divergence falls as :math:`-\partial_\sigma D_f = \sigma \,
\mathbb{E}_q \left[ h(r) \, \| \nabla \log p_\sigma - \nabla \log q_\sigma \|^2 \right]`.

References:
    | One-step Diffusion Models with f-Divergence Distribution Matching (Xu et al., 2025)
    | https://arxiv.org/abs/2502.15681
    | Uni-Instruct: One-step Diffusion Model through Unified Diffusion Divergence Instruction (Wang
    | et al., 2025), https://arxiv.org/abs/2505.20755
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["DIVERGENCES", "Divergence"]


class Divergence(NamedTuple):
    r"""An f-divergence, by functions of the logarithm of the ratio, :math:`\ell = \log r`.

    Attributes:
        f: The function :math:`f(e^\ell)`.
        weight: The weight :math:`h(e^\ell)`, finite and not negative.
    """

    f: Callable[[Tensor], Tensor]
    weight: Callable[[Tensor], Tensor]


def log_mean(log_ratio: Tensor) -> Tensor:
    r"""Returns :math:`\log \tfrac{1 + r}{2}`."""
    return torch.nn.functional.softplus(log_ratio) - math.log(2)


def jensen_shannon(log_ratio: Tensor) -> Tensor:
    r = log_ratio.exp()
    return 0.5 * (r * log_ratio - (1 + r) * log_mean(log_ratio))


DIVERGENCES: Mapping[str, Divergence] = {
    # KL(q || p): the weight of Diff-Instruct, which needs no ratio.
    "reverse_kl": Divergence(lambda t: -t, torch.ones_like),
    # KL(p || q)
    "forward_kl": Divergence(lambda t: t.exp() * t, torch.exp),
    # The sum of the two.
    "jeffreys": Divergence(lambda t: (t.exp() - 1) * t, lambda t: 1 + t.exp()),
    # KL(p || m) / 2 + KL(q || m) / 2, with m = (p + q) / 2
    "jensen_shannon": Divergence(jensen_shannon, lambda t: 0.5 * t.sigmoid()),
    # 2 KL(m || p)
    "softened_reverse_kl": Divergence(
        lambda t: (1 + t.exp()) * (log_mean(t) - t), lambda t: (-t).sigmoid()
    ),
    # 2 KL(m || q)
    "softened_forward_kl": Divergence(
        lambda t: (1 + t.exp()) * log_mean(t), lambda t: t.exp() * t.sigmoid()
    ),
    # The squared distance of the roots of the densities.
    "hellinger": Divergence(lambda t: (1 - (t / 2).exp()).square(), lambda t: 0.5 * (t / 2).exp()),
    # Pearson's: the mean of (p - q)^2 / q
    "chi_squared": Divergence(lambda t: (t.exp() - 1).square(), lambda t: 2 * (2 * t).exp()),
}
