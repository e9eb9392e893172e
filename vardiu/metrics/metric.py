r"""What a metric is: never a bare number."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from ..errors import amount, with_error

__all__ = ["Metric", "check_pair", "check_samples", "fingerprint", "title_of"]


# What people call a metric; the others go by their own names.
TITLES: Mapping[str, str] = {
    "mmd2": "MMD^2",
    "mmd2_unbiased": "MMD^2, unbiased",
    "log_density": "log-density",
    "modes": "modes covered",
    "wasserstein2": "Wasserstein-2",
    "sliced_wasserstein2": "sliced Wasserstein-2",
    "frechet": "Fréchet distance",
    "frechet_real": "Fréchet distance of real images",
    "frechet_ratio": "ratio to real images",
    "kernel_distance": "kernel distance",
    "classes": "classes covered",
    "agreement": "agreement with the class",
    "residual": "residual of the guide",
}


def title_of(name: str) -> str:
    r"""Returns what people call a metric of this name."""
    return TITLES.get(name, name.replace("_", " "))


@dataclass(frozen=True)
class Metric:
    r"""A measured value.

    Arguments:
        name: Its name.
        value: The estimate.
        error: Its standard error; `None` only where `note` says why.
        n: The number of samples that were measured.
        higher_is_better: The direction; `None` where there is none.
        note: What a reader must know.
        reference: The first digits of the SHA-256 of the reference sample.
        features: The name of the feature extractor.
    """

    name: str
    value: float
    error: float | None
    n: int
    higher_is_better: bool | None
    note: str = ""
    reference: str = ""
    features: str = ""

    def row(self) -> dict[str, Any]:
        r"""Returns the fields as a dictionary for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.name} {with_error(self.value, self.error)} (n = {self.n})"


def fingerprint(x: Tensor) -> str:
    r"""Returns the first twelve hexadecimal digits of the SHA-256 of a tensor's bytes."""
    return hashlib.sha256(x.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:12]


def check_samples(x: Tensor, name: str, least: int = 2) -> Tensor:
    r"""Returns samples `(N, d)` in float64, or raises a `ValueError` that names what is wrong."""
    if x.ndim != 2:
        raise ValueError(f"{name} must have shape (N, d), got {tuple(x.shape)}")
    if len(x) < least:
        raise ValueError(f"{name} must have at least {least} rows, got {len(x)}")
    if not bool(x.isfinite().all()):
        found = amount(int((~x.isfinite()).sum()), "value that is", "values that are")
        raise ValueError(f"{name} holds {found} not finite")
    return x.double()


def check_pair(x: Tensor, y: Tensor, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    r"""Returns two samples of the same dimension, in float64."""
    x, y = check_samples(x, names[0]), check_samples(y, names[1])
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same dimension, "
            f"got {x.shape[1]} and {y.shape[1]}"
        )
    return x, y
