r"""A tiny problem of a mixture in the plane: what every method can be tried on in a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..data.batch import Batch
from ..data.batches import Batches, Shuffled
from ..data.densities import MixtureSpec, even
from ..denoisers.base import Denoiser
from ..denoisers.exact import MixtureDenoiser
from ..denoisers.guidance import Autoguided
from ..denoisers.levels import LevelRange
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..errors import ConfigError, nearest
from ..metrics import Metric
from ..metrics.density import mode_masses, modes_covered
from ..metrics.features import RandomCosines
from ..metrics.mmd import mmd2
from ..nn import MLP
from ..posteriors.encoder import Encoder, UnitScale
from ..reports.samples import scatter_grid
from ..students.base import Generator
from ..students.few_step import FewStep, OneStep
from ..students.pushforward import Pushforward
from ..students.restorer import Restorer
from .base import Data, Judged, KnownSpace, Networks, Problem, Scores, Space, TrainingGround
from .sampled_teachers import SampledTeacher, Source

__all__ = ["ToyProblem", "ToySettings", "mixture_teacher"]


# Four corners; of two classes, where there are classes, each has two that are neighbours.
MEANS = ((2.0, 2.0), (-2.0, 2.0), (-2.0, -2.0), (2.0, -2.0))


STD, SIGMA_DATA = 0.3, 2.0


RANGE: LevelRange = {"sigma_min": 0.1, "sigma_max": 8.0}


@dataclass(frozen=True, kw_only=True)
class ToySettings:
    r"""The settings of a toy problem."""

    name: str = "toy"
    """The name of the problem."""
    classes: Literal[0, 2] = 0
    """The number of classes: none, or two of two corners each."""
    student: str = "pushforward"
    """The student: pushforward, residual, one_step, few_step or restorer."""
    width: int = 8
    """The width of the networks' hidden layers."""
    depth: int = 2
    """The number of their hidden layers."""


class ToyTeacher(SampledTeacher):
    r"""The exact denoiser; of classes it is guided away from the law of all together."""

    @property
    def steered(self) -> Denoiser:
        if not self.known.conditions:
            return super().steered
        return Autoguided(self.known, mixture_teacher(), None)


class ToyNetworks(Networks):
    r"""Multi-layer perceptrons, two layers deep and eight wide.

    Arguments:
        space: Where samples live.
        teacher: The teacher.
        settings: The row of settings.
    """

    def __init__(self, space: Space, teacher: SampledTeacher, settings: ToySettings) -> None:
        super().__init__(space, teacher)
        self.settings = settings

    def _mlp(
        self, outputs: int, *, noisy: bool = False, final: bool = True, none: bool = False
    ) -> MLP:
        row, classes = self.settings, self.space.classes
        classes += none and classes > 0
        return MLP(
            (2,),
            (outputs,),
            width=row.width,
            depth=row.depth,
            noisy=noisy,
            classes=classes,
            final=final,
        )

    def student(self) -> Generator:
        return STUDENTS[self.settings.student](self)

    def pushforward(self, residual: bool = False) -> Pushforward:
        r"""Returns a student of any network; a residual one starts spread as the data."""
        network = self._mlp(2)
        if residual:
            network.start_at_zero()
        return Pushforward(
            network,
            latent_shape=(2,),
            shape=(2,),
            std=SIGMA_DATA,
            conditions=self.space.conditions,
            residual=residual,
        )

    def encoder(self) -> Encoder:
        width = self.settings.width
        return Encoder(self._mlp(width, noisy=True, final=False), width, UnitScale(SIGMA_DATA))

    @property
    def null(self) -> int | None:
        return self.space.classes or None

    def denoiser(self) -> Denoiser:
        return PreconditionedDenoiser(
            self._mlp(2, noisy=True, none=True),
            shape=(2,),
            sigma_data=SIGMA_DATA,
            conditions=self.space.conditions,
            **RANGE,
        )


STUDENTS: Mapping[str, Callable[[ToyNetworks], Generator]] = {
    "pushforward": lambda networks: networks.pushforward(),
    "residual": lambda networks: networks.pushforward(residual=True),
    "one_step": lambda networks: OneStep(networks.denoiser(), RANGE["sigma_max"]),
    "restorer": lambda networks: Restorer(networks.denoiser(), 1.0, SIGMA_DATA),
    "few_step": lambda networks: FewStep(networks.denoiser(), [RANGE["sigma_max"], 1.0]),
}


