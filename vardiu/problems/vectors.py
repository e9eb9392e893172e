r"""The problem of distilling any teacher of vectors, or of tensors of any shape.

The noise levels of a method's settings are multiples of the data's standard deviation here,
within the teacher's own range: one row of settings fits data of any scale.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.batches import Batches, Shuffled
from ..data.points import Points, account, read_table
from ..denoisers import lora
from ..denoisers.base import Denoiser
from ..denoisers.lora_files import save_adapter
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..errors import ConfigError, amount, shown
from ..metrics import Metric
from ..metrics.features import RandomCosines
from ..metrics.mmd import mmd2
from ..metrics.neighbours import density_coverage, precision_recall
from ..metrics.transport import wasserstein2_sliced
from ..nn import MLP, with_precision
from ..posteriors.encoder import Encoder, UnitScale
from ..reports.samples import scatter_grid
from ..settings.fields import (
    AnchorSettings,
    FrameSettings,
    ImageSettings,
    LevelSettings,
    VectorSettings,
)
from ..settings.grounds import rescaled
from ..storage.code import OwnCode
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from ..students.few_step import FewStep, OneStep
from ..students.pushforward import Pushforward
from ..teachers.origin import Origin
from .base import Data, Judged, Networks, Problem, Scores, Space, TrainingGround
from .image_teachers import ImageTeacher
from .kept import KeptTeacher
from .sampled_teachers import SOLVER_STEPS, Source
from .starts import check_start, has_weights, refuse_other_starts, started
from .tenths import Tenths

__all__ = ["VectorProblem"]


# Of the samples that stand for data.
STEPS = 18


TEACHER = f"teacher, {2 * SOLVER_STEPS - 1} calls"


class VectorSpace(Space):
    r"""Where a teacher of vectors lives.

    Arguments:
        teacher: The teacher.
        sample: Returns the samples that mean and spread are measured on.
    """

    def __init__(self, teacher: ImageTeacher, sample: Callable[[], Tensor]) -> None:
        self.shape, self.classes = teacher.shape, teacher.classes
        self.conditions = ("label",) if self.classes else ()
        self._make = sample

    @functools.cached_property
    def _sample(self) -> Tensor:
        return self._make()

    @functools.cached_property
    def mean(self) -> Tensor:
        return self._sample.mean(0)

    @functools.cached_property
    def variance(self) -> float:
        return float((self._sample - self.mean).square().mean())

    @functools.cached_property
    def sigma_data(self) -> float:
        return math.sqrt(self.variance)

    @property
    def unit(self) -> float:
        return self.sigma_data


class VectorNetworks(Networks):
    r"""The teacher's network, low-rank changes of it, or multi-layer perceptrons.

    Arguments:
        space: Where samples live.
        teacher: The teacher.
        settings: The row of settings.
    """

    teacher: ImageTeacher

    def __init__(self, space: Space, teacher: ImageTeacher, settings: VectorSettings) -> None:
        super().__init__(space, teacher)
        self.settings = settings

    @property
    def _inner(self) -> Denoiser:
        return self.teacher.known if self.teacher.inner is None else self.teacher.inner

    def fake(self) -> Denoiser:
        row, inner = self.settings, self._inner
        if not has_weights(inner):  # a function: the student is a fresh network
            return self.denoiser()
        return started(inner, row.student, row.rank, row.precision)

    def student_denoiser(self) -> Denoiser:
        return self.denoiser() if self.settings.student == "fresh" else self.fake()

    def student(self) -> Generator:
        row, space = self.settings, self.space
        if row.calls > 1:
            denoiser = self.student_denoiser()
            return FewStep.on_grid(denoiser, row.calls, row.sigma, row.rule, space.unit)
        if row.student != "fresh":
            return OneStep(self.fake(), row.sigma)
        network = MLP(
            space.shape,
            space.shape,
            width=row.width,
            depth=row.depth,
            fourier=row.fourier,
            classes=space.classes,
        )
        return Pushforward(
            with_precision(network, row.precision),
            latent_shape=space.shape,
            shape=space.shape,
            mean=space.mean,
            std=space.sigma_data,
            conditions=space.conditions,
        )

    def encoder(self) -> Encoder:
        row, space = self.settings, self.space
        network = MLP(
            space.shape,
            (row.width,),
            width=row.width,
            depth=row.depth,
            noisy=True,
            classes=space.classes,
            final=False,
        )
        scale = UnitScale(space.sigma_data, space.mean, space.unit)
        return Encoder(with_precision(network, row.precision), row.width, scale)

    def denoiser(self) -> Denoiser:
        row, space, inner = self.settings, self.space, self._inner
        network = MLP(
            space.shape,
            space.shape,
            width=row.width,
            depth=row.depth,
            noisy=True,
            classes=space.classes,
        )
        return PreconditionedDenoiser(
            with_precision(network, row.precision),
            shape=space.shape,
            sigma_data=space.sigma_data,
            sigma_min=inner.sigma_min,
            sigma_max=inner.sigma_max,
            mean=space.mean,
            conditions=space.conditions,
            unit=space.unit,
        )


class VectorData(Data):
    r"""Points of a file, or the teacher's own samples in their place.

    Arguments:
        space: Where samples live.
        teacher: The teacher.
        settings: The row of settings.
        seed: The seed of what stands for data where there are none.
    """

    teacher: ImageTeacher

    def __init__(
        self, space: VectorSpace, teacher: ImageTeacher, settings: VectorSettings, seed: int
    ) -> None:
        super().__init__(space, teacher)
        self.settings, self.seed = settings, seed

    @property
    def names(self) -> tuple[str, ...]:
        return self.teacher.names

    def account(self) -> list[str]:
        if self.settings.data is None:
            return []
        return [account(self.table.x, self.table.names)]

    @property
    def points(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        r"""The points of the file, all of them, and their conditions.

        Raises:
            ConfigError: There is no file, or it does not fit the teacher.
        """
        return self.table.x, self.table.cond

    @functools.cached_property
    def table(self) -> Points:
        r"""What the file holds.

        Raises:
            ConfigError: There is no file, or it does not fit the teacher.
        """
        if self.settings.data is None:
            raise ConfigError("this needs data: give problem.data (--data)")
        return read_table(self.settings.data, self.space.shape, self.space.classes)

    def clean(self, size: int, seed: int) -> Batches:
        x, cond = self.points
        if size > len(x):
            raise ConfigError(
                f"{shown(self.settings.data)} has {amount(len(x), 'point')}, fewer than a "
                f"batch of {size}: give --batch"
            )
        return Shuffled(x, cond, size, seed=seed)

    @functools.cached_property
    def compared(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        r"""Points that metrics compare with, and their conditions."""
        if self.settings.data is None:
            return self.teacher_samples
        x, cond = self.points
        return evenly_spaced(x, cond, self.settings.reference)

    @property
    def labels(self) -> Tensor | None:
        return None if self.settings.data is None else self.compared[1].get("label")

    @functools.cached_property
    def teacher_samples(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        r"""Samples of the teacher, by Heun's method."""
        return self.teacher_source(STEPS)(self.settings.reference // 2, self._random())

    def _random(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed + 5)

    def reference(self, n: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        x, cond = evenly_spaced(*self.compared, n)
        wanted = self.teacher.wanted
        return x, {name: cond[name] for name in wanted}

    @property
    def unguided(self) -> Denoiser:
        return self.teacher.unguided

    @property
    def resample(self) -> Callable[[], Tensor] | None:
        if self.settings.data is not None:
            return None
        cond = self.reference(512)[1]
        n = len(next(iter(cond.values()))) if cond else 512
        return lambda: self.teacher.solve(n, self._random(), cond, STEPS)

    def frame_samples(self, row: FrameSettings, seed: int) -> dict[str, Tensor]:
        refuse_other_starts(self.settings)
        return super().frame_samples(row, seed)


class VectorScores(Scores):
    r"""Distances of points in units of the data, and their neighbours.

    Arguments:
        data: The points.
    """

    headline = ("mmd2", "precision", "recall")
    judged = Judged("mmd2", coverage=("recall",))
    quick = 2_000
    samples = 5_000

    def __init__(self, data: VectorData) -> None:
        self.data, self.space = data, data.space

    def scaled(self, x: Tensor) -> Tensor:
        r"""Returns points in units of the data, `(N, d)`: of unit variance on average."""
        space = self.space
        d = math.prod(space.shape)
        return ((x - space.mean) / (space.sigma_data * math.sqrt(d))).flatten(1)

    @functools.cached_property
    def _real(self) -> Tensor:
        return self.scaled(self.data.compared[0])

    def measure(self, source: Source, n: int = 5_000, seed: int = 0) -> list[Metric]:
        random = torch.Generator().manual_seed(seed)
        x, real = self.scaled(source(n, random)[0]), self._real
        name = "points in units of the data's root mean squared norm"
        found = [
            *mmd2(x, real, bandwidths=(0.05, 0.1, 0.2, 0.5, 1.0)),
            wasserstein2_sliced(x, real, generator=random),
            *precision_recall(real, x, features=name),
            *density_coverage(real, x, features=name),
        ]
        return [dataclasses.replace(metric, features=name) for metric in found]

    def training_ground(self) -> TrainingGround:
        x = self.data.compared[0]
        return TrainingGround(RandomCosines(x), x)

    @functools.cached_property
    def _direction(self) -> Tensor:
        return directions(self._real)[:, 0]

    @functools.cached_property
    def _tenths(self) -> Tenths:
        return Tenths(self._real @ self._direction)

    def histogram(self, x: Tensor) -> list[float]:
        # Which tenth of the data a sample falls into, along their principal direction.
        return self._tenths.of(self.scaled(x) @ self._direction)

    @property
    def expected_shares(self) -> list[float]:
        return self._tenths.shares

    def best_value(self) -> float:
        return 0.0  # what the teacher's samples cost is paid at the end

    def teacher_metrics(self, n: int) -> tuple[list[Metric], str]:
        return self.measure(self.data.teacher_source(measured=True), n), TEACHER

    def plot_samples(self, x: Tensor, path: Path, of: str = "") -> Path:
        return self.plot_side_by_side([(f"{len(x):,} samples{of}", x)], path)

    def plot_beside_data(self, source: Source, path: Path, title: str, seed: int = 0) -> Path:
        real = evenly_spaced(*self.data.compared, 4_000)[0]
        x, _ = source(4_000, torch.Generator().manual_seed(seed))
        name = TEACHER if self.data.settings.data is None else "data"
        return self.plot_side_by_side([(name, real), (title, x)], path)

    def plot_side_by_side(self, samples: Sequence[tuple[str, Tensor]], path: Path) -> Path:
        # As they are in a plane; of more dimensions, along two directions of the first ones.
        first = samples[0][1].flatten(1)
        axes = directions(first)
        panels = [(title, (x.flatten(1) @ axes).numpy()) for title, x in samples]
        reach = 1.2 * float(np.abs(panels[0][1]).max())
        return scatter_grid(panels, None, max(reach, 1e-6), path)


def directions(x: Tensor) -> Tensor:
    r"""Returns the two principal directions of points `(N, d)`, `(d, 2)`; in a plane its axes."""
    n, d = x.shape
    if d <= 2 or n <= 2:
        return torch.eye(d, 2)
    return torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:2].T


class VectorProblem(Problem):
    r"""Vectors, or tensors of any shape, that a teacher denoises.

    Arguments:
        settings: The row of settings.
        seed: The seed of what stands for data where there are none.
        untaught: Whether the teacher is yet to be trained, which no command does here.
        own: The own code that a user names for `teacher` and `weak`, by these names.
        kept: What a finished run keeps of its teacher, which is then read when it is asked for.

    Raises:
        ConfigError: There is no such teacher, or the settings do not fit it.
    """

    headline = VectorScores.headline
    judged = VectorScores.judged

    def __init__(
        self,
        settings: VectorSettings,
        seed: int = 0,
        *,
        untaught: bool = False,
        own: Mapping[str, OwnCode] = {},
        kept: KeptTeacher | None = None,
    ) -> None:
        if untaught:
            raise ConfigError("teachers of vectors are your own: there is nothing to teach here")
        self.settings, self.seed, self.kept_teacher = settings, seed, kept
        teacher = ImageTeacher(
            ImageSettings(
                name=settings.name,
                teacher=settings.teacher,
                guidance=settings.guidance,
                weak=settings.weak,
            ),
            own=own,
            kept=kept,
        )
        if teacher.latent:
            if len(teacher.shape) == 3:
                raise ConfigError(
                    "the teacher has a decoder, and its samples stand for images: vardiu distill "
                    "images --teacher ..."
                )
            raise ConfigError(
                f"the teacher has a decoder, and its latents are vectors, of shape "
                f"{teacher.shape}, where those of images have channels, height and width: leave "
                "decode out of its wrapper; the student then makes latents, which are measured "
                "as vectors, and which you decode"
            )
        self._teacher = teacher
        self.space: VectorSpace = VectorSpace(teacher, lambda: self.data.compared[0])
        self.networks = VectorNetworks(self.space, teacher, settings)
        self.data: VectorData = VectorData(self.space, teacher, settings, seed)
        self.scores = VectorScores(self.data)
        if teacher.inner is not None:
            check_start(teacher.inner, settings.student, settings.rank, self.space.classes)
        if settings.data is not None and kept is None:
            self.data.points  # noqa: B018 (a file that does not fit is refused here)

    def fitted(self, settings: Any, asked: Collection[str]) -> Any:  # noqa: ANN401 (any method's)
        teacher, unit = self.known_teacher, self.space.sigma_data
        bounds = teacher.sigma_min, teacher.sigma_max
        refuse_beyond(settings, asked, unit, *bounds)
        return within(rescaled(settings, unit, unit), *bounds)

    def without_prompts(self, student: Generator) -> Generator:
        return lora.merge(student)

    def save(self, student: Generator, folder: RunFolder, about: Mapping[str, Any]) -> None:
        for adapter in lora.adapters(student):
            save_adapter(adapter, folder.file("adapter"))
        super().save(student, folder, about)

    def kept(self) -> KeptTeacher:
        return KeptTeacher.of(self._teacher.inner, self.space.classes, names=self.data.names)

    @property
    def origin(self) -> Origin | None:
        return self._teacher.origin


# Settings that are noise levels, by their row; zero is none.
LEVEL_NAMES: Mapping[type, tuple[str, ...]] = {
    LevelSettings: ("sigma_min", "sigma_max", "start_min"),
    FrameSettings: ("sigma",),
    AnchorSettings: ("bank_above",),
}


def evenly_spaced(
    x: Tensor, cond: Mapping[str, Tensor], n: int
) -> tuple[Tensor, Mapping[str, Tensor]]:
    r"""Returns up to `n` rows, evenly over all, and their conditions."""
    rows = torch.linspace(0, len(x) - 1, min(len(x), n)).long()
    return x[rows], {name: value[rows] for name, value in cond.items()}


def refuse_beyond(
    settings: Any,  # noqa: ANN401 (a method's, or a row)
    asked: Collection[str],
    unit: float,
    low: float,
    high: float,
    prefix: str = "",
) -> None:
    r"""Refuses levels that were asked for beyond a range.

    Arguments:
        settings: A method's settings, or a row of them.
        asked: The names of the settings that were asked for.
        unit: What the levels are multiples of.
        low: The least level.
        high: The largest one.
        prefix: What stands before the names of the row's settings.

    Raises:
        ConfigError: A level lies beyond.
    """
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            refuse_beyond(value, asked, unit, low, high, f"{name}.")
            continue
        is_level = field.name in LEVEL_NAMES.get(type(settings), ())
        if name in asked and is_level and value and not low <= value * unit <= high:
            # Rounded inward: what is told is not refused in its turn.
            nearest = low * (1 + 1e-3) if value * unit < low else high * (1 - 1e-3)
            raise ConfigError(
                f"{name} is in units of the data's spread, {unit:.3g}: {value:g} is the level "
                f"{value * unit:.3g}, and the teacher knows {low:g} to {high:g}; give "
                f"{nearest / unit:.4g}"
            )


def within(settings: Any, low: float, high: float) -> Any:  # noqa: ANN401 (a method's, or a row)
    r"""Returns settings whose noise levels are within a range."""

    def level(value: float) -> float:
        return min(max(value, low), high)

    values = {name: getattr(settings, name) for name in LEVEL_NAMES.get(type(settings), ())}
    changes: dict[str, Any] = {n: level(value) for n, value in values.items() if value}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = within(value, low, high)
    return dataclasses.replace(settings, **changes) if changes else settings
