r"""A stochastic sampler as a policy: each step is a Gaussian whose density is known.

.. math:: \pi(x_{k+1} \mid x_k) = \mathcal{N}(\mu_k, s_k^2 I), \qquad \mu_k = D(x_k, \sigma_k) +
    \frac{\sqrt{\sigma_{k+1}^2 - s_k^2}}{\sigma_k} (x_k - D(x_k, \sigma_k))

is the step of `vardiu.functional.trajectories` with :math:`s_k = \eta \, \sigma_{k+1} \sqrt{1 -
\sigma_{k+1}^2 / \sigma_k^2}`. The last one leads to :math:`\sigma_N = 0`, where it would have no
density: its mean is :math:`D`, and its deviation a share :math:`\eta` of a small level. As
:math:`\eta` goes to zero the chain becomes the deterministic sampler.

References:
    | Training Diffusion Models with Reinforcement Learning (Black et al., 2023)
    | https://arxiv.org/abs/2305.13301
    | Denoising Diffusion Implicit Models (Song et al., 2020), https://arxiv.org/abs/2010.02502
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..functional.policy import step_log_density
from ..functional.tensors import expand_like
from ..functional.trajectories import fresh_noise, step

__all__ = ["Episode", "StepPolicy"]


# Of the place of a level and the state there, the clean estimate, `(B, *)`.
Denoised = Callable[[int, Tensor], Tensor]


class Episode(NamedTuple):
    r"""What a policy has done.

    Arguments:
        states: The states, the one given first, with shape :math:`(B, N + 1, *)`.
        log_prob: The log-densities of the steps, with shape :math:`(B, N)`.
    """

    states: Tensor
    log_prob: Tensor


class StepPolicy:
    r"""The steps of a stochastic sampler; nothing of it is trained, the denoiser is given.

    Arguments:
        sigmas: The levels :math:`\sigma_0 > \ldots > \sigma_{N-1} > 0`; the first may be infinite.
        eta: The share :math:`\eta \in (0, 1]` of fresh noise.
        last: The level of which the last step's deviation is that share.
        average: Whether log-densities are averaged over dimensions, see
            `vardiu.functional.policy.step_log_density`.

    Raises:
        ValueError: The levels do not decrease, or there would be a step without noise.
    """

    def __init__(
        self, sigmas: Sequence[float], eta: float, last: float, *, average: bool = True
    ) -> None:
        if not sigmas or any(not a > b for a, b in zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
            raise ValueError(f"sigmas must decrease and be positive, got {list(sigmas)}")
        if not 0 < eta <= 1:
            raise ValueError(
                f"eta must be within (0, 1], got {eta:g}: a step without noise has no density"
            )
        if not 0 < last <= sigmas[-1]:
            raise ValueError(
                f"the level of the last step's noise must be positive and at most the smallest "
                f"level, {sigmas[-1]:g}, got {last:g}"
            )
        self.sigmas, self.eta, self.last, self.average = list(sigmas), eta, last, average

    @property
    def deviations(self) -> list[float]:
        r"""The standard deviation :math:`s_k` of each step."""
        pairs = zip(self.sigmas, self.sigmas[1:], strict=False)
        inner = [float(fresh_noise(_double(a), _double(b), self.eta)) for a, b in pairs]
        return [*inner, self.eta * self.last]

    def mean(self, k: int, x: Tensor, denoised: Tensor) -> Tensor:
        r"""Returns the mean :math:`\mu_k` of a step, `(B, *)`.

        Arguments:
            k: The place of the level.
            x: The state there, with shape :math:`(B, *)`; at an infinite level the noise itself.
            denoised: The clean estimate :math:`D` of it.
        """
        if k + 1 == len(self.sigmas):
            return denoised
        here, there = (x.new_full((len(x),), sigma) for sigma in self.sigmas[k : k + 2])
        if math.isinf(self.sigmas[k]):
            kept = (there.square() - fresh_noise(here, there, self.eta).square()).sqrt()
            return denoised + expand_like(kept, x) * x
        return step(x, here, there, denoised, torch.zeros_like(x), self.eta)

    def log_prob(self, k: int, x: Tensor, mean: Tensor) -> Tensor:
        r"""Returns the log-density of the step to a state from a mean, `(B,)`."""
        deviation = x.new_full((len(x),), self.deviations[k])
        return step_log_density(x, mean, deviation, average=self.average)

    def roll_out(self, denoised: Denoised, x: Tensor, noise: Iterator[Tensor]) -> Episode:
        r"""Returns an episode from states at the first level.

        Arguments:
            denoised: The denoiser, of the place of a level.
            x: The states, with shape :math:`(B, *)`.
            noise: Standard normal noise, a tensor of their shape a step.
        """
        states, densities = [x], list[Tensor]()
        for k, deviation in enumerate(self.deviations):
            mean = self.mean(k, states[-1], denoised(k, states[-1]))
            states.append(mean + deviation * next(noise))
            densities.append(self.log_prob(k, states[-1], mean))
        return Episode(torch.stack(states, 1), torch.stack(densities, 1))

    def means(self, denoised: Denoised, states: Tensor) -> Iterator[Tensor]:
        r"""Yields the mean of each step of an episode's states, `(B, *)`, one call each."""
        for k in range(len(self.sigmas)):
            yield self.mean(k, states[:, k], denoised(k, states[:, k]))

    def log_probs(self, denoised: Denoised, states: Tensor) -> Tensor:
        r"""Returns the log-densities of the steps of an episode's states, `(B, N)`."""
        means = enumerate(self.means(denoised, states))
        return torch.stack([self.log_prob(k, states[:, k + 1], mean) for k, mean in means], 1)


def _double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
