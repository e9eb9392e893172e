r"""Densities that are mixtures of Gaussians, so that every noisy score is exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DENSITIES", "MixtureSpec", "mixture"]


@dataclass(frozen=True)
class MixtureSpec:
    r"""A mixture :math:`\sum_m w_m \, \mathcal{N}(\mu_m, s_m^2 I)`.

    Arguments:
        means: The means :math:`\mu_m`, with shape :math:`(M, d)`.
        stds: The standard deviations :math:`s_m`, with shape :math:`(M)`.
        weights: The weights :math:`w_m`, with shape :math:`(M)`, of sum one.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        m = len(self.means)
        if self.means.ndim != 2 or self.stds.shape != (m,) or self.weights.shape != (m,):
            raise ValueError(
                "means must have shape (M, d), stds and weights (M,), got "
                f"{tuple(self.means.shape)}, {tuple(self.stds.shape)}, {tuple(self.weights.shape)}"
            )

    @property
    def mean(self) -> Tensor:
        r"""The mean, with shape `(d,)`."""
        return self.weights @ self.means

    @property
    def std(self) -> Tensor:
        r"""The standard deviation of each dimension, with shape `(d,)`."""
        # About the mean, in float64: far from the origin the difference of squares is rounding.
        weights, means, stds = self.weights.double(), self.means.double(), self.stds.double()
        squares = (means - weights @ means / weights.sum()).square() + stds.square()[:, None]
        return (weights @ squares).sqrt().to(self.means)

    @property
    def spread(self) -> float:
        r"""The standard deviation, one number for all dimensions (root mean square)."""
        return math.sqrt(float(self.std.square().mean()))

    @property
    def grain(self) -> float:
        r"""The standard deviation of the narrowest Gaussian: the smallest length there is."""
        return float(self.stds.min())

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        r"""Draws samples, with shape `(n, d)`."""
        component = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        shape = (n, self.means.shape[1])
        noise = torch.randn(shape, generator=generator, dtype=self.means.dtype)
        return self.means[component] + self.stds[component, None] * noise

    def log_prob(self, x: Tensor) -> Tensor:
        r"""Returns the log-density at points `(N, d)`, in nats, with shape `(N,)`."""
        d = x.shape[1]
        parts = []
        for chunk in x.split(4096):
            square = torch.cdist(chunk, self.means, compute_mode="donot_use_mm_for_euclid_dist")
            log_p = -0.5 * (square / self.stds).square() - d * self.stds.log() + self.weights.log()
            parts.append(log_p.logsumexp(1) - 0.5 * d * math.log(2 * math.pi))
        return torch.cat(parts)

    def to(self, dtype: torch.dtype) -> MixtureSpec:
        r"""Returns the mixture in another type."""
        return MixtureSpec(self.means.to(dtype), self.stds.to(dtype), self.weights.to(dtype))


def even(means: Tensor, std: float) -> MixtureSpec:
    r"""Returns a mixture of equal weights and equal standard deviations."""
    m = len(means)
    return MixtureSpec(means, means.new_full((m,), std), means.new_full((m,), 1 / m))


def mog40() -> MixtureSpec:
    r"""Returns forty Gaussians in a square of side 80, as in VarDiU's experiments.

    Means are uniform in :math:`[-40, 40]^2` by torch's generator seeded with 0; the standard
    deviation is :math:`\mathrm{softplus}(1) = 1.3133`.

    References:
        | Flow Annealed Importance Sampling Bootstrap (Midgley et al., 2022)
        | https://arxiv.org/abs/2208.01893
    """
    # The published numbers are float32's; other types draw others.
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(40, 2, generator=generator, dtype=torch.float32)
    means = (uniform - 0.5) * 2 * 40
    return even(means.to(torch.get_default_dtype()), math.log1p(math.e))


def ring8() -> MixtureSpec:
    r"""Returns eight narrow Gaussians on a circle of radius 4."""
    angles = torch.arange(8) * (2 * math.pi / 8)
    return even(4 * torch.stack([angles.cos(), angles.sin()], dim=1), 0.2)


def grid25() -> MixtureSpec:
    r"""Returns twenty-five narrow Gaussians on a square grid of pitch 2."""
    axis = torch.arange(-2.0, 3.0) * 2
    return even(torch.cartesian_prod(axis, axis), 0.1)


