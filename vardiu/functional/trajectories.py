r"""What a student is taught about a trajectory."""

from __future__ import annotations

from torch import Tensor

from .tensors import expand_like

__all__ = ["step_target"]


def step_target(x: Tensor, sigma: Tensor, x_next: Tensor, target: Tensor) -> Tensor:
    r"""Returns the clean sample with which one deterministic step lands on a given state.

    .. math:: \tilde x = \frac{x' - \tfrac{\sigma'}{\sigma} x}{1 - \tfrac{\sigma'}{\sigma}}
        \qquad \text{so that} \qquad
        x' = \tilde x + \frac{\sigma'}{\sigma} (x - \tilde x)

    At :math:`\sigma' = 0` it is :math:`x'` itself.

    References:
        | Progressive Distillation (Salimans and Ho, 2022), https://arxiv.org/abs/2202.00512

    Arguments:
        x: The state from which the step is taken, with shape :math:`(B, *)`.
        sigma: Its level :math:`\sigma > 0`, with shape :math:`(B)`.
        x_next: The state :math:`x'` on which it lands, with shape :math:`(B, *)`.
        target: The level :math:`0 \leq \sigma' < \sigma` of that state, with shape :math:`(B)`.
    """
    ratio = expand_like(target / sigma, x)
    return (x_next - ratio * x) / (1 - ratio)
