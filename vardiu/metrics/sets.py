r"""All metrics of two sets of features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from .frechet import LEAST_OF_KERNEL, frechet, frechet_ratio, kernel_distance
from .metric import Metric
from .neighbours import density_coverage, precision_recall

__all__ = [
    "FeatureSpace",
    "TrainingSpace",
    "feature_metrics",
    "judges",
    "marked_trained",
    "mean_ratio",
    "space_metrics",
    "trained_warning",
]


# What stands behind the name of features that a student was trained in.
TRAINED = " (TRAINED ON)"


class FeatureSpace(Protocol):
    r"""A map from images to features, `(N, C, H, W)` to `(N, F)`, with a name."""

    @property
    def name(self) -> str: ...

    def __call__(self, x: Tensor) -> Tensor: ...


class TrainingSpace(FeatureSpace, Protocol):
    r"""A space of features that samples can be trained in."""

    def of(self, x: Tensor) -> Tensor:
        r"""Returns the features of samples with their gradient, on the samples' device."""


def judges(features: str) -> bool:
    r"""Whether a student was not trained in features of this name, see `marked_trained`."""
    return not features.endswith(TRAINED)


def trained_warning(trained_on: str) -> str:
    r"""Returns what is said beside the numbers of a student that was trained on a metric.

    Arguments:
        trained_on: The metric and its features; empty for none, of which nothing is said.
    """
    if not trained_on:
        return ""
    return f"TRAINED ON {trained_on}: what these features say does not judge this student."


def marked_trained(metrics: Sequence[Metric], features: str) -> list[Metric]:
    r"""Returns metrics of a student that was trained in a space of features: those in that space
    are marked in the name of their features, and come last.

    Arguments:
        metrics: The metrics.
        features: The name of the features that the student was trained in; empty for none.
    """
    if not features:
        return list(metrics)
    own = [metric for metric in metrics if metric.features == features]
    held_out = [metric for metric in metrics if metric.features != features]
    return held_out + [replace(metric, features=features + TRAINED) for metric in own]


def feature_metrics(real: Tensor, fake: Tensor, features: str) -> list[Metric]:
    r"""Returns Fréchet and kernel distance, precision and recall, density and coverage.

    The kernel distance is left out where either set has fewer samples than its blocks need: the
    other metrics judge few images as well.

    Arguments:
        real: Features of true samples, with shape :math:`(N, F)`.
        fake: Features of samples, with shape :math:`(M, F)`.
        features: The name of the features.
    """
    enough = min(len(real), len(fake)) >= LEAST_OF_KERNEL
    return [
        frechet(real, fake, features=features),
        *([kernel_distance(real, fake, features=features)] if enough else []),
        *precision_recall(real, fake, features=features),
        *density_coverage(real, fake, features=features),
    ]


def space_metrics(
    spaces: Sequence[FeatureSpace], real: Tensor, held_out: Tensor, fake: Tensor
) -> list[Metric]:
    r"""Returns `frechet_ratio`'s three metrics in each of several spaces of features.

    Arguments:
        spaces: The spaces.
        real: Real images, with shape :math:`(M, C, H, W)`.
        held_out: Other real images, :math:`(N, C, H, W)`.
        fake: Samples, :math:`(N', C, H, W)`.
    """
    return [
        metric
        for space in spaces
        for metric in frechet_ratio(space(real), space(held_out), space(fake), features=space.name)
    ]


def mean_ratio(metrics: Sequence[Metric]) -> float:
    r"""Returns the geometric mean of the ratios among metrics: an arithmetic one would be ruled
    by the space whose real images are nearest. Spaces that the student was trained in say nothing
    and do not count; without any other, or with one that rounding has made negative, it is not a
    number."""
    ratios = [
        metric.value
        for metric in metrics
        if metric.name == "frechet_ratio" and judges(metric.features)
    ]
    if not ratios or min(ratios) < 0:
        return math.nan
    return math.prod(ratios) ** (1 / len(ratios))