def spiral() -> MixtureSpec:
    r"""Returns two turns of a spiral, 200 Gaussians along it."""
    t = torch.linspace(0.1, 1, 200).sqrt() * 4 * math.pi
    return even(t[:, None] / math.pi * torch.stack([t.cos(), t.sin()], dim=1), 0.08)


def checkerboard() -> MixtureSpec:
    r"""Returns the dark squares of a 4x4 board of side 8, 36 Gaussians a square."""
    offset = (torch.arange(6) + 0.5) / 6 * 2
    corners = [(2.0 * i - 4, 2.0 * j - 4) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    cells = torch.cartesian_prod(offset, offset)
    return even(torch.cat([cells + torch.tensor(corner) for corner in corners]), 0.15)


def two_moons() -> MixtureSpec:
    r"""Returns two interleaved half circles of radius 2, 50 Gaussians each."""
    t = torch.linspace(0, math.pi, 50)
    upper = torch.stack([2 * t.cos() - 1, 2 * t.sin() - 0.5], dim=1)
    return even(torch.cat([upper, -upper]), 0.12)


def pinwheel() -> MixtureSpec:
    r"""Returns five bent arms, 40 Gaussians along each, wider where they are further out.

    An arm has radii :math:`2 r`, :math:`r \sim \mathcal{N}(1, 0.3^2)`, and turns by
    :math:`e^r / 4`.

    References:
        | Composing graphical models with neural networks (Johnson et al., 2016)
        | https://arxiv.org/abs/1603.06277
    """
    quantiles = torch.special.ndtri((torch.arange(40) + 0.5) / 40)
    r = (1 + 0.3 * quantiles).repeat(5)
    turn = torch.arange(5).repeat_interleave(40) * (2 * math.pi / 5) + r.exp() / 4
    means = 2 * r[:, None] * torch.stack([turn.cos(), turn.sin()], dim=1)
    return MixtureSpec(means, 0.05 + 0.03 * r, torch.full((200,), 1 / 200))


def fractal() -> MixtureSpec:
    r"""Returns a tree whose branches fork seven times, four Gaussians a branch.

    A branch is 0.7 times as long and as wide as the one it grows from, and has half its mass: most
    of it is in thin twigs, as in the example of autoguidance.

    References:
        | Guiding a Diffusion Model with a Bad Version of Itself (Karras et al., 2024)
        | https://arxiv.org/abs/2406.02507
    """
    start, angle = torch.tensor([[0.0, -2.5]]), torch.tensor([math.pi / 2])
    means, stds, weights = [], [], []
    length, std = 1.6, 0.12
    for level in range(7):
        along = torch.stack([angle.cos(), angle.sin()], dim=1) * length
        for place in (0.125, 0.375, 0.625, 0.875):
            means.append(start + place * along)
            stds.append(torch.full((len(start),), std))
            weights.append(torch.full((len(start),), 0.5**level))
        start = (start + along).repeat(2, 1)
        angle = torch.cat([angle + 0.55, angle - 0.45])
        length, std = 0.7 * length, 0.7 * std
    weight = torch.cat(weights)
    return MixtureSpec(torch.cat(means), torch.cat(stds), weight / weight.sum())


DENSITIES: Mapping[str, Callable[[], MixtureSpec]] = {
    "checkerboard": checkerboard,
    "fractal": fractal,
    "grid25": grid25,
    "mog40": mog40,
    "pinwheel": pinwheel,
    "ring8": ring8,
    "spiral": spiral,
    "two_moons": two_moons,
}


def mixture(dim: int, components: int, *, seed: int = 0, separation: float = 6.0) -> MixtureSpec:
    r"""Returns a random mixture in any dimension, of unit standard deviations.

    Means are normal with such a scale that two of them are `separation` standard deviations apart
    on average (root mean square), whatever the dimension; weights are drawn from a Dirichlet
    distribution of concentration 5.
    """
    if dim < 1 or components < 1:
        raise ValueError(f"dim and components must be at least 1, got {dim} and {components}")
    generator = torch.Generator().manual_seed(seed)
    scale = separation / math.sqrt(2 * dim)
    means = scale * torch.randn(components, dim, generator=generator)
    gamma = torch.empty(5, components).exponential_(generator=generator).sum(0)
    return MixtureSpec(means, torch.ones(components), gamma / gamma.sum())
