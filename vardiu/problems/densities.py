r"""Densities whose score is known."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..data.batches import Batches, DataFree, Shuffled
from ..data.densities import DENSITIES, mixture
from ..denoisers.base import Denoiser
from ..denoisers.exact import EmpiricalDenoiser, MixtureDenoiser
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..errors import ConfigError, nearest
from ..metrics import Metric
from ..metrics.density import log_density, mode_masses, modes_covered
from ..metrics.mmd import mmd2
from ..metrics.transport import wasserstein2_sliced
from ..nn import MLP
from ..posteriors.encoder import Encoder, RawScale, Scale, UnitScale
from ..reports.samples import scatter_grid
from ..settings.fields import DensitySettings
from ..students.base import Generator
from ..students.pushforward import Pushforward
from ..teachers.saved import load
from .base import Problem, Source, precise, taught

__all__ = ["DensityProblem"]


class DensityProblem(Problem):
    r"""A mixture of Gaussians in any dimension, whose score is known exactly.

    Arguments:
        settings: The row of settings.
        seed: The seed of the data that a KDE or a learned teacher is made of.
    """

    headline = ("mmd2", "log_density", "modes")
    QUICK = 4_000
    samples = 10_000
    POINTS = 20_480  # a learned teacher's training set, as in the paper

    def __init__(
        self, settings: DensitySettings, seed: int = 0, *, untaught: bool = False
    ) -> None:
        if settings.name == "mixture":
            spec = mixture(settings.dim, settings.modes, seed=0)
        elif settings.name in DENSITIES:
            spec = DENSITIES[settings.name]()
        else:
            names = [*DENSITIES, "mixture"]
            raise ConfigError(
                f"unknown density {settings.name!r}; {nearest(settings.name, names)}"
            )
        self.settings, self.spec, self.seed = settings, spec, seed
        self.shape = tuple(spec.means.shape[1:])
        self.mean, self.variance = spec.mean, float(spec.std.square().mean())
        self.sigma_data = math.sqrt(self.variance)
        self.teacher = None if untaught else TEACHERS[settings.teacher](self)

    @property
    def range(self) -> dict[str, float]:
        return {"sigma_min": self.settings.sigma_min, "sigma_max": self.settings.sigma_max}

    def student(self) -> Generator:
        row = self.settings
        size = {"width": row.width, "depth": row.depth, "fourier": row.fourier}
        network = MLP((row.latent,), self.shape, **size)
        if row.residual:
            nn.init.zeros_(network.last.weight)
            nn.init.zeros_(network.last.bias)
        return Pushforward(
            precise(network, row.precision),
            latent_shape=(row.latent,),
            shape=self.shape,
            mean=self.mean if row.scaled else 0.0,
            std=self.sigma_data if row.scaled else 1.0,
            residual=row.residual,
        )

    def encoder(self) -> Encoder:
        row = self.settings
        network = MLP(
            self.shape, (row.width,), width=row.width, depth=row.depth, noisy=True, final=False
        )
        scale: Scale = UnitScale(self.sigma_data, self.mean) if row.scaled else RawScale()
        return Encoder(precise(network, row.precision), row.width, scale)

    def network(self) -> Denoiser:
        row = self.settings
        network = MLP(self.shape, self.shape, width=row.width, depth=row.depth, noisy=True)
        return PreconditionedDenoiser(
            precise(network, row.precision),
            shape=self.shape,
            sigma_data=self.sigma_data,
            mean=self.mean,
            **self.range,
        )

    def batches(self, size: int, seed: int) -> Batches:
        return DataFree(size, seed=seed)

    def data(self, size: int, seed: int) -> Batches:
        x = self.spec.sample(self.POINTS, torch.Generator().manual_seed(self.seed))
        return Shuffled(x, {}, size, seed=seed)

    def points(self) -> Tensor:
        r"""Returns the samples that a KDE teacher is made of."""
        return self.spec.sample(self.settings.points, torch.Generator().manual_seed(self.seed))

    def reference(self, n: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        # A KDE denoises its own points; between them, at small noise, it pulls to the nearest.
        if self.settings.teacher == "kde":
            return self.points()[:n], {}
        return self.spec.sample(n, torch.Generator().manual_seed(1)), {}

    def measure(self, source: Source, n: int = 10_000, seed: int = 0) -> list[Metric]:
        random = torch.Generator().manual_seed(seed)
        x, _ = source(n, random)
        truth = self.spec.sample(n, torch.Generator().manual_seed(seed + 10_000))
        return [
            *mmd2(x, truth),
            log_density(x, self.spec.log_prob),
            modes_covered(x, self.spec.means, threshold=0.4 / len(self.spec.means)),
            wasserstein2_sliced(x, truth, generator=random),
        ]

    def histogram(self, x: Tensor) -> list[float]:
        return mode_masses(x, self.spec.means).tolist()

    @functools.cached_property
    def due(self) -> list[float]:
        # Not the weights: where modes overlap, some samples are nearer to another's mean.
        return self.histogram(self.spec.sample(50_000, torch.Generator().manual_seed(2)))

    def compared_with(self, n: int) -> tuple[list[Metric], str]:
        return self.measure(lambda m, random: (self.spec.sample(m, random), {}), n), "true samples"

    def picture(self, source: Source, path: Path, title: str, seed: int = 0) -> Path:
        random = torch.Generator().manual_seed(seed)
        truth = self.spec.sample(4000, torch.Generator().manual_seed(seed + 1))[:, :2].numpy()
        panels = [("target", truth), (title, source(4000, random)[0][:, :2].numpy())]
        return self.scatter(panels, path)

    def draw(self, x: Tensor, path: Path) -> Path:
        return self.scatter([(f"{len(x):,} samples", x[:, :2].numpy())], path)

    def panels(self, samples: Sequence[tuple[str, Tensor]], path: Path) -> Path:
        return self.scatter([(title, x[:, :2].numpy()) for title, x in samples], path)

    def scatter(self, panels: Sequence[tuple[str, np.ndarray]], path: Path) -> Path:
        r"""Draws the first two dimensions; over contours where there are no others."""
        extent = self.spec.means[:, :2].abs().max() + 4 * self.spec.stds.max()

        def density(points: np.ndarray) -> np.ndarray:
            return self.spec.log_prob(torch.as_tensor(points).to(self.mean)).numpy()

        plane = self.shape == (2,)
        return scatter_grid(panels, density if plane else None, float(extent), path)


def _exact(problem: DensityProblem) -> Denoiser:
    spec = problem.spec
    return MixtureDenoiser(spec.means, spec.stds, spec.weights, **problem.range)


def _kde(problem: DensityProblem) -> Denoiser:
    row = problem.settings
    return EmpiricalDenoiser(problem.points(), bandwidth=row.bandwidth, **problem.range)


def _learned(problem: DensityProblem) -> Denoiser:
    return load(taught(problem.settings.teacher_run, problem.settings.name))


TEACHERS: Mapping[str, Callable[[DensityProblem], Denoiser]] = {
    "exact": _exact,
    "kde": _kde,
    "learned": _learned,
}
