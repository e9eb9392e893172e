r"""Problems: a teacher, the data it knows, networks of the right size, and what to measure.

A recipe of a method asks a problem for its parts and never looks at which problem it is.
"""

from __future__ import annotations

import abc
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import plots, store
from .config import ConfigError, DensitySettings, DigitsSettings, FrameSettings, nearest
from .data.batches import Batches, DataFree, Shuffled
from .data.densities import DENSITIES, mixture
from .data.digits import digits
from .denoise import (
    Denoiser,
    EmpiricalDenoiser,
    MixtureDenoiser,
    PreconditionedDenoiser,
)
from .frame import Frame
from .generate import Generator, OneStep, Pushforward
from .metrics import Metric, fingerprint
from .metrics.classes import class_agreement, classes_covered
from .metrics.density import log_density, mode_masses, modes_covered
from .metrics.features import digits_classifier
from .metrics.frechet import frechet, kernel_distance
from .metrics.mmd import mmd2
from .metrics.neighbours import density_coverage, precision_recall
from .metrics.transport import wasserstein2_sliced
from .nn import MLP, Precision, UNet
from .noise import karras_grid
from .plugins import stored
from .posterior import Encoder, RawScale, Scale, UnitScale
from .runs import RunFolder
from .sample import Heun

__all__ = ["DensityProblem", "DigitsProblem", "Problem"]

# A source of samples: of a number of them and a generator, to samples and their conditions.
Source = Callable[[int, torch.Generator], tuple[Tensor, Mapping[str, Tensor]]]


