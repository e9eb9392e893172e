r"""Densities whose score is known."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.batches import Batches, Shuffled
from ..data.densities import DENSITIES, MixtureSpec, mixture
from ..denoisers.base import Denoiser
from ..denoisers.exact import EmpiricalDenoiser, MixtureDenoiser
from ..denoisers.levels import LevelRange
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..errors import known
from ..metrics import Metric
from ..metrics.density import log_density, mode_masses, modes_covered
from ..metrics.mmd import mmd2
from ..metrics.transport import wasserstein2_sliced
from ..nn import MLP, with_precision
from ..posteriors.encoder import Encoder, RawScale, Scale, UnitScale
from ..reports.samples import scatter_grid
from ..settings.fields import DensitySettings
from ..storage.code import OwnCode
from ..students.base import Generator
from ..students.few_step import FewStep
from ..students.pushforward import Pushforward
from ..teachers.saved import load
from .base import Data, Input, Judged, KnownSpace, Networks, Problem, Scores, Space
from .sampled_teachers import SampledTeacher, Source, find_teacher

__all__ = ["DensityData", "DensityNetworks", "DensityProblem", "DensityScores"]


class DensityNetworks(Networks):
    r"""Multi-layer perceptrons.

    Arguments:
        space: Where samples live.
        teacher: The teacher.
        settings: The row of settings.
    """

    def __init__(self, space: Space, teacher: SampledTeacher, settings: DensitySettings) -> None:
        super().__init__(space, teacher)
        self.settings = settings

    def student(self) -> Generator:
        row, space = self.settings, self.space
        if row.calls > 1:
            return FewStep.on_grid(self.fake(), row.calls)
        network = MLP(
            (row.latent,), space.shape, width=row.width, depth=row.depth, fourier=row.fourier
        )
        if row.residual:
            network.start_at_zero()
        return Pushforward(
            with_precision(network, row.precision),
            latent_shape=(row.latent,),
            shape=space.shape,
            mean=space.mean if row.scaled else 0.0,
            std=space.sigma_data if row.scaled else 1.0,
            residual=row.residual,
        )

    def encoder(self) -> Encoder:
        row, space = self.settings, self.space
        network = MLP(
            space.shape, (row.width,), width=row.width, depth=row.depth, noisy=True, final=False
        )
        scale: Scale = UnitScale(space.sigma_data, space.mean) if row.scaled else RawScale()
        return Encoder(with_precision(network, row.precision), row.width, scale)

    def student_denoiser(self) -> Denoiser:
        taught = next(self.teacher.known.parameters(), None) is not None
        return self.fake() if taught else self.denoiser(self.settings.fourier)

    def denoiser(self, fourier: int = 0) -> Denoiser:
        r"""Returns a fresh denoiser of the data.

        Arguments:
            fourier: Octaves of sines and cosines of its input that its network sees beside it.
        """
        row, shape = self.settings, self.space.shape
        network = MLP(shape, shape, width=row.width, depth=row.depth, fourier=fourier, noisy=True)
        return PreconditionedDenoiser(
            with_precision(network, row.precision),
            shape=shape,
            sigma_data=self.space.sigma_data,
            mean=self.space.mean,
            **level_range(row),
        )


class DensityData(Data):
    r"""Samples of a mixture.

    Arguments:
        space: Where samples live.
        teacher: The teacher.
        settings: The row of settings.
        spec: The mixture.
        seed: The seed of a learned teacher's training set and of a KDE teacher's points.
    """

    POINTS = 20_480  # a learned teacher's training set, as in the paper

    def __init__(
        self,
        space: Space,
        teacher: SampledTeacher,
        settings: DensitySettings,
        spec: MixtureSpec,
        seed: int,
    ) -> None:
        super().__init__(space, teacher)
        self.settings, self.spec, self.seed = settings, spec, seed

    def clean(self, size: int, seed: int) -> Batches:
        x = self.spec.sample(self.POINTS, torch.Generator().manual_seed(self.seed))
        return Shuffled(x, {}, size, seed=seed)

    def reference(self, n: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        # A KDE denoises its own points; between them, at small noise, it pulls to the nearest.
        if self.settings.teacher == "kde":
            return kernel_points(self.settings, self.spec, self.seed)[:n], {}
        return self.spec.sample(n, torch.Generator().manual_seed(1)), {}


class DensityScores(Scores):
    r"""Distances to a mixture, and the share of its modes.

    Arguments:
        space: Where samples live.
        spec: The mixture.
    """

    headline = ("mmd2", "log_density", "modes")
    judged = Judged("mmd2", coverage=("modes",))
    quick = 4_000
    samples = 10_000

    def __init__(self, space: Space, spec: MixtureSpec) -> None:
        self.space, self.spec = space, spec

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
    def expected_shares(self) -> list[float]:
        # Not the weights: where modes overlap, some samples are nearer to another's mean.
        return self.histogram(self.spec.sample(50_000, torch.Generator().manual_seed(2)))

    def teacher_metrics(self, n: int) -> tuple[list[Metric], str]:
        return self.measure(lambda m, random: (self.spec.sample(m, random), {}), n), "true samples"

    def plot_beside_data(self, source: Source, path: Path, title: str, seed: int = 0) -> Path:
        random = torch.Generator().manual_seed(seed)
        truth = self.spec.sample(4000, torch.Generator().manual_seed(seed + 1))
        return self.plot_side_by_side([("target", truth), (title, source(4000, random)[0])], path)

    def plot_samples(self, x: Tensor, path: Path) -> Path:
        return self.plot_side_by_side([(f"{len(x):,} samples", x)], path)

    def plot_side_by_side(self, samples: Sequence[tuple[str, Tensor]], path: Path) -> Path:
        # The first two dimensions; over contours where there are no others.
        panels = [(title, x[:, :2].numpy()) for title, x in samples]
        extent = self.spec.means[:, :2].abs().max() + 4 * self.spec.stds.max()

        def density(points: np.ndarray) -> np.ndarray:
            return self.spec.log_prob(torch.as_tensor(points).to(self.spec.means)).numpy()

        plane = self.space.shape == (2,)
        return scatter_grid(panels, density if plane else None, float(extent), path)


class DensityProblem(Problem):
    r"""A mixture of Gaussians in any dimension, whose score is known exactly.

    Arguments:
        settings: The row of settings.
        seed: The seed of the data that a KDE or a learned teacher is made of.
        untaught: Whether the teacher is yet to be trained.
        own: Not used: no setting of a density is own code.

    Raises:
        ConfigError: There is no such density, or no such teacher.
    """

    headline = DensityScores.headline
    judged = DensityScores.judged

    def __init__(
        self,
        settings: DensitySettings,
        seed: int = 0,
        *,
        untaught: bool = False,
        own: Mapping[str, OwnCode] = {},
    ) -> None:
        self.settings, self.seed = settings, seed
        spec = spec_of(settings)
        variance = float(spec.std.square().mean())
        self.space = KnownSpace(spec.means.shape[1:], spec.mean, math.sqrt(variance), variance)
        teacher = SampledTeacher(
            None if untaught else TEACHERS[settings.teacher](settings, spec, seed)
        )
        self.networks = DensityNetworks(self.space, teacher, settings)
        self.data = DensityData(self.space, teacher, settings, spec, seed)
        self.scores = DensityScores(self.space, spec)

    def inputs(self) -> Mapping[str, Input]:
        row = self.settings
        learned = self.teacher is not None and row.teacher == "learned"
        return self.taught_input(find_teacher(row.teacher_run, row.name)) if learned else {}


def spec_of(settings: DensitySettings) -> MixtureSpec:
    r"""Returns the mixture of a row of settings.

    Raises:
        ConfigError: There is none of this name; the nearest ones are offered.
    """
    if settings.name == "mixture":
        return mixture(settings.dim, settings.modes, seed=0)
    return DENSITIES[known(settings.name, [*DENSITIES, "mixture"], "density")]()


def level_range(row: DensitySettings) -> LevelRange:
    r"""Returns the smallest and the largest noise level, as arguments of a denoiser."""
    return {"sigma_min": row.sigma_min, "sigma_max": row.sigma_max}


def kernel_points(row: DensitySettings, spec: MixtureSpec, seed: int) -> Tensor:
    r"""Returns the samples that a KDE teacher is made of."""
    return spec.sample(row.points, torch.Generator().manual_seed(seed))


def _exact(row: DensitySettings, spec: MixtureSpec, seed: int) -> Denoiser:
    return MixtureDenoiser(spec.means, spec.stds, spec.weights, **level_range(row))


def _kde(row: DensitySettings, spec: MixtureSpec, seed: int) -> Denoiser:
    points = kernel_points(row, spec, seed)
    return EmpiricalDenoiser(points, bandwidth=row.bandwidth, **level_range(row))


def _learned(row: DensitySettings, spec: MixtureSpec, seed: int) -> Denoiser:
    return load(find_teacher(row.teacher_run, row.name))


TEACHERS: Mapping[str, Callable[[DensitySettings, MixtureSpec, int], Denoiser]] = {
    "exact": _exact,
    "kde": _kde,
    "learned": _learned,
}
