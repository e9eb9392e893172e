r"""Diffusion posterior sampling: an ancestral step, less the gradient of the misfit.

.. math:: x_{t - 1} = x'_{t - 1} - \zeta \, \nabla_{x_t} \| y - A(\hat x_0(x_t)) \|

References:
    | Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023)
    | https://arxiv.org/abs/2209.14687
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...denoisers.levels import linear_beta_grid
from ...functional.inverse import vp_scale
from ...functional.tensors import expand_like
from ...functional.trajectories import step
from .base import Moment, RowNoise, Solver

__all__ = ["DPS"]


class DPS(Solver):
    r"""The steps are those of the variance-preserving form, in the coordinate of this library;
    `step` is :math:`\zeta`. See `Solver` for the arguments.

    Attributes:
        eta: The share of fresh noise of a step: one, ancestral.
        ENDS: The largest level that is taken of a denoiser of any.
    """

    NAME, STEPS, STEP = "dps", 1000, 0.3
    ETA = 1.0

    def grid(self) -> Tensor:
        return linear_beta_grid(self.steps, self.denoiser.sigma_min, self.denoiser.sigma_max)

    def error(self, y: Tensor, clean: Tensor) -> Tensor:
        r"""Returns what is differentiated, of each row, `(B,)`: the norm, not its square."""
        return self.misfit(y, clean)

    def gradient(
        self, y: Tensor, x: Tensor, sigma: Tensor, cond: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        r"""Returns the clean estimate of a state, and the error's gradient by the state."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            clean = self.denoiser(leaf, sigma, **cond)
            (found,) = torch.autograd.grad(self.error(y, clean).sum(), leaf)
        return clean.detach(), found

    def scale(self, sigma: Tensor, target: Tensor) -> Tensor:
        r"""Returns the factor of the gradient of a step, `(B,)`."""
        return self.step * vp_scale(sigma) * vp_scale(target)

    def run(
        self, y: Tensor, x: Tensor, noise: RowNoise, cond: dict[str, Tensor]
    ) -> Iterator[Moment]:
        total = len(self.levels) - 1
        for i in range(total):
            x, clean = self.advance(y, x, i, noise, cond)
            yield Moment(i + 1, total, x, clean if i + 1 < total else x)

    def advance(
        self, y: Tensor, x: Tensor, i: int, noise: RowNoise, cond: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        r"""Returns the state of the next level, and the clean estimate of this one's."""
        sigma, target = self.levels_of(i, x), self.levels_of(i + 1, x)
        clean, found = self.gradient(y, x, sigma, cond)
        fresh = noise(x) if self.ETA > 0 else None
        moved = step(x, sigma, target, clean, fresh, self.ETA)
        kept = self.gradients.around(x, clean)(found, i)
        return moved - expand_like(self.scale(sigma, target), x) * kept, clean
