r"""Discriminators of noisy samples: which a problem offers, and the ratio that one learns.

.. math:: \mathcal{L}_c = \mathbb{E} \left[ \log (1 + e^{c(x_t, \sigma)}) + \log (1 +
    e^{-c(y_{t'}, \sigma')}) \right]

with generated samples :math:`x` and real ones :math:`y` is least at :math:`c = \log r`, the
logarithm of the ratio of the two noisy densities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..denoisers.base import Denoiser
from ..denoisers.levels import Levels
from ..discriminators.diffusion import EncodedDiscriminator, discriminator_on, named_taps
from ..errors import ConfigError
from ..functional.adversarial import softplus_discriminator
from ..functional.tensors import expand_like
from ..training.frozen import Frozen
from ..training.objective import Loss, Objective

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["RatioLearner", "critic_of"]


def critic_of(problem: Problem, kind: str, taps: str, fake: Denoiser | None) -> nn.Module:
    r"""Returns a fresh discriminator of noisy samples.

    Arguments:
        problem: The problem.
        kind: Whose features it reads: `teacher`, `fake`, or `own` for a network of its own.
        taps: The names of the features, separated by commas.
        fake: The fake; none where there is none.

    Raises:
        ConfigError: There are no such features.
    """
    if kind == "own":
        if taps:
            raise ConfigError("--critic own reads no features: leave out --taps")
        encoder = problem.networks.encoder()
        return EncodedDiscriminator(encoder, encoder.features)
    read = fake if kind == "fake" else problem.known_teacher
    if read is None:
        raise ConfigError("an adversarial start has no fake: give --critic teacher or own")
    cond = problem.data.conditions(1, torch.Generator())
    return discriminator_on(read, named_taps(read, taps, kind), **cond)


class RatioLearner(Objective):
    r"""An objective with a discriminator whose logit is the logarithm of a ratio of densities.

    The two sets of samples are compared at levels and noises of their own.
    """

    levels: Levels
    head: nn.Module | None

    @property
    def has_weights(self) -> bool:
        r"""Whether there is a discriminator that can be trained."""
        return self.head is not None and next(self.head.parameters(), None) is not None

    def read(self) -> Denoiser | Frozen[Denoiser]:
        r"""Returns the denoiser whose features are read."""
        return self.teacher

    def log_ratio(self, x_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        r"""Returns the discriminator's :math:`\log r`, the mean of its heads', `(B,)`."""
        assert self.head is not None
        logits: Tensor = torch.stack(self.head(self.read(), x_t, sigma, **cond)).mean(0)
        return logits

    def noisy_logits(self, y: Tensor, cond: Mapping[str, Tensor], step: int, role: str) -> Tensor:
        r"""Returns the logits of samples at levels and noises of their own, `(B,)`."""
        sigma = self.levels(self.quantiles(len(y), f"{role} level", f"{role} order"), step)
        y_t = y + expand_like(sigma, y) * self.noise_like(y, f"{role} noise")
        return self.log_ratio(y_t, sigma, cond)

    def classified(self, generated: Tensor, real: Tensor) -> Loss:
        r"""Returns the discriminator's loss of the logits of two sets of samples."""
        error = softplus_discriminator(real, generated).mean()
        info = {"real": real.mean().detach(), "fake": generated.mean().detach()}
        return Loss(error, {"classifier": error.detach(), **info})
