r"""What images are worth."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigError, amount, shown
from ..metrics import Metric
from ..metrics.features import PrincipalComponents, RandomFeatures
from ..metrics.frechet import LEAST_OF_KERNEL
from ..metrics.neighbours import LEAST_OF_NEIGHBOURS
from ..metrics.sets import FeatureSpace, feature_metrics, space_metrics
from ..reports.samples import image_grid
from ..storage.code import OwnCode
from .base import Judged, Scores, TrainingGround
from .image_data import ImageData
from .maps import FeatureMaps, maps_of_code
from .sampled_teachers import TEACHER, Source
from .tenths import Tenths

__all__ = ["ImageScores", "refuse_few"]


class ImageScores(Scores):
    r"""Distances in the features of random filters; metrics and pictures are of images.

    Arguments:
        data: The images.

    Attributes:
        classifier: The user's own code of the setting `classifier`; none where it is not named.
    """

    headline = ("frechet", "precision", "recall")
    judged = Judged("frechet", coverage=("recall",))
    quick = 1_000
    samples = 5_000
    classifier: OwnCode | None = None

    def __init__(self, data: ImageData) -> None:
        self.data, self.space = data, data.space

    @functools.cached_property
    def features(self) -> RandomFeatures:
        r"""The map from images to features."""
        real = self.data.images[0]
        c, height, width = real.shape[1:]
        return RandomFeatures((c, height, width), real)

    @functools.cached_property
    def _real(self) -> Tensor:
        real = self.data.images[0]
        refuse_few(len(real), self.data.settings.data)
        return self.features(real)

    def measure(self, source: Source, n: int = 5_000, seed: int = 0) -> list[Metric]:
        x, _ = source(n, torch.Generator().manual_seed(seed))
        return feature_metrics(self._real, self.features(self.space.images(x)), self.features.name)

    def measure_spaces(self, source: Source, n: int, seed: int = 0) -> list[Metric]:
        real, held_out = self.data.split
        n = min(n, len(held_out))
        x, _ = source(n, torch.Generator().manual_seed(seed))
        return space_metrics(self._spaces, real, held_out, self.space.images(x))

    @functools.cached_property
    def _spaces(self) -> tuple[FeatureSpace, FeatureSpace]:
        return self.features, PrincipalComponents(self.data.split[0])

    def training_ground(self) -> TrainingGround:
        real = self.data.split[0]
        return TrainingGround(PrincipalComponents(real), real)

    def feature_maps(self, tap: str = "") -> FeatureMaps:
        if self.classifier is None or not tap:
            raise ConfigError(
                "relations of images are taught in the maps of a classifier: name one, with "
                "--classifier FILE.py:NAME, and the part of it that makes them, with "
                "--relations.tap PART"
            )
        return maps_of_code(self.classifier, tap, tuple(self.space.shape), self.space.decode)

    def histogram(self, x: Tensor) -> list[float]:
        # By brightness: which tenth of the real images a sample is as bright as.
        return self._brightness.of(self.space.images(x).flatten(1).mean(1))

    @functools.cached_property
    def _brightness(self) -> Tenths:
        return Tenths(self.data.images[0].flatten(1).mean(1))

    @property
    def expected_shares(self) -> list[float]:
        return self._brightness.shares

    def teacher_metrics(self, n: int) -> tuple[list[Metric], str]:
        if self.data.teacher.denoiser is None:
            return [], ""
        teacher, chosen = self.data.teacher, self.data.chosen
        rows = teacher.written_metrics(n, self._real, self.features.name, chosen)
        return rows or self.measure(self.data.teacher_source(measured=True), n), TEACHER

    def plot_samples(self, x: Tensor, path: Path, of: str = "") -> Path:
        return image_grid([(f"{len(x):,} samples{of}", self.space.images(x).numpy())], path)

    def plot_side_by_side(self, samples: Sequence[tuple[str, Tensor]], path: Path) -> Path:
        rows = [(title, self.space.images(x[:40]).numpy()) for title, x in samples]
        return image_grid(rows, path, columns=20)

    def plot_beside_data(self, source: Source, path: Path, title: str, seed: int = 0) -> Path:
        n, random = 60, torch.Generator().manual_seed(seed)
        rows = []
        if self.data.settings.data is not None:
            real = self.data.images[0]
            rows.append(("data", real[torch.randperm(len(real), generator=random)[:n]].numpy()))
        if self.data.teacher.denoiser is not None and not title.startswith("teacher"):
            x = self.data.teacher_source()(n, random)[0]
            rows.append((TEACHER, self.space.images(x).numpy()))
        rows.append((title, self.space.images(source(n, random)[0]).numpy()))
        return image_grid(rows, path, columns=20)


def refuse_few(n: int, source: str | None) -> None:
    r"""Raises a `ConfigError` if there are too few images to compare samples with, and warns once
    of what is left out where there are few.

    Arguments:
        n: The number of real images.
        source: Their name; none for the teacher's own samples, which are never few.
    """
    if n < LEAST_OF_NEIGHBOURS:
        raise ConfigError(
            f"{shown(source or 'data')} has {amount(n, 'image')}, and samples are compared with "
            f"at least {LEAST_OF_NEIGHBOURS}: give more images (--data)"
        )
    if n < LEAST_OF_KERNEL:
        warnings.warn(
            f"{shown(source or 'data')} has {amount(n, 'image')}: the kernel distance, which "
            f"needs {LEAST_OF_KERNEL}, is left out",
            stacklevel=2,
        )
