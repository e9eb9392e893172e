r"""Policy gradients of Gaussian steps: densities, clipped ratios, advantages, divergences.

A step of a stochastic sampler is a policy :math:`\pi_\theta(x' \mid x) = \mathcal{N}(x';
\mu_\theta(x), s^2 I)`, its samples are actions, and a reward :math:`R` is given at the end.

References:
    | Training Diffusion Models with Reinforcement Learning (Black et al., 2023)
    | https://arxiv.org/abs/2305.13301
    | DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models (Shao et
    | al., 2024), https://arxiv.org/abs/2402.03300
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .bounds import diagonal_normal_log_prob
from .distances import squared
from .tensors import dot

__all__ = [
    "GUARDS",
    "centred_in_groups",
    "clipped_surrogate",
    "cosine_agreement",
    "gaussian_agreement",
    "standardised_by_kind",
    "step_divergence",
    "step_log_density",
    "unbiased_ratio_divergence",
]


def step_log_density(x: Tensor, mean: Tensor, deviation: Tensor, *, average: bool) -> Tensor:
    r"""Returns :math:`\log \mathcal{N}(x; \mu, s^2 I)` of each row, with shape `(B,)`.

    Arguments:
        x: The actions, with shape :math:`(B, *)`.
        mean: The means :math:`\mu`, with their shape.
        deviation: The standard deviations :math:`s`, with shape :math:`(B)`.
        average: Whether the sum over dimensions is divided by their number, as DDPO does: ratios
            and gradients are then of that power, and a clip range is that many times smaller.
    """
    density = diagonal_normal_log_prob(x - mean, deviation)
    return density / x[0].numel() if average else density


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    r"""Returns the loss of PPO, with the shape of the ratios.

    .. math:: \max \big( -A \, \rho, \; -A \, \mathrm{clip}(\rho, 1 - c, 1 + c) \big), \qquad
        \rho = \pi_\theta / \pi_\mathrm{old}

    At :math:`\rho = 1` its gradient is :math:`-A \nabla \log \pi_\theta`; it is zero where the
    ratio has gone further than the range in the direction that the advantage asks for.

    Arguments:
        log_ratio: :math:`\log \rho`.
        advantage: The advantages :math:`A`, which broadcast with the ratios.
        clip: The range :math:`c`.
    """
    ratio = log_ratio.exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def step_divergence(mean: Tensor, other: Tensor, deviation: Tensor, *, average: bool) -> Tensor:
    r"""Returns the divergence of two steps with one deviation, :math:`\|\mu - \mu'\|^2 / 2 s^2`,
    `(B,)`; with `average` divided by the number of dimensions."""
    mean_square = squared(mean - other) / (2 * deviation.square())
    return mean_square if average else mean_square * mean[0].numel()


def unbiased_ratio_divergence(log_ratio: Tensor) -> Tensor:
    r"""Returns :math:`e^d - d - 1` of :math:`d = \log \pi' - \log \pi`, never negative.

    Under :math:`\pi` its mean is :math:`\mathrm{KL}(\pi \,\|\, \pi')`.
    """
    return torch.expm1(log_ratio) - log_ratio


# Divergences of a step from the reference's: of means, the reference's means, deviations, log
# ratios of the reference's density to the policy's, and whether dimensions are averaged, `(B,)`.
Guard = Callable[[Tensor, Tensor, Tensor, Tensor, bool], Tensor]


GUARDS: Mapping[str, Guard] = {
    "gaussian": lambda mean, other, s, _, average: step_divergence(
        mean, other, s, average=average
    ),
    "k3": lambda mean, other, s, log_ratio, average: unbiased_ratio_divergence(log_ratio),
    "mean": lambda mean, other, s, log_ratio, average: squared(mean - other),
}


def centred_in_groups(reward: Tensor, group: int, divide: str = "global") -> Tensor:
    r"""Returns advantages within groups of so many consecutive rows, `(B,)`.

    .. math:: A_i = \frac{R_i - \bar R_g}{s + 10^{-6}}

    The mean of a group has the row's own reward in it: on average the gradient is
    :math:`(G - 1) / G` of the policy's. By a group's own deviation its direction is another one.

    Arguments:
        reward: The rewards, with shape :math:`(B)`; the last group may be smaller.
        group: The size :math:`G` of a group.
        divide: By what deviation :math:`s`: the root of the mean square of all centred rewards
            (`global`), that of the group (`group`), or one (`none`).
    """
    place = torch.arange(len(reward), device=reward.device) // group
    count = _sums(torch.ones_like(reward), place, group)
    centred = reward - _sums(reward, place, group)[place] / count[place]
    if divide == "none":
        return centred
    variance = centred.square()
    if divide == "group":
        spread = (_sums(variance, place, group) / count).sqrt()[place]
    else:
        spread = variance.mean().sqrt()
    return centred / (spread + 1e-6)


def standardised_by_kind(
    reward: Tensor, kind: Tensor, latest: Callable[[int, Tensor], Tensor], least: int
) -> Tensor:
    r"""Returns advantages :math:`(R - m) / (s + 10^{-6})`, `(B,)`, by the moments of the latest
    rewards of each row's kind; of a kind that has few, by those of all rows.

    Arguments:
        reward: The rewards, with shape :math:`(B)`.
        kind: The kinds of the rows, with shape :math:`(B)`.
        latest: Returns the latest rewards of a kind, the rows' own among them.
        least: The number of rewards below which they are few.
    """
    mean = reward.mean().repeat(len(reward))
    spread = reward.std(correction=0).repeat(len(reward))
    for number in kind.unique().tolist():
        own = kind == number
        known = latest(number, reward[own])
        if len(known) >= least:
            mean[own], spread[own] = known.mean(), known.std(correction=0)
    return (reward - mean) / (spread + 1e-6)


def _sums(values: Tensor, place: Tensor, group: int) -> Tensor:
    return values.new_zeros(math.ceil(len(values) / group)).index_add(0, place, values)


def gaussian_agreement(x: Tensor, y: Tensor, width: float) -> Tensor:
    r"""Returns :math:`\exp(-\|x - y\|^2 / 2 d w^2)` of each row, in (0, 1], `(B,)`."""
    return (-squared(x - y) / (2 * width**2)).exp()


def cosine_agreement(x: Tensor, y: Tensor, width: float = math.inf) -> Tensor:
    r"""Returns the cosine of each row, in [-1, 1], `(B,)`; zero where a row is zero. It has no
    width."""
    lengths = x.flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1)
    return dot(x, y) / lengths.clamp_min(torch.finfo(x.dtype).tiny)