class ToyData(Data):
    r"""Samples of the mixture.

    Arguments:
        space: Where samples live.
        teacher: The teacher.
        seed: The seed of the clean samples.
    """

    ROWS = 512

    def __init__(self, space: Space, teacher: SampledTeacher, seed: int) -> None:
        super().__init__(space, teacher)
        self.seed = seed

    def draw(self, n: int, random: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        r"""Draws `n` samples and their conditions: a source."""
        means = torch.tensor(MEANS)
        component = torch.randint(len(means), (n,), generator=random)
        noise = torch.randn(n, 2, generator=random, dtype=means.dtype)
        cond = {"label": component % 2} if self.space.classes else {}
        return means[component] + STD * noise, cond

    def clean(self, size: int, seed: int) -> Batches:
        x, cond = self.draw(self.ROWS, torch.Generator().manual_seed(self.seed))
        return Shuffled(x, cond, size, seed=seed)

    def paired(self, size: int, seed: int) -> Batches:
        return Blurred(self.clean(size, seed))

    def reference(self, n: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.draw(n, torch.Generator().manual_seed(self.seed + 1))


class Blurred(Batches):
    r"""Batches of points at half their distance from the middle, with the points as their truth.

    Arguments:
        batches: The batches of points.
    """

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = batches

    def at(self, index: int) -> Batch:
        self.batches.rank, self.batches.world = self.rank, self.world
        batch = self.batches.at(index)
        return batch._replace(x=0.5 * batch.clean(), truth=batch.x)


class ToyScores(Scores):
    r"""The distance of samples to true ones, and the share of the four modes.

    Arguments:
        data: The true samples.
        spec: The mixture.
    """

    headline = ("mmd2", "modes")
    judged = Judged("mmd2", coverage=("modes",))
    quick = 100
    samples = 400

    def __init__(self, data: ToyData, spec: MixtureSpec) -> None:
        self.data, self.spec = data, spec

    def measure(self, source: Source, n: int, seed: int = 0) -> list[Metric]:
        x, _ = source(n, torch.Generator().manual_seed(seed))
        truth, _ = self.data.draw(n, torch.Generator().manual_seed(seed + 10_000))
        return [*mmd2(x, truth), modes_covered(x, self.spec.means, threshold=0.1)]

    def training_ground(self) -> TrainingGround:
        x, cond = self.data.draw(self.data.ROWS, torch.Generator().manual_seed(self.data.seed))
        return TrainingGround(RandomCosines(x, (1.0, 0.25), count=4), x, cond.get("label"))

    def histogram(self, x: Tensor) -> list[float]:
        return mode_masses(x, self.spec.means).tolist()

    @property
    def expected_shares(self) -> list[float]:
        return self.spec.weights.tolist()

    def teacher_metrics(self, n: int) -> tuple[list[Metric], str]:
        return self.measure(self.data.draw, n), "true samples"

    def plot_samples(self, x: Tensor, path: Path, of: str = "") -> Path:
        return self.plot_side_by_side([(f"{len(x):,} samples{of}", x)], path)

    def plot_beside_data(self, source: Source, path: Path, title: str, seed: int = 0) -> Path:
        n, random = self.samples, torch.Generator().manual_seed(seed)
        truth = self.data.reference(n)[0]
        return self.plot_side_by_side([("target", truth), (title, source(n, random)[0])], path)

    def plot_side_by_side(self, samples: Sequence[tuple[str, Tensor]], path: Path) -> Path:
        return scatter_grid([(title, x.numpy()) for title, x in samples], None, 4.0, path)


class ToyProblem(Problem):
    r"""Four narrow Gaussians in the plane, an exact teacher, and networks of some hundred weights.

    Arguments:
        classes: The number of classes, 0 or 2.
        student: The student: `pushforward`, `residual`, `one_step`, `few_step` or `restorer`.
        seed: The seed of the clean samples.

    Raises:
        ConfigError: There is no such student, or another number of classes.
    """

    headline = ToyScores.headline
    judged = ToyScores.judged

    def __init__(
        self, classes: Literal[0, 2] = 0, student: str = "pushforward", seed: int = 0
    ) -> None:
        if student not in STUDENTS:
            raise ConfigError(f"unknown student {student!r}; {nearest(student, STUDENTS)}")
        if classes not in (0, 2):
            raise ConfigError(f"classes must be 0 or 2, got {classes}")
        self.settings, self.seed = ToySettings(classes=classes, student=student), seed
        spec = even(torch.tensor(MEANS), STD)
        variance = 4.0 + STD**2
        self.space = KnownSpace((2,), torch.zeros(2), SIGMA_DATA, variance, classes)
        teacher = ToyTeacher(mixture_teacher(labels=classes > 0))
        self.networks = ToyNetworks(self.space, teacher, self.settings)
        self.data = ToyData(self.space, teacher, seed)
        self.scores = ToyScores(self.data, spec)


def mixture_teacher(labels: bool = False) -> MixtureDenoiser:
    r"""Returns the exact denoiser of the four Gaussians; with labels it takes the class."""
    means = torch.tensor(MEANS)
    label = torch.tensor([0, 1, 0, 1]) if labels else None
    return MixtureDenoiser(means, STD, labels=label, **RANGE)
