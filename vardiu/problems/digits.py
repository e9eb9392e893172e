r"""scikit-learn's digits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data.batches import Batches, DataFree, Shuffled
from ..data.digits import digits
from ..denoisers.base import Denoiser
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..metrics import Metric
from ..metrics.classes import class_agreement, classes_covered
from ..metrics.features import digits_classifier
from ..nn import UNet
from ..posteriors.encoder import Encoder, UnitScale
from ..reports.samples import image_grid
from ..settings.fields import DigitsSettings
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from ..students.few_step import OneStep
from ..teachers.saved import load
from .base import Problem, Source, featured, precise, taught

__all__ = ["DigitsProblem"]


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
        self.teacher = None if untaught else load(taught(run, settings.name))

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
        return DataFree(size, classes=self.classes or None, seed=seed)

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
        return image_grid([(f"{len(x):,} samples", x.numpy())], path)

    def panels(self, samples: Sequence[tuple[str, Tensor]], path: Path) -> Path:
        rows = [(title, x[:40].numpy()) for title, x in samples]
        return image_grid(rows, path, columns=20)

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
        return image_grid(rows, path, columns=20)
