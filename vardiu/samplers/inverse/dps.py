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
from ...functional.trajectories import Passage
from ..noise import RowNoise
from ..trajectories import trajectory
from .base import Moment, Solver

__all__ = ["DPS"]


class Pulled:
    r"""The guide that draws a sampler's states to a measurement, see `DPS.corrected`.

    Arguments:
        solver: The solver.
        y: The measurements, with shape :math:`(B, *)`.
        noise: The noise of each row.

    Attributes:
        clean: The latest clean estimate.
    """

    differentiates = True
    clean: Tensor

    def __init__(self, solver: DPS, y: Tensor, noise: RowNoise) -> None:
        self.solver, self.y, self.noise = solver, y, noise

    def __call__(self, passage: Passage) -> Tensor:
        state, self.clean = self.solver.corrected(self.y, passage, self.noise)
        return state


class DPS(Solver):
    r"""The steps are those of the variance-preserving form, in the coordinate of this library;
    `step` is :math:`\zeta`. See `Solver` for the arguments.

    Attributes:
        ETA: The share of fresh noise of a step: one, ancestral.
    """

    # The paper's step on faces is 0.3; on photographs measured here 1 restores as well or better.
    NAME, STEPS, STEP = "dps", 1000, 1.0
    ETA = 1.0

    def grid(self) -> Tensor:
        return linear_beta_grid(self.steps, self.denoiser.sigma_min, self.denoiser.sigma_max)

    def run(
        self, y: Tensor, x: Tensor, noise: RowNoise, cond: dict[str, Tensor]
    ) -> Iterator[Moment]:
        guide, total = Pulled(self, y, noise), len(self.levels) - 1
        fresh = iter(lambda: noise(x), None)
        states = trajectory(
            self.denoiser,
            x,
            self.levels,
            correct=False,
            eta=self.ETA,
            noise=fresh,
            guide=guide,
            arrives=None,
            **cond,
        )
        next(states)
        for i, state in enumerate(states):
            yield Moment(i + 1, total, state, guide.clean if i + 1 < total else state)

    def corrected(self, y: Tensor, passage: Passage, noise: RowNoise) -> tuple[Tensor, Tensor]:
        r"""Returns where a step ends, and the clean estimate that it was taken with."""
        found, clean = self.gradient(y, passage), passage.denoised.detach()
        kept = self.gradients.around(passage.x, clean)(found, passage.index)
        return self.moved(passage, kept), clean

    def gradient(self, y: Tensor, passage: Passage) -> Tensor:
        r"""Returns the gradient of the error by the state from which a step was taken."""
        error = self.error(y, passage.denoised).sum()
        (found,) = torch.autograd.grad(error, passage.x)
        return found

    def error(self, y: Tensor, clean: Tensor) -> Tensor:
        r"""Returns what is differentiated, of each row, `(B,)`: the norm, not its square."""
        return self.misfit(y, clean)

    def moved(self, passage: Passage, gradient: Tensor) -> Tensor:
        r"""Returns the state of a step less a gradient, scaled."""
        factor = self.scale(passage.sigma, passage.target)
        return passage.x_next.detach() - expand_like(factor, gradient) * gradient

    def scale(self, sigma: Tensor, target: Tensor) -> Tensor:
        r"""Returns the factor of the gradient of a step, `(B,)`."""
        return self.step * vp_scale(sigma) * vp_scale(target)
