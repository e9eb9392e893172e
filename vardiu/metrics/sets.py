r"""All metrics of two sets of features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from .frechet import frechet, frechet_ratio, kernel_distance
from .metric import Metric
from .neighbours import density_coverage, precision_recall

__all__ = ["FeatureSpace", "feature_metrics", "mean_ratio", "space_metrics"]


class FeatureSpace(Protocol):
    r"""A map from images to features, `(N, C, H, W)` to `(N, F)`, with a name."""

    @property
    def name(self) -> str: ...

    def __call__(self, x: Tensor) -> Tensor: ...


def feature_metrics(real: Tensor, fake: Tensor, features: str) -> list[Metric]:
    r"""Returns Fréchet and kernel distance, precision and recall, density and coverage.

    Arguments:
        real: Features of true samples, with shape :math:`(N, F)`.
        fake: Features of samples, with shape :math:`(M, F)`.
        features: The name of the features.
    """
    return [
        frechet(real, fake, features=features),
        kernel_distance(real, fake, features=features),
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
    by the space whose real images are nearest."""
    ratios = [metric.value for metric in metrics if metric.name == "frechet_ratio"]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))
