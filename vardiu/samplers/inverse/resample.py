r"""ReSample: steps of DPS, and now and then a sample that fits the measurement, noised again.

In the first third of the steps there is nothing else. After that, every tenth step, five steps more
refine the clean estimate; it is then optimised to fit the measurement, as an image in the second
third and as a latent in the last, and drawn back to the level with the solver's own state by the
product of two Gaussians.

References:
    | Solving Inverse Problems with Latent Diffusion Models via Hard Data Consistency (Song et al.,
    | 2024), https://arxiv.org/abs/2307.08123
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ...functional.inverse import gaussian_product, resample_variance
from ...functional.tensors import expand_like
from ...functional.trajectories import step
from .base import Moment, RowNoise
from .dps import DPS
from .projection import Through

__all__ = ["ReSample"]


class Fit(NamedTuple):
    r"""How a sample is fitted to a measurement.

    Arguments:
        lr: AdamW's rate.
        most: Iterations at most.
        window: Iterations after which a row stops that has not improved; none for any.
    """

    lr: float
    most: int
    window: int | None


PIXELS = Fit(1e-2, 2000, None)


LATENTS = Fit(5e-3, 500, 200)


class ReSample(DPS):
    r"""`step` multiplies the rates of both fits; the scale of the steps of DPS is `guidance`. See
    `vardiu.samplers.inverse.Solver` for the arguments.

    Attributes:
        guidance: The factor of the gradient of each step, times :math:`\bar\alpha_t`.
        pixels, latents: How samples are fitted.
    """

    NAME, STEPS, STEP = "resample", 500, 1.0
    ETA = 0.0
    EVERY, INNER = 10, 5
    # A mean square below which a fit is done.
    DONE = 1e-6

    guidance = 0.5
    pixels, latents = PIXELS, LATENTS

    def scale(self, sigma: Tensor, target: Tensor) -> Tensor:
        return self.guidance / (1 + sigma.square()) * super().scale(sigma, target) / self.step

    def run(
        self, y: Tensor, x: Tensor, noise: RowNoise, cond: dict[str, Tensor]
    ) -> Iterator[Moment]:
        total = len(self.levels) - 1
        for i in range(total):
            x, clean = self.advance(y, x, i, noise, cond)
            left = total - 1 - i
            third = total // 3
            if 0 < left <= total - third and left % self.EVERY == 0:
                x, clean = self.consistent(y, x, i + 1, noise, cond, pixels=left >= third)
            if left == 0:
                x = clean = self.fit(y, x, self.latents, self.latent_error, self.gradients.around(x, x))
            yield Moment(i + 1, total, x, clean)

    # The gradient of a step of DPS is not projected; those of the fits are.
    def advance(
        self, y: Tensor, x: Tensor, i: int, noise: RowNoise, cond: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        sigma, target = self.levels_of(i, x), self.levels_of(i + 1, x)
        clean, found = self.gradient(y, x, sigma, cond)
        moved = step(x, sigma, target, clean)
        return moved - expand_like(self.scale(sigma, target), x) * found, clean

    def consistent(
        self,
        y: Tensor,
        x: Tensor,
        i: int,
        noise: RowNoise,
        cond: dict[str, Tensor],
        *,
        pixels: bool,
    ) -> tuple[Tensor, Tensor]:
        r"""Returns a state at the same place of the grid whose clean sample fits, and that."""
        refined, clean = self.refine(x, i, cond)
        if pixels:
            with torch.no_grad():
                state, image = self.codec.decode(refined), self.codec.decode(clean)
            through = self.gradients.around(state, image)
            fitted = self.fit(y, image, self.pixels, self.image_error, through)
            with torch.no_grad():
                fitted = self.codec.encode(fitted)
        else:
            through = self.gradients.around(refined, clean)
            fitted = self.fit(y, clean, self.latents, self.latent_error, through)
        level, before = self.levels_of(i, x), self.levels_of(i - 1, x)
        own = resample_variance(before, level)
        mean, variance = gaussian_product(fitted, level.square(), x, own)
        return mean + expand_like(variance.sqrt(), x) * noise(x), fitted

    @torch.no_grad()
    def refine(self, x: Tensor, i: int, cond: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        r"""Returns the state after some steps more without the measurement, and its estimate."""
        last = min(i + self.INNER, len(self.levels) - 2)
        for j in range(i, last):
            clean = self.denoiser(x, self.levels_of(j, x), **cond)
            x = step(x, self.levels_of(j, x), self.levels_of(j + 1, x), clean)
        return x, self.denoiser(x, self.levels_of(last, x), **cond)

    def image_error(self, y: Tensor, image: Tensor) -> Tensor:
        r"""Returns the mean square of :math:`y - A(x)` of each row."""
        return (y - self.operator.A(image)).flatten(1).square().mean(1)

    def latent_error(self, y: Tensor, latent: Tensor) -> Tensor:
        r"""Returns the mean square of :math:`y - A(\mathrm{Dec}(z))` of each row."""
        return self.image_error(y, self.codec.decode(latent))

    def fit(
        self,
        y: Tensor,
        start: Tensor,
        how: Fit,
        error: Callable[[Tensor, Tensor], Tensor],
        through: Through,
    ) -> Tensor:
        r"""Returns samples that AdamW made of a start; each row stops for itself.

        AdamW rescales every element and decays: the update leaves the span of a projection.
        """
        moving = start.detach().clone().requires_grad_()
        optimizer = torch.optim.AdamW([moving], lr=self.step * how.lr)
        kept, best = start.detach().clone(), torch.full_like(y.flatten(1)[:, 0], torch.inf)
        since, active = torch.zeros_like(best), torch.ones_like(best, dtype=torch.bool)
        for iteration in range(how.most):
            with torch.enable_grad():
                found = error(y, moving)
                (gradient,) = torch.autograd.grad(found.sum(), moving)
            found = found.detach()
            better = active & (found < best)
            best = torch.where(better, found, best)
            since = torch.where(better, torch.zeros_like(since), since + 1)
            kept = torch.where(expand_like(active, kept), moving.detach(), kept)
            stuck = torch.zeros_like(active) if how.window is None else since >= how.window
            active = active & (found >= self.DONE) & ~stuck
            if not bool(active.any()):
                break
            moving.grad = through(gradient, iteration)
            optimizer.step()
        else:
            kept = torch.where(expand_like(active, kept), moving.detach(), kept)
        return kept
