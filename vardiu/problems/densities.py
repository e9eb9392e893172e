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
from ..data.digests import digest_of_data
from ..denoisers.base import Denoiser
from ..denoisers.exact import EmpiricalDenoiser, MixtureDenoiser
from ..denoisers.levels import LevelRange
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..metrics import Metric
from ..metrics.density import log_density, mode_masses, modes_covered
from ..metrics.features import RandomCosines
from ..metrics.mmd import PAPER_BANDWIDTHS, mmd2
from ..metrics.neighbours import precision_recall
from ..metrics.transport import wasserstein2_sliced
from ..nn import MLP, with_precision
from ..posteriors.encoder import Encoder, RawScale, Scale, UnitScale
from ..reports.samples import scatter_grid
from ..settings.fields import DensitySettings
from ..storage.code import OwnCode, is_source
from ..students.base import Generator
from ..students.few_step import FewStep
from ..students.pushforward import Pushforward
from ..teachers.saved import load
from .base import (
    DATA_FILES,
    Data,
    Input,
    Judged,
    KnownSpace,
    Networks,
    Problem,
    Scores,
    Space,
    TrainingGround,
    taught_input,
)
from .kept import KeptTeacher
from .sampled_teachers import SampledTeacher, Source, find_teacher
from .targets import Target, refuse_wide, target_of

__all__ = ["DensityData", "DensityNetworks", "DensityProblem", "DensityScores"]


