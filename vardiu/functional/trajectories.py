r"""One step of a solver, a pure function of each row, and what a student is taught about it.

The probability-flow equation in the coordinate of this library is

.. math:: \frac{\mathrm{d} x}{\mathrm{d} \sigma} = \frac{x - D(x, \sigma)}{\sigma}.

Nothing here chooses a type, a device or whether there is a gradient: that is the caller's.

References:
    | Denoising Diffusion Implicit Models (Song et al., 2020), https://arxiv.org/abs/2010.02502
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor

from .tensors import expand_like

__all__ = ["Guide", "Passage", "fresh_noise", "slope", "step", "step_target"]


class Passage(NamedTuple):
    r"""One step of a sampler, from a level to the next: what a guide corrects.

    The next state is the clean estimate and noise of the next level, by whichever rule,
    :math:`x' = D + n`; a guide that moves the estimate and keeps the noise adds to :math:`x'` what
    it adds to :math:`D`.

    Arguments:
        index: The place of the step in the trajectory, from zero.
        x: The state at the level from which, with shape :math:`(B, *)`; at an infinite level the
            latent.
        sigma: That level, with shape :math:`(B)`.
        target: The level to which, with shape :math:`(B)`; zero at the end.
        denoised: The clean estimate :math:`D` of the state, with its shape.
        x_next: The state :math:`x'` at the level to which, with the same shape.
        cond: The conditions.
        floor: The level of the noise that the clean estimate has itself.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks a passage for
    x: Tensor
    sigma: Tensor
    target: Tensor
    denoised: Tensor
    x_next: Tensor
    cond: Mapping[str, Tensor]
    floor: float = 0.0


class Guide(Protocol):
    r"""Corrects a sampler between two levels.

    Attributes:
        differentiates: Whether it asks for gradients in `Passage.x`: a sampler then takes the
            step with a graph from that tensor to `denoised` and `x_next`, and detaches what the
            guide returns.
    """

    @property
    def differentiates(self) -> bool: ...

    def __call__(self, passage: Passage) -> Tensor:
        r"""Returns the state at the level to which, with shape :math:`(B, *)`."""


def fresh_noise(sigma: Tensor, target: Tensor, eta: float) -> Tensor:
    r"""Returns the level of the fresh noise of a step, `(B,)`.

    .. math:: \tau = \eta \, \sigma' \sqrt{1 - \sigma'^2 / \sigma^2}
    """
    return eta * target * (1 - (target / sigma).square()).sqrt()


def step(
    x: Tensor,
    sigma: Tensor,
    target: Tensor,
    denoised: Tensor,
    noise: Tensor | None = None,
    eta: float = 0.0,
) -> Tensor:
    r"""Returns the state at level :math:`\sigma'` of a state at level :math:`\sigma`.

    .. math:: x' = D + \frac{\sqrt{\sigma'^2 - \tau^2}}{\sigma} (x - D) + \tau \varepsilon, \qquad
        \tau = \eta \, \sigma' \sqrt{1 - \sigma'^2 / \sigma^2}

    With :math:`\eta = 0` it is Euler's method, with :math:`\eta = 1` ancestral sampling.

    Arguments:
        x: The state, with shape :math:`(B, *)`.
        sigma: Its level :math:`\sigma > 0`, with shape :math:`(B)`.
        target: The level :math:`\sigma' \geq 0`, with shape :math:`(B)`; above :math:`\sigma` only
            without fresh noise, which is a step of an inversion.
        denoised: The mean :math:`D` of the clean sample given the state, with its shape.
        noise: Standard normal noise :math:`\varepsilon`, with the state's shape.
        eta: The share :math:`\eta \in [0, 1]` of fresh noise.

    Raises:
        ValueError: :math:`\eta > 0` and there is no noise.
    """
    if eta == 0:
        return denoised + expand_like(target / sigma, x) * (x - denoised)
    if noise is None:
        raise ValueError(f"a step of eta={eta:g} needs noise of the shape of x: give `noise`")
    tau = fresh_noise(sigma, target, eta)
    kept = (target.square() - tau.square()).sqrt() / sigma
    return denoised + expand_like(kept, x) * (x - denoised) + expand_like(tau, x) * noise


def slope(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    r"""Returns :math:`(x - D) / \sigma`, the derivative of the state by its level."""
    return (x - denoised) / expand_like(sigma, x)


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
