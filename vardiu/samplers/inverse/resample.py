r"""ReSample: steps of DPS, and now and then a sample that fits the measurement, noised again.

In the first third of the steps there is nothing else. After that, every tenth step, five steps
more refine the clean estimate; it is then optimised to fit the measurement, as an image in the
second third and as a latent in the last, and drawn back to the level with the solver's own state
by the product of two Gaussians. A fit is done where the mean square of what it misses is that of
the noise: further on it would fit the noise.

References:
    | Solving Inverse Problems with Latent Diffusion Models via Hard Data Consistency (Song et al.,
    | 2024), https://arxiv.org/abs/2307.08123
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...functional.inverse import gaussian_product, resample_variance, vp_scale
from ...functional.tensors import expand_like
from ...functional.trajectories import Passage, step
from ..noise import RowNoise
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
    # A mean square below which a fit is done, unless that of the noise is larger.
    DONE = 1e-6

    guidance = 0.5
    pixels, latents = PIXELS, LATENTS

    def scale(self, sigma: Tensor, target: Tensor) -> Tensor:
        return self.guidance / (1 + sigma.square()) * vp_scale(sigma) * vp_scale(target)

    def corrected(self, y: Tensor, passage: Passage, noise: RowNoise) -> tuple[Tensor, Tensor]:
        # The gradient of a step of DPS is not projected; those of the fits are.
        x, clean = self.moved(passage, self.gradient(y, passage)), passage.denoised.detach()
        total = len(self.levels) - 1
        left, third = total - 1 - passage.index, total // 3
        if left == 0:
            through = self.gradients.around(x, x)
            x = clean = self.fit(y, x, self.latents, self.latent_error, through)
        elif left <= total - third and left % self.EVERY == 0:
            place, cond = passage.index + 1, dict(passage.cond)
            x, clean = self.consistent(y, x, place, noise, cond, pixels=left >= third)
        return x, clean

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
        enough = max(self.DONE, self.noise**2)
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
            active = active & (found >= enough) & ~stuck
            if not bool(active.any()):
                break
            moving.grad = through(gradient, iteration)
            optimizer.step()
        else:
            kept = torch.where(expand_like(active, kept), moving.detach(), kept)
        return kept
