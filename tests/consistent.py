"""Consistency on a line: exact teachers of one Gaussian, and networks of one factor a level."""

from __future__ import annotations

import torch
from torch import nn

from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.exact import GaussianDenoiser

V, LOW, HIGH = 0.25, 0.002, 80.0


def line(variance=V, low=LOW, high=HIGH):
    """The exact teacher of N(0, v) in one dimension."""
    return GaussianDenoiser(
        torch.zeros(1), variance * torch.ones(1), sigma_min=low, sigma_max=high
    )


class PerLevel(Denoiser):
    """A denoiser of one factor a level; levels that are none of the grid are refused."""

    shape = (1,)

    def __init__(self, grid):
        super().__init__()
        self.sigma_min, self.sigma_max = float(grid[-1]), float(grid[0])
        self.grid, self.asked = grid, []
        self.factor = nn.Parameter(torch.rand(len(grid)))

    def forward(self, x_t, sigma, **cond):
        difference, index = (sigma[:, None] - self.grid).abs().min(1)
        assert difference.max() == 0
        self.asked.append(sigma)
        return self.factor[index][:, None] * x_t


def solver_factors(grid, correct, v=V):
    """The factor of each step, by hand: dx/dt = x t / (v + t^2)."""
    factors = []
    for t, s in zip(grid.tolist(), grid[1:].tolist(), strict=False):
        d = t / (v + t**2)
        euler = 1 + (s - t) * d
        factors.append(1 + (s - t) / 2 * (d + euler * s / (v + s**2)) if correct else euler)
    return torch.tensor(factors)


def products(factors):
    """Returns the map of all further steps, of each level; one at the last."""
    return torch.cat([factors.flip(0).cumprod(0).flip(0), torch.ones(1)])


def prepared(objective, given):
    with torch.no_grad():
        return objective.prepare(given, 0)


def variances(student, variance):
    """Returns the variance after each call, from a first state of data and noise."""
    one = torch.ones(1, 1)
    for index, sigma in enumerate(student.sigmas):
        if index:
            kept = student.advance(index - 1, one, one, 0 * one).item() ** 2
            fresh = student.advance(index - 1, one, 0 * one, one).item() ** 2
            variance = kept * variance + fresh
        # At the first level the state is a latent, which is multiplied by the level.
        factor = student.call(index, one).item() / (1 if index else sigma)
        variance *= factor**2
        yield variance
