"""Metrics of samples, each a number with its count, its standard error and its reference."""

from .classes import class_agreement, class_masses, classes_covered
from .density import log_density, mode_masses, modes_covered
from .frechet import frechet, frechet_of_moments, frechet_ratio, kernel_distance
from .metric import Metric, fingerprint
from .mmd import mmd2, mmd2_biased, mmd2_unbiased
from .neighbours import density_coverage, precision_recall
from .sets import feature_metrics, mean_ratio, space_metrics
from .transport import wasserstein2_exact, wasserstein2_sliced

__all__ = [
    "class_agreement",
    "class_masses",
    "classes_covered",
    "log_density",
    "mode_masses",
    "modes_covered",
    "frechet",
    "frechet_of_moments",
    "frechet_ratio",
    "kernel_distance",
    "Metric",
    "fingerprint",
    "mmd2",
    "mmd2_biased",
    "mmd2_unbiased",
    "density_coverage",
    "precision_recall",
    "feature_metrics",
    "mean_ratio",
    "space_metrics",
    "wasserstein2_exact",
    "wasserstein2_sliced",
]
