r"""Scores, and losses whose gradient is one.

Nothing here draws a random number, holds a parameter or imports another room of the library, so
that each function can be compared with its closed form on given tensors.

Notation: :math:`x` is a clean sample, :math:`x_t = x + \sigma \varepsilon` a noisy one with
:math:`\varepsilon \sim \mathcal{N}(0, I)`, and :math:`D(x_t, \sigma) = \mathbb{E}[x \mid x_t]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from .tensors import dot, expand_like

__all__ = [
    "Weight",
    "check_temperature",
    "denoised_to_score",
    "denoising",
    "edm_weight",
    "mean_correction",
    "score",
    "score_difference",
    "surrogate",
    "teacher_direction",
    "tempered",
    "truncated_snr",
]


Weight = Callable[[Tensor], Tensor]


def denoised_to_score(denoised: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
    r"""Returns the score of the noisy marginal, by Tweedie's formula.

    .. math:: \nabla_{x_t} \log p_\sigma(x_t) = \frac{\mathbb{E}[x \mid x_t] - x_t}{\sigma^2}

    References:
        | Tweedie's Formula and Selection Bias (Efron, 2011)
        | https://doi.org/10.1198/jasa.2011.tm11181

    Arguments:
        denoised: The posterior mean :math:`\mathbb{E}[x \mid x_t]`, with shape :math:`(B, *)`.
        x_t: A noisy tensor, with shape :math:`(B, *)`.
        sigma: The noise level :math:`\sigma > 0`, with shape :math:`(B)`.
    """
    return (denoised - x_t) / expand_like(sigma, x_t).square()


def score(denoiser: Callable[..., Tensor], x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
    r"""Returns the score of the noisy marginal that a denoiser implies (Tweedie's formula).

    Arguments:
        denoiser: A denoiser :math:`\mathbb{E}[x \mid x_t]`.
        x_t: A noisy tensor :math:`x_t = x + \sigma \varepsilon`, with shape :math:`(B, *)`.
        sigma: The noise level :math:`\sigma > 0`, with shape :math:`(B)`.
        cond: Conditions, passed to the denoiser.

    Returns:
        The score, with shape :math:`(B, *)`.

    Example:
        >>> import torch
        >>> def denoiser(x_t, sigma):  # of standard normal data
        ...     return x_t / (1 + sigma[:, None].square())
        >>> score(denoiser, torch.ones(1, 2), torch.ones(1))
        tensor([[-0.5000, -0.5000]])
    """
    return denoised_to_score(denoiser(x_t, sigma, **cond), x_t, sigma)


def surrogate(x: Tensor, direction: Tensor) -> Tensor:
    r"""Returns scalars whose gradient with respect to `x` is `direction`, per sample.

    .. math:: \langle \mathrm{sg}[v], x \rangle

    Arguments:
        x: A differentiable tensor, with shape :math:`(B, *)`.
        direction: The gradient :math:`v` to send back, with the same shape; not differentiated.

    Returns:
        The inner products, with shape :math:`(B)`. Descending them moves `x` along `-direction`.
    """
    return dot(direction.detach(), x)


def check_temperature(temperature: float) -> None:
    r"""Refuses a temperature that is none, before anything is trained with it.

    Arguments:
        temperature: The temperature :math:`\tau`.

    Raises:
        ValueError: It is not positive and finite.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")


def tempered(denoised: Tensor, x: Tensor, temperature: float) -> Tensor:
    r"""Returns what stands for a denoised tensor where its score is multiplied by a temperature.

    .. math:: x + \tau \, (D(x_t) - x)

    With :math:`x = x_t` its score, by Tweedie's formula, is :math:`\tau \nabla \log p_\sigma`.
    With the clean sample, :math:`x_t = x + \sigma \varepsilon`, it is the same but for a multiple
    of :math:`\varepsilon`, whose mean is zero. At a temperature of 1 it is the denoised tensor.

    Arguments:
        denoised: The posterior mean :math:`D(x_t)`, with shape :math:`(B, *)`.
        x: The clean or the noisy sample, with the same shape.
        temperature: The temperature :math:`\tau > 0`.
    """
    # Not a lerp, whose value at one may differ from the denoised tensor in the last bit.
    return denoised if temperature == 1 else x + temperature * (denoised - x)


def denoising(denoised: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    r"""Returns the weighted denoising error, averaged over dimensions, with shape :math:`(B)`.

    .. math:: \frac{w(\sigma)}{d} \, \| D(x_t, \sigma) - x \|^2

    Its minimiser over functions is :math:`D(x_t, \sigma) = \mathbb{E}[x \mid x_t]` for any
    :math:`w > 0`.

    References:
        | A Connection Between Score Matching and Denoising Autoencoders (Vincent, 2011)
        | https://doi.org/10.1162/NECO_a_00142
    """
    return weight * (denoised - x).square().flatten(1).mean(dim=1)


def edm_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    r"""Returns :math:`(\sigma^2 + \sigma_d^2) / (\sigma \sigma_d)^2`, with the shape of `sigma`.

    With it an untrained preconditioned denoiser has a loss of one at every level.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364, Table 1
    """
    return (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()


def truncated_snr(sigma: Tensor, sigma_data: float) -> Tensor:
    r"""Returns :math:`\max(1 / \sigma^2, 1 / \sigma_d^2)`, with the shape of `sigma`.

    It is the signal-to-noise ratio :math:`\sigma_d^2 / \sigma^2` of data of unit variance, cut to
    be at least one: in the paper, where :math:`\sigma_d = 1`, the larger one of the squared errors
    of sample and noise. `edm_weight` is one more than the ratio: the squared error of v.

    References:
        | Progressive Distillation for Fast Sampling of Diffusion Models (Salimans and Ho, 2022)
        | https://arxiv.org/abs/2202.00512, Section 4
    """
    return sigma.clamp_max(sigma_data).square().reciprocal()


def mean_correction(denoised: Tensor, x: Tensor, floor: float = 0.0) -> Tensor:
    r"""Returns :math:`\tfrac1d \| D(x_t, \sigma) - x \|_1`, at least `floor`, with shape `(B,)`.

    The divisor of DMD's directions, which makes them of one size at all levels. It is of one row,
    and of the teacher's :math:`D`.

    References:
        | One-step Diffusion with Distribution Matching Distillation (Yin et al., 2023)
        | https://arxiv.org/abs/2311.18828, Equation 8
    """
    return (denoised - x).flatten(1).abs().mean(1).clamp_min(floor)


def score_difference(fake: Tensor, real: Tensor, sigma: Tensor) -> Tensor:
    r"""Returns :math:`\nabla \log p_\sigma - \nabla \log q_\sigma` of two denoised tensors."""
    return (fake - real) / expand_like(sigma, fake).square()


def teacher_direction(
    denoised: Tensor, x: Tensor, x_t: Tensor, sigma: Tensor, *, control_variate: bool
) -> Tensor:
    r"""Returns the teacher's score, less its part of zero mean if `control_variate`, `(B, *)`."""
    return (denoised - (x if control_variate else x_t)) / expand_like(sigma, x).square()
