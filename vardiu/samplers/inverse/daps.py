r"""Decoupled annealing posterior sampling: a sample of the posterior given each level's estimate.

At each level: the clean estimate of the state by a few steps of the probability-flow equation; a
sample of

.. math:: \log p(u) = - \frac{\| y - A(u) \|^2}{2 \beta^2} - \frac{\| u - \hat x_0 \|^2}{2 r^2},
    \qquad r = \sigma_i,

by Langevin's method; and noise of the next level on it.

References:
    | Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing (Zhang et al.,
    | 2025), https://arxiv.org/abs/2407.01521
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ...denoisers.levels import karras_grid
from ...functional.trajectories import step
from ..noise import RowNoise
from .base import Moment, Solver

__all__ = ["DAPS", "GaussianInner"]


# Of a clean estimate, the measurement, the level and noise: a sample.
Inner = Callable[[Tensor, Tensor, float, RowNoise], Tensor]


class GaussianInner:
    r"""The exact sample of a level, of a linear operator with its matrix.

    .. math:: H = \frac{I}{r^2} + \frac{A^\top A}{\beta^2}, \qquad
        u \sim \mathcal{N} \Big( H^{-1} \Big( \frac{\hat x_0}{r^2} + \frac{A^\top y}{\beta^2}
        \Big), H^{-1} \Big)

    Arguments:
        matrix: The operator on flattened samples, `(m, d)`.
        beta: The standard deviation :math:`\beta` of the measurement.
    """

    def __init__(self, matrix: Tensor, beta: float) -> None:
        self.matrix, self.beta = matrix, beta
        self.values, self.vectors = torch.linalg.eigh(matrix.mT @ matrix / beta**2)

    def __call__(self, clean: Tensor, y: Tensor, r: float, noise: RowNoise) -> Tensor:
        precision = 1 / r**2 + self.values.clamp_min(0)
        pull = clean.flatten(1) / r**2 + y.flatten(1) @ self.matrix / self.beta**2
        mean = (pull @ self.vectors) / precision
        drawn = noise(clean).flatten(1) @ self.vectors
        return ((mean + drawn / precision.sqrt()) @ self.vectors.mT).reshape(clean.shape)


class DAPS(Solver):
    r"""`step` is the step size of Langevin's method at the first level, in units of one over the
    greatest curvature of the target: it is stable below 2. See `Solver` for the arguments.

    Attributes:
        beta: The standard deviation of the measurement: that of its noise, .01 where that is zero.
        inner: Draws a level's sample; Langevin's method by default.
    """

    NAME, STEPS, STEP = "daps", 200, 0.5
    FIRST, LAST, CLEAN = 100.0, 0.1, 0.01
    ODE, LANGEVIN = 5, 100
    # Langevin's step falls to this share, on a line over the levels.
    DECAY = 0.01
    # Rounds of the power iteration that finds the operator's gain.
    ROUNDS = 20

    langevin_steps = LANGEVIN
    inner: Inner | None = None
    gain: float | None = None

    @property
    def beta(self) -> float:
        return self.noise if self.noise > 0 else 0.01

    def grid(self) -> Tensor:
        least, most = self.denoiser.sigma_min, self.denoiser.sigma_max
        low = max(self.LAST, least)
        return karras_grid(self.steps, low, min(self.FIRST, most))[:-1]

    @torch.no_grad()
    def run(
        self, y: Tensor, x: Tensor, noise: RowNoise, cond: dict[str, Tensor]
    ) -> Iterator[Moment]:
        total = len(self.levels)
        for i in range(total):
            r = self.levels[i].item()
            clean = self.estimate(x, r, cond)
            if self.inner is not None:
                u = self.inner(clean, y, r, noise)
            else:
                u = self.langevin(y, x, clean, i, noise)
            last = i + 1 == total
            x = u if last else u + self.levels[i + 1].item() * noise(u)
            yield Moment(i + 1, total, x, u)

    def estimate(self, x: Tensor, sigma: float, cond: dict[str, Tensor]) -> Tensor:
        r"""Returns the end of the probability-flow equation from a level down to nearly zero."""
        low = max(self.CLEAN, self.denoiser.sigma_min)
        if sigma <= low:
            return self.denoiser(x, x.new_full((len(x),), sigma), **cond)
        levels = karras_grid(self.ODE + 1, low, sigma)[:-1].tolist()
        for here, there in zip(levels, levels[1:], strict=False):
            now, then = (x.new_full((len(x),), level) for level in (here, there))
            x = step(x, now, then, self.denoiser(x, now, **cond))
        return x

    def langevin(self, y: Tensor, x: Tensor, clean: Tensor, i: int, noise: RowNoise) -> Tensor:
        r"""Returns what Langevin's method makes of the clean estimate; only the gradient of the
        measurement is put through the seam."""
        if self.gain is None:
            self.gain = self.curvature(clean)
        r = self.levels[i].item()
        share = 1 - (1 - self.DECAY) * i / len(self.levels)
        eta = share * self.step / (self.gain / self.beta**2 + 1 / r**2)
        through, u = self.gradients.around(x, clean), clean
        for k in range(self.langevin_steps):
            likelihood = through(self.likelihood(y, u), k)
            pull = likelihood + (clean - u) / r**2
            u = u + eta * pull + math.sqrt(2 * eta) * noise(u)
        return u

    def likelihood(self, y: Tensor, u: Tensor) -> Tensor:
        r"""Returns the gradient of :math:`-\| y - A(u) \|^2 / 2 \beta^2`."""
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            residual = y - self.operator.A(self.codec.decode(leaf))
            error = -0.5 * residual.square().sum() / self.beta**2
            # An operator that measures nothing has no gradient.
            (found,) = torch.autograd.grad(error, leaf, allow_unused=True)
        return torch.zeros_like(u) if found is None else found

    def curvature(self, at: Tensor) -> float:
        r"""Returns the greatest eigenvalue of :math:`J^\top J`, with the operator's derivative
        :math:`J` at the first row, by power iteration."""
        with torch.enable_grad():
            leaf = at[:1].detach().requires_grad_()
            made = self.operator.A(self.codec.decode(leaf))
            if not made.requires_grad:
                return 0.0
            back = torch.zeros_like(made, requires_grad=True)
            (pulled,) = torch.autograd.grad(made, leaf, back, create_graph=True)
            source = torch.Generator().manual_seed(0)
            v = torch.randn(leaf.shape, generator=source, dtype=leaf.dtype).to(leaf)
            value = 0.0
            for _ in range(self.ROUNDS):
                v = v / v.norm().clamp_min(torch.finfo(v.dtype).tiny)
                (pushed,) = torch.autograd.grad(pulled, back, v, retain_graph=True)
                (v,) = torch.autograd.grad(made, leaf, pushed, retain_graph=True)
                value = v.norm().item()
        return value
