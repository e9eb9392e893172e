r"""Problems: a teacher, the data it knows, networks of the right size, and what to measure.

A recipe of a method asks a problem for its parts and never looks at which problem it is.
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import models
from ..data.batches import Batches
from ..denoisers.base import Denoiser
from ..denoisers.levels import karras_grid
from ..errors import ConfigError
from ..metrics import Metric, fingerprint
from ..metrics.frechet import frechet, kernel_distance
from ..metrics.neighbours import density_coverage, precision_recall
from ..nn import Precision
from ..posteriors.encoder import Encoder
from ..samplers.ode import Heun
from ..settings.fields import FrameSettings
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from ..students.framed import Frame
from ..teachers.saved import matches

__all__ = ["Problem"]


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
        models.save(self.bare(student), folder.file("student"), about)

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


def taught(run: str | None, name: str, option: str = "--teacher-run") -> str:
    r"""Returns the folder of a teacher that `vardiu teach` wrote; `option` names another.

    Raises:
        ConfigError: The folder holds no finished teacher; the message has the command that trains
        it.
    """
    folder = f"runs/teach-{name}" if run is None else run
    if not matches(folder):
        raise ConfigError(
            f"there is no teacher in {folder}: train one with `vardiu teach {name} --out "
            f"{folder}`, or name another with {option}"
        )
    return folder
