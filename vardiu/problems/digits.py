r"""scikit-learn's digits."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data.batches import Batches, Shuffled
from ..data.digits import digits
from ..denoisers.base import Denoiser
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..errors import ConfigError
from ..metrics import Metric
from ..metrics.classes import class_agreement, classes_covered
from ..metrics.features import (
    ClassifierFeatures,
    DigitsClassifier,
    RandomFeatures,
    digits_classifier,
)
from ..metrics.sets import feature_metrics, space_metrics
from ..nn import UNet, with_precision
from ..nn.taps import Activation
from ..posteriors.encoder import Encoder, UnitScale
from ..reports.samples import image_grid
from ..settings.fields import DigitsSettings
from ..storage.code import OwnCode
from ..students.base import Generator
from ..students.few_step import FewStep, OneStep
from ..teachers.saved import load, matches
from .base import (
    Data,
    Input,
    Judged,
    KnownSpace,
    Networks,
    Problem,
    Scores,
    Space,
    TrainingGround,
    same,
    taught_input,
)
from .kept import KeptTeacher
from .maps import FeatureMaps
from .sampled_teachers import TEACHER, SampledTeacher, Source, find_teacher, teacher_folder

__all__ = ["DigitsData", "DigitsNetworks", "DigitsProblem", "DigitsScores"]


CLASSES = 10


class DigitsNetworks(Networks):
    r"""Small U-Nets.

    Arguments:
        space: Where samples live.
        teacher: The teacher.
        settings: The row of settings.
    """

    WIDTHS, DEPTH = (16, 64), 3
    RANGE = (0.02, 20.0)

    def __init__(self, space: Space, teacher: SampledTeacher, settings: DigitsSettings) -> None:
        super().__init__(space, teacher)
        self.settings = settings

    @property
    def null(self) -> int | None:
        return self.space.classes or None

    def student(self) -> Generator:
        row = self.settings
        if row.calls == 1:
            return OneStep.like(self.teacher.known, row.sigma)
        return FewStep.on_grid(self.teacher.known.trainable_copy(), row.calls, row.sigma)

    def encoder(self) -> Encoder:
        widths, depth = self.WIDTHS, self.DEPTH
        network = UNet(1, widths=widths, depth=depth, classes=self.space.classes, final=False)
        features = math.prod((widths[1], 4, 4))
        copy_weights(self.teacher.known, network)
        scale = UnitScale(self.space.sigma_data, float(self.space.mean))
        return Encoder(with_precision(network, self.settings.precision), features, scale)

    def denoiser(self) -> Denoiser:
        network = UNet(1, widths=self.WIDTHS, depth=self.DEPTH, classes=self.space.classes)
        return PreconditionedDenoiser(
            with_precision(network, self.settings.precision),
            shape=self.space.shape,
            sigma_data=self.space.sigma_data,
            sigma_min=self.RANGE[0],
            sigma_max=self.RANGE[1],
            mean=float(self.space.mean),
            conditions=self.space.conditions,
        )


class DigitsData(Data):
    r"""The images and their classes.

    Arguments:
        space: Where samples live.
        teacher: The teacher.
        x: The images, with shape :math:`(N, 1, 8, 8)`.
        label: Their classes, with shape :math:`(N)`.
    """

    def __init__(self, space: Space, teacher: SampledTeacher, x: Tensor, label: Tensor) -> None:
        super().__init__(space, teacher)
        self.x, self.label = x, label

    def clean(self, size: int, seed: int) -> Batches:
        cond = {"label": self.label} if self.space.classes else {}
        return Shuffled(self.x, cond, size, seed=seed)

    def reference(self, n: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        cond = {"label": self.label[:n]} if self.space.classes else {}
        return self.x[:n], cond

    @property
    def labels(self) -> Tensor | None:
        return self.label if self.space.classes else None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(str(digit) for digit in range(self.space.classes))


class DigitsScores(Scores):
    r"""Distances in the features of a classifier of digits, and its classes.

    Arguments:
        data: The images.
        settings: The row of settings.
    """

    headline = ("frechet", "precision", "recall", "classes")
    judged = Judged("frechet", coverage=("recall", "classes"))
    quick = 2_000
    samples = 5_000

    SHAPE = 1, 8, 8

    def __init__(self, data: DigitsData, settings: DigitsSettings) -> None:
        self.data, self.settings = data, settings

    def measure(self, source: Source, n: int = 5_000, seed: int = 0) -> list[Metric]:
        x, cond = source(n, torch.Generator().manual_seed(seed))
        x = x.clamp(-1, 1)
        classifier = digits_classifier()
        real, fake = classifier.features(self.data.x), classifier.features(x)
        predicted = classifier.predict(x)
        metrics = [
            *feature_metrics(real, fake, classifier.name),
            classes_covered(predicted, CLASSES),
        ]
        if cond:
            metrics.append(class_agreement(predicted, cond["label"]))
        return metrics

    def training_ground(self) -> TrainingGround:
        order = self._halves[0]
        real, label = self.data.x[order], self.data.label[order]
        space = RandomFeatures(self.SHAPE, real)
        return TrainingGround(space, real, label if self.settings.conditional else None)

    def feature_maps(self, tap: str = "") -> FeatureMaps:
        tap = tap or DigitsClassifier.MAPS
        try:
            Activation(DigitsClassifier(), tap)  # a wrong name is told before a training
        except ValueError as error:
            raise ConfigError(f"--relations.tap: {error}") from error
        # Not the classifier that measures: one of the same kind, of another seed.
        return FeatureMaps(Activation(copy.deepcopy(digits_classifier(seed=1)), tap), same)

    @property
    def _halves(self) -> tuple[Tensor, ...]:
        r"""The rows of two halves of the data."""
        order = torch.randperm(len(self.data.x), generator=torch.Generator().manual_seed(0))
        return order.chunk(2)

    def measure_spaces(self, source: Source, n: int, seed: int = 0) -> list[Metric]:
        real, held_out = (self.data.x[rows] for rows in self._halves)
        n = min(n, len(held_out))
        x, _ = source(n, torch.Generator().manual_seed(seed))
        spaces = ClassifierFeatures(digits_classifier()), RandomFeatures(self.SHAPE, real)
        return space_metrics(spaces, real, held_out, x.clamp(-1, 1))

    def histogram(self, x: Tensor) -> list[float]:
        predicted = digits_classifier().predict(x.clamp(-1, 1))
        return (torch.bincount(predicted, minlength=CLASSES) / len(x)).tolist()

    @property
    def expected_shares(self) -> list[float]:
        return (torch.bincount(self.data.label, minlength=CLASSES) / len(self.data.x)).tolist()

    def teacher_metrics(self, n: int) -> tuple[list[Metric], str]:
        if self.data.teacher.denoiser is None:
            return [], ""
        classifier = digits_classifier()
        real = classifier.features(self.data.x)
        teacher, chosen = self.data.teacher, self.data.chosen
        rows = teacher.written_metrics(n, real, classifier.name, chosen)
        return rows or self.measure(self.data.teacher_source(measured=True), n), TEACHER

    def plot_samples(self, x: Tensor, path: Path, of: str = "") -> Path:
        return image_grid([(f"{len(x):,} samples{of}", x.numpy())], path)

    def plot_side_by_side(self, samples: Sequence[tuple[str, Tensor]], path: Path) -> Path:
        rows = [(title, x[:40].numpy()) for title, x in samples]
        return image_grid(rows, path, columns=20)

    def plot_beside_data(self, source: Source, path: Path, title: str, seed: int = 0) -> Path:
        random = torch.Generator().manual_seed(seed)
        n, label = 60, self.data.label
        order = torch.cat([(label == i).nonzero()[: n // 10, 0] for i in range(CLASSES)])
        grid = order.view(CLASSES, -1).T.flatten()  # rows of 0, 1, ..., 9
        rows = [("real", self.data.x[grid].numpy())]
        if self.data.teacher.denoiser is not None:
            teacher = self.data.teacher_source()(n, random)[0]
            rows.append(("teacher, 35 Heun steps (69 calls)", teacher.numpy()))
        rows.append((title, source(n, random)[0].numpy()))
        return image_grid(rows, path, columns=20)


class DigitsProblem(Problem):
    r"""scikit-learn's digits, with a small U-Net for a teacher.

    Arguments:
        settings: The row of settings.
        seed: Not used: the data are real.
        untaught: Whether the teacher is yet to be trained.
        own: Not used: no setting of the digits is own code.
        kept: What a finished run keeps of its teacher, which is then read when it is asked for.

    Raises:
        ConfigError: The folder of the settings holds no teacher.
    """

    headline = DigitsScores.headline
    judged = DigitsScores.judged

    def __init__(
        self,
        settings: DigitsSettings,
        seed: int = 0,
        *,
        untaught: bool = False,
        own: Mapping[str, OwnCode] = {},
        kept: KeptTeacher | None = None,
    ) -> None:
        self.settings, self.seed, self.kept_teacher = settings, seed, kept
        x, label = digits()
        self.space = KnownSpace(
            x.shape[1:],
            x.mean(),
            float(x.std()),
            float(x.flatten(1).var(dim=0).mean()),
            CLASSES if settings.conditional else 0,
        )

        def read() -> Denoiser:
            return load(find_teacher(settings.teacher_run, settings.name))

        now = kept is None and not untaught
        teacher = SampledTeacher(
            read() if now else None,
            None if untaught else read,
            lambda: matches(teacher_folder(settings.teacher_run, settings.name)),
        )
        self.networks = DigitsNetworks(self.space, teacher, settings)
        self.data = DigitsData(self.space, teacher, x, label)
        self.scores = DigitsScores(self.data, settings)

    def inputs(self) -> Mapping[str, Input]:
        row = self.settings
        untaught = self.data.teacher.at_hand is None
        return {} if untaught else taught_input(self, find_teacher(row.teacher_run, row.name))


def copy_weights(teacher: nn.Module, network: nn.Module) -> None:
    r"""Copies into a network the teacher's weights of the same names and shapes."""
    ours = network.state_dict()
    for name, value in teacher.state_dict().items():
        short = name.rpartition("network.")[2]
        if short in ours and ours[short].shape == value.shape:
            ours[short] = value.clone()
    network.load_state_dict(ours)
