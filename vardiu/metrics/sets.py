r"""All metrics of two sets of features."""

from __future__ import annotations

from torch import Tensor

from .frechet import frechet, kernel_distance
from .metric import Metric
from .neighbours import density_coverage, precision_recall

__all__ = ["feature_metrics"]


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