class Problem(abc.ABC):
    r"""What there is to distil.

    Attributes:
        teacher: The denoiser to distil.
        sigma_data: The standard deviation of the data, a dimension.
        mean: The mean of the data.
        variance: The variance of the data about its mean, an average over dimensions.
        headline: The names of the metrics of the short summary, the first one to be minimised.
    """

    teacher: Denoiser | None
    sigma_data: float
    mean: Tensor
    variance: float
    headline: tuple[str, ...]
    QUICK: int
    samples: int

    @abc.abstractmethod
    def student(self) -> Generator:
        r"""Returns a fresh student, or one that starts from the teacher's weights."""

    @abc.abstractmethod
    def encoder(self) -> Encoder:
        r"""Returns a fresh encoder of noisy samples, for a posterior."""

    @abc.abstractmethod
    def network(self) -> Denoiser:
        r"""Returns a fresh denoiser of the data, to be trained as a teacher or as a fake."""

    def fake(self) -> Denoiser:
        r"""Returns a denoiser that starts from the teacher's weights if it has any."""
        if next(self.teacher.parameters(), None) is not None:
            return self.teacher.start()
        return self.network()

    def frame(self, row: FrameSettings, seed: int) -> Frame:
        r"""Returns a frame of the teacher's own samples."""
        random = torch.Generator().manual_seed(seed + 77)
        x, cond = self.from_teacher(row.solver_steps)(row.samples, random)
        label = self.grouped(cond) if row.by_class else None
        classes = 1 if label is None else int(label.max()) + 1
        frame = Frame(classes, row.clusters, math.prod(self.teacher.shape), row.components)
        return frame.fit(x, label, seed)

    def grouped(self, cond: Mapping[str, Tensor]) -> Tensor | None:
        r"""Returns the classes that each have a part of a frame to themselves."""
        return cond.get("label")

    @abc.abstractmethod
    def batches(self, size: int, seed: int) -> Batches:
        r"""Returns batches for methods without data: a number of rows, and their conditions."""

    @abc.abstractmethod
    def data(self, size: int, seed: int) -> Batches:
        r"""Returns batches of clean samples, for a teacher or a method that needs data."""

    @abc.abstractmethod
    def reference(self, n: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        r"""Returns clean samples and their conditions, for the probe."""

    @abc.abstractmethod
    def measure(self, source: Source, n: int, seed: int = 0) -> list[Metric]:
        r"""Returns the metrics of a source of samples."""

    @abc.abstractmethod
    def histogram(self, x: Tensor) -> list[float]:
        r"""Returns the share of samples in each mode or class."""

    @property
    @abc.abstractmethod
    def due(self) -> list[float]:
        r"""The shares that the student should have."""

    @abc.abstractmethod
    def draw(self, x: Tensor, path: Path) -> Path:
        r"""Draws given samples, and nothing beside them."""

    @abc.abstractmethod
    def picture(self, source: Source, path: Path, title: str, seed: int = 0) -> Path:
        r"""Draws samples of a source beside true ones."""

    @abc.abstractmethod
    def panels(self, samples: Sequence[tuple[str, Tensor]], path: Path) -> Path:
        r"""Draws titled samples side by side."""

    def from_generator(self, generator: Generator) -> Source:
        r"""Returns the source that a student is."""

        def draw(n: int, random: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
            cond = self.conditions(n, random) if generator.conditions else {}
            return generator.sample(n, generator=random, **cond).cpu(), cond

        return draw

    # Of the teacher that a student is compared with.
    solver_steps = 35

    def from_teacher(self, steps: int = solver_steps) -> Source:
        r"""Returns the source that the teacher is, with so many steps of Heun's method."""

        def draw(n: int, random: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
            cond = self.conditions(n, random) if self.teacher.conditions else {}
            return self.solve(n, random, cond, steps), cond

        return draw

    def solve(
        self, n: int, random: torch.Generator, cond: Mapping[str, Tensor], steps: int
    ) -> Tensor:
        r"""Returns samples of the teacher by so many steps of Heun's method, on the CPU."""
        grid = karras_grid(steps, self.teacher.sigma_min, self.teacher.sigma_max)
        tensors = itertools.chain(self.teacher.parameters(), self.teacher.buffers())
        device = next((t.device for t in tensors), torch.device("cpu"))
        there = {name: value.to(device) for name, value in cond.items()}
        return Heun(self.teacher, grid).sample(n, generator=random, device=device, **there).cpu()

    def conditions(self, n: int, random: torch.Generator) -> Mapping[str, Tensor]:
        r"""Returns conditions to sample with; none by default."""
        return {}

    @property
    def probed(self) -> Denoiser:
        r"""The denoiser that must denoise: the teacher, without any guidance."""
        return self.teacher

    @property
    def redraw(self) -> Callable[[], Tensor] | None:
        r"""Draws what `reference` gives anew, where it is the teacher's own samples."""
        return None

    def decode(self, x: Tensor) -> Tensor:
        r"""Returns what samples stand for: themselves, or the images of latents."""
        return x

    def say(self, prompts: Sequence[str]) -> None:
        r"""Has the conditions be these prompts, in place of those of the training.

        Raises:
            ConfigError: There are no texts here.
        """
        raise ConfigError("this student takes no text: leave out --prompt")

    def bare(self, student: Generator) -> Generator:
        r"""Returns a student as it is shipped: alone, with nothing of the problem about it."""
        return student

    def save(self, student: Generator, folder: RunFolder, about: Mapping[str, Any]) -> None:
        r"""Writes the trained student into its run."""
        store.save(self.bare(student), folder.file("student"), about)

    def dress(self, student: Generator) -> Generator:
        r"""Returns a shipped student as one that takes the problem's own conditions."""
        return student

    @abc.abstractmethod
    def compared_with(self, n: int) -> tuple[list[Metric], str]:
        r"""Returns the metrics of what a student is to be compared with, and who that is."""

    def floor(self) -> float:
        r"""Returns the headline metric of the best a student can be; zero if not known."""
        known, _ = self.compared_with(self.QUICK)
        return next((m.value for m in known if m.name == self.headline[0]), 0.0)

    def hashes(self) -> dict[str, str]:
        r"""Returns the hash of the teacher's weights or components, for the provenance."""
        if self.teacher is None:
            return {}
        tensors = [t.flatten().double() for t in self.teacher.state_dict().values()]
        return {"teacher": fingerprint(torch.cat(tensors))}


def featured(real: Tensor, fake: Tensor, features: str) -> list[Metric]:
    r"""Returns the metrics of two sets of features of this name."""
    return [
        frechet(real, fake, features=features),
        kernel_distance(real, fake, features=features),
        *precision_recall(real, fake, features=features),
        *density_coverage(real, fake, features=features),
    ]


def precise(network: nn.Module, precision: str) -> nn.Module:
    r"""Returns a network that computes in the type of this name."""
    return network if precision == "float32" else Precision(network, precision)


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
        return DataFree(self.shape, size, seed=seed)

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
        return plots.scatter_grid(panels, density if plane else None, float(extent), path)


def _exact(problem: DensityProblem) -> Denoiser:
    spec = problem.spec
    return MixtureDenoiser(spec.means, spec.stds, spec.weights, **problem.range)


def _kde(problem: DensityProblem) -> Denoiser:
    row = problem.settings
    return EmpiricalDenoiser(problem.points(), bandwidth=row.bandwidth, **problem.range)


def _learned(problem: DensityProblem) -> Denoiser:
    return stored.load(taught(problem.settings.teacher_run, problem.settings.name))


TEACHERS: Mapping[str, Callable[[DensityProblem], Denoiser]] = {
    "exact": _exact,
    "kde": _kde,
    "learned": _learned,
}


def taught(run: str | None, name: str, option: str = "--teacher-run") -> str:
    r"""Returns the folder of a teacher that `vardiu teach` wrote; `option` names another.

    Raises:
        ConfigError: The folder holds no finished teacher; the message has the command that trains
        it.
    """
    folder = f"runs/teach-{name}" if run is None else run
    if not stored.matches(folder):
        raise ConfigError(
            f"there is no teacher in {folder}: train one with `vardiu teach {name} --out "
            f"{folder}`, or name another with {option}"
        )
    return folder


class DigitsProblem(Problem):
    r"""scikit-learn's digits, with a small U-Net for a teacher.

    Arguments:
        settings: The row of settings.
        seed: Not used: the data are real.
        teacher: The teacher; from the folder of `settings` by default.
    """

    headline = ("frechet", "precision", "recall", "classes")
    QUICK = 2_000
    samples = 5_000
    SHAPE, CLASSES = (1, 8, 8), 10
    WIDTHS, DEPTH = (16, 64), 3
    RANGE = (0.02, 20.0)

    def __init__(self, settings: DigitsSettings, seed: int = 0, *, untaught: bool = False) -> None:
        self.settings = settings
        self.x, self.label = digits()
        self.mean = self.x.mean()
        self.sigma_data = float(self.x.std())
        self.variance = float(self.x.flatten(1).var(dim=0).mean())
        run = settings.teacher_run
        self.teacher = None if untaught else stored.load(taught(run, settings.name))

    def lend(self, network: nn.Module) -> None:
        r"""Copies into a network the teacher's weights of the same names and shapes."""
        ours = network.state_dict()
        for name, value in self.teacher.state_dict().items():
            short = name.rpartition("network.")[2]
            if short in ours and ours[short].shape == value.shape:
                ours[short] = value.clone()
        network.load_state_dict(ours)

    @property
    def classes(self) -> int:
        return self.CLASSES if self.settings.conditional else 0

    @property
    def names(self) -> tuple[str, ...]:
        return ("label",) if self.settings.conditional else ()

    def student(self) -> Generator:
        return OneStep.like(self.teacher, self.settings.sigma)

    def encoder(self) -> Encoder:
        widths, depth = self.WIDTHS, self.DEPTH
        network = UNet(1, widths=widths, depth=depth, classes=self.classes, final=False)
        features = math.prod((widths[1], 4, 4))
        self.lend(network)
        scale = UnitScale(self.sigma_data, float(self.mean))
        return Encoder(precise(network, self.settings.precision), features, scale)

    def network(self) -> Denoiser:
        network = UNet(1, widths=self.WIDTHS, depth=self.DEPTH, classes=self.classes)
        return PreconditionedDenoiser(
            precise(network, self.settings.precision),
            shape=self.SHAPE,
            sigma_data=self.sigma_data,
            sigma_min=self.RANGE[0],
            sigma_max=self.RANGE[1],
            mean=float(self.mean),
            conditions=self.names,
        )

    def batches(self, size: int, seed: int) -> Batches:
        return DataFree(self.SHAPE, size, classes=self.classes or None, seed=seed)

    def data(self, size: int, seed: int) -> Batches:
        cond = {"label": self.label} if self.settings.conditional else {}
        return Shuffled(self.x, cond, size, seed=seed)

    def reference(self, n: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        cond = {"label": self.label[:n]} if self.settings.conditional else {}
        return self.x[:n], cond

    def conditions(self, n: int, random: torch.Generator) -> Mapping[str, Tensor]:
        return {"label": torch.arange(n) % self.CLASSES}

    def measure(self, source: Source, n: int = 5_000, seed: int = 0) -> list[Metric]:
        x, cond = source(n, torch.Generator().manual_seed(seed))
        x = x.clamp(-1, 1)
        classifier = digits_classifier()
        real, fake = classifier.features(self.x), classifier.features(x)
        predicted = classifier.predict(x)
        metrics = [
            *featured(real, fake, classifier.name),
            classes_covered(predicted, self.CLASSES),
        ]
        if cond:
            metrics.append(class_agreement(predicted, cond["label"]))
        return metrics

    def histogram(self, x: Tensor) -> list[float]:
        predicted = digits_classifier().predict(x.clamp(-1, 1))
        return (torch.bincount(predicted, minlength=self.CLASSES) / len(x)).tolist()

    @property
    def due(self) -> list[float]:
        return [1 / self.CLASSES] * self.CLASSES

    def compared_with(self, n: int) -> tuple[list[Metric], str]:
        run = self.settings.teacher_run or f"runs/teach-{self.settings.name}"
        result = RunFolder(run).result()
        rows = [] if result is None else result["metrics"]
        return [Metric(**row) for row in rows], "teacher, 69 calls"

    def draw(self, x: Tensor, path: Path) -> Path:
        return plots.image_grid([(f"{len(x):,} samples", x.numpy())], path)

    def panels(self, samples: Sequence[tuple[str, Tensor]], path: Path) -> Path:
        rows = [(title, x[:40].numpy()) for title, x in samples]
        return plots.image_grid(rows, path, columns=20)

    def picture(self, source: Source, path: Path, title: str, seed: int = 0) -> Path:
        random = torch.Generator().manual_seed(seed)
        n = 60
        order = torch.cat([(self.label == i).nonzero()[: n // 10, 0] for i in range(10)])
        grid = order.view(10, -1).T.flatten()  # rows of 0, 1, ..., 9
        teacher = self.from_teacher()(n, random)[0]
        rows = [
            ("real", self.x[grid].numpy()),
            ("teacher, 35 Heun steps (69 calls)", teacher.numpy()),
            (title, source(n, random)[0].numpy()),
        ]
        return plots.image_grid(rows, path, columns=20)