# Samples whose nearest neighbours are looked for.
NEIGHBOURS = 2_000


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
            return FewStep.on_grid(self.fake(), row.calls, unit=space.sigma_data)
        network = MLP(
            (row.latent,),
            space.shape,
            width=row.width,
            depth=row.depth,
            fourier=row.fourier,
            codes=row.codes,
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
    r"""Samples of a mixture, or points of a table.

    Arguments:
        space: Where samples live.
        teacher: The teacher.
        settings: The row of settings.
        target: What is distilled.
        seed: The seed of a learned teacher's training set and of a KDE teacher's points.
    """

    POINTS = 20_480  # a learned teacher's training set, as in the paper

    def __init__(
        self,
        space: Space,
        teacher: SampledTeacher,
        settings: DensitySettings,
        target: Target,
        seed: int,
    ) -> None:
        super().__init__(space, teacher)
        self.settings, self.target, self.seed = settings, target, seed

    def account(self) -> list[str]:
        return [self.target.account] if self.target.account else []

    def clean(self, size: int, seed: int) -> Batches:
        x = self.target.points
        if x is None:
            x = self.target.spec.sample(self.POINTS, torch.Generator().manual_seed(self.seed))
        # A batch may be larger than a table: its rows are then met several times.
        return Shuffled(x.repeat(math.ceil(size / len(x)), 1), {}, size, seed=seed)

    def reference(self, n: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        # A KDE denoises its own points; between them, at small noise, it pulls to the nearest.
        if self.settings.teacher == "kde":
            return kernel_points(self.settings, self.target, self.seed)[:n], {}
        random = torch.Generator().manual_seed(1)
        exact = self.settings.teacher == "exact" and self.teacher.denoiser is not None
        return (self.target.spec.sample if exact else self.target.truth)(n, random), {}


class DensityScores(Scores):
    r"""Distances to a density, and the share of its modes; of a table, to points held out.

    Arguments:
        space: Where samples live.
        target: What is distilled.
    """

    headline = ("mmd2", "log_density", "modes")
    judged = Judged("mmd2", coverage=("modes",))
    quick = 4_000
    samples = 10_000

    TRAINED = 50_000  # samples that moments are taken of

    def __init__(self, space: Space, target: Target) -> None:
        self.space, self.target, self.spec = space, target, target.spec

    def measure(self, source: Source, n: int = 10_000, seed: int = 0) -> list[Metric]:
        random = torch.Generator().manual_seed(seed)
        x, _ = source(n, random)
        truth = self.target.truth(n, torch.Generator().manual_seed(seed + 10_000))
        centres = self.target.centres
        found = [
            *mmd2(x, truth, self.bandwidths),
            log_density(x, self.spec.log_prob),
            modes_covered(x, centres, threshold=0.4 / len(centres)),
            wasserstein2_sliced(x, truth, generator=random),
        ]
        if self.target.points is not None and len(truth) > 10:
            found += precision_recall(truth[:NEIGHBOURS], x[:NEIGHBOURS], features="coordinates")
        return found

    def training_ground(self) -> TrainingGround:
        x = self.target.points
        if x is None:
            x = self.spec.sample(self.TRAINED, torch.Generator().manual_seed(3))
        return TrainingGround(RandomCosines(x), x)

    @property
    def bandwidths(self) -> Sequence[float]:
        r"""The kernels of MMD: the paper's, of a table in units of a typical distance."""
        if self.target.points is None:
            return PAPER_BANDWIDTHS
        unit = self.space.sigma_data * math.sqrt(math.prod(self.space.shape) / 2)
        return [h * unit for h in PAPER_BANDWIDTHS]

    def histogram(self, x: Tensor) -> list[float]:
        return mode_masses(x, self.target.centres).tolist()

    @functools.cached_property
    def expected_shares(self) -> list[float]:
        # Not the weights: where modes overlap, some samples are nearer to another's mean.
        return self.histogram(self.spec.sample(50_000, torch.Generator().manual_seed(2)))

    def teacher_metrics(self, n: int) -> tuple[list[Metric], str]:
        found = self.measure(lambda m, random: (self.spec.sample(m, random), {}), n)
        return found, "true samples" if self.target.points is None else "kernel density"

    def plot_beside_data(self, source: Source, path: Path, title: str, seed: int = 0) -> Path:
        random = torch.Generator().manual_seed(seed)
        truth = self.target.truth(4000, torch.Generator().manual_seed(seed + 1))
        name = "target" if self.target.points is None else "points held out"
        return self.plot_side_by_side([(name, truth), (title, source(4000, random)[0])], path)

    def plot_samples(self, x: Tensor, path: Path, of: str = "") -> Path:
        return self.plot_side_by_side([(f"{len(x):,} samples{of}", x)], path)

    def plot_side_by_side(self, samples: Sequence[tuple[str, Tensor]], path: Path) -> Path:
        # The first two dimensions; over contours where there are no others.
        shift, unit = self._frame
        panels = [(title, in_plane((x - shift) / unit).numpy()) for title, x in samples]
        means = (self.spec.means - shift) / unit
        extent = means[:, :2].abs().max() + 4 * (self.spec.stds / unit.max()).max()

        def density(points: np.ndarray) -> np.ndarray:
            x = torch.as_tensor(points).to(self.spec.means) * unit + shift
            return self.spec.log_prob(x).numpy()

        plane = self.space.shape == (2,)
        return scatter_grid(panels, density if plane else None, float(extent), path)

    @property
    def _frame(self) -> tuple[Tensor, Tensor]:
        r"""The origin and the units of pictures: of a table its mean and deviations."""
        if self.target.points is None:
            return torch.zeros(()), torch.ones(())
        return self.spec.mean, self.spec.std


def in_plane(x: Tensor) -> Tensor:
    r"""Returns the first two dimensions; of one dimension, it and heights without a meaning."""
    if x.shape[1] > 1:
        return x[:, :2]
    heights = torch.rand(len(x), 1, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    return torch.cat([x, 2 * heights - 1], dim=1)


class DensityProblem(Problem):
    r"""A mixture of Gaussians in any dimension, whose score is known exactly.

    Arguments:
        settings: The row of settings.
        seed: The seed of the data that a KDE or a learned teacher is made of.
        untaught: Whether the teacher is yet to be trained.
        own: Own code by the setting that it is of: `source`, of a density.
        kept: What a finished run keeps of its teacher, which is then read when it is asked for.

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
        kept: KeptTeacher | None = None,
    ) -> None:
        self.settings, self.seed, self.kept_teacher = settings, seed, kept
        target = target_of(settings, own.get("source"))
        spec = target.spec
        variance = float(spec.std.square().mean())
        self.space = KnownSpace(spec.means.shape[1:], spec.mean, math.sqrt(variance), variance)

        def read() -> Denoiser:
            return TEACHERS[settings.teacher](settings, target, seed)

        now = kept is None and not untaught
        teacher = SampledTeacher(read() if now else None, None if untaught else read)
        self.networks = DensityNetworks(self.space, teacher, settings)
        self.data = DensityData(self.space, teacher, settings, target, seed)
        self.scores = DensityScores(self.space, target)

    def inputs(self) -> Mapping[str, Input]:
        row = self.settings
        found: dict[str, Input] = {}
        if self.data.teacher.at_hand is not None and row.teacher == "learned":
            words = row.source or row.name
            found |= taught_input(self, find_teacher(row.teacher_run, row.name, words=words))
        if row.source is not None and not is_source(row.source):
            sha256 = digest_of_data(row.source)
            assert sha256 is not None  # it was read
            found[DATA_FILES] = Input(row.source, sha256)
        return found


def level_range(row: DensitySettings) -> LevelRange:
    r"""Returns the smallest and the largest noise level, as arguments of a denoiser."""
    return {"sigma_min": row.sigma_min, "sigma_max": row.sigma_max}


def kernel_points(row: DensitySettings, target: Target, seed: int) -> Tensor:
    r"""Returns the samples that a KDE teacher is made of."""
    if target.points is not None:
        return target.points[: row.points]
    return target.spec.sample(row.points, torch.Generator().manual_seed(seed))


def _exact(row: DensitySettings, target: Target, seed: int) -> Denoiser:
    spec = target.spec
    return MixtureDenoiser(spec.means, spec.stds, spec.weights, **level_range(row))


def _kde(row: DensitySettings, target: Target, seed: int) -> Denoiser:
    points = kernel_points(row, target, seed)
    if target.points is None:
        refuse_wide(row.bandwidth, points, row.name)
    return EmpiricalDenoiser(points, bandwidth=row.bandwidth, **level_range(row))


def _learned(row: DensitySettings, target: Target, seed: int) -> Denoiser:
    return load(find_teacher(row.teacher_run, row.name, words=row.source or row.name))


TEACHERS: Mapping[str, Callable[[DensitySettings, Target, int], Denoiser]] = {
    "exact": _exact,
    "kde": _kde,
    "learned": _learned,
}
