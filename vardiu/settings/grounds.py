r"""Rows of settings that several methods are run with: the same ground for all of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from .fields import (
    AnchorSettings,
    DegradationSettings,
    DensitySettings,
    FrameSettings,
    ImageSettings,
    KernelSettings,
    LevelSettings,
    PairSettings,
    RestorationSettings,
    WeightSettings,
)

__all__ = [
    "AT_ONCE",
    "BOUNDED",
    "COARSE_TO_FINE",
    "DIGIT_PAIRS",
    "IMAGE_LEVELS",
    "IMAGE_UPDATES",
    "MIXTURE",
    "MOG40",
    "PATCHES",
    "PATCH_PAIRS",
    "RESTORATION",
    "rescaled",
]


S = TypeVar("S")


# Lengths that go with the narrowest Gaussian, and those that go with the whole spread.
GRAINS = {
    DensitySettings: ("sigma_min", "bandwidth"),
    LevelSettings: ("sigma_min",),
    AnchorSettings: ("bank_above",),
    WeightSettings: ("scale",),
    FrameSettings: ("sigma",),
    KernelSettings: ("width", "width_end", "low"),
}


SPREADS = {
    DensitySettings: ("sigma_max",),
    LevelSettings: ("sigma_max", "start_min"),
    KernelSettings: ("high",),
}


MOG40 = DensitySettings(fourier=7, precision="auto")


COARSE_TO_FINE = LevelSettings(sigma_min=0.2, sigma_max=20.0, start_min=10.0)


# Images: how networks that start near to their goal are updated, and at which levels.
IMAGE_UPDATES: Mapping[str, Any] = {
    "warmup": 50,
    "beta_2": 0.99,
    "decay": "trapezoid",
    "halflife": 17_700.0,
}
IMAGE_LEVELS = LevelSettings(sigma_min=0.1, sigma_max=6.0)


# Eight steps of Heun's method solve pairs that are nearer to the digits than those of ten or of
# 35, see docs/methods/regression.md; so it was measured for this teacher.
DIGIT_PAIRS = PairSettings(pairs=16_000, solver_steps=8)


AT_ONCE = LevelSettings(sigma_min=0.2, sigma_max=10.0)


BOUNDED = WeightSettings(kind="bounded", scale=1.0)


# Unit scale, and a student that starts as spread as the data, see docs/dimensions.md.
MIXTURE = DensitySettings(
    name="mixture",
    dim=8,
    latent=8,
    fourier=0,
    residual=True,
    sigma_max=20.0,
    precision="auto",
)


PATCHES = ImageSettings(
    name="patches",
    data="photos",
    held_out="photos-held-out",
    widths=(24, 64),
    precision="auto",
)


# The small degradation: fewer pixels and a little noise.
PATCH_PAIRS = RestorationSettings(
    name="patches",
    data="photos",
    held_out="photos-held-out",
    degradation=DegradationSettings(
        rounds=1, blur=(0.0, 0.0), resize=(1.0, 1.0), noise=(0.02, 0.02), jpeg=(0, 0)
    ),
)


RESTORATION = RestorationSettings(student="lora")


def rescaled(settings: S, grain: float, spread: float) -> S:
    r"""Returns settings for data of another size: every noise level that they hold is a length.

    The smallest levels, the scale of a bounded weight and the width of a kernel are multiplied by
    `grain`; the largest levels, and the smallest one that training begins with, by `spread`; the
    mean of a log-normal distribution moves by the logarithm of the two's geometric mean. Rows
    within rows are rescaled alike. Of what a class beside those of `vardiu.settings.fields` holds
    itself, the fields that it names as its `LENGTHS` are multiplied by `spread`.

    Arguments:
        settings: A dataclass of settings.
        grain: The smallest length of the new data over that of the old ones.
        spread: The standard deviation of the new data over that of the old ones.
    """
    if grain == spread == 1:
        return settings
    row: Any = settings
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = rescaled(value, grain, spread)
    for table, factor in ((GRAINS, grain), (SPREADS, spread)):
        names = table.get(type(row), getattr(row, "LENGTHS", ()) if table is SPREADS else ())
        for name in names:
            value = getattr(row, name)
            changes[name] = None if value is None else _rounded(value * factor)
    if isinstance(row, LevelSettings):
        changes["mean"] = round(row.mean + 0.5 * math.log(grain * spread), 2)
    found: S = dataclasses.replace(row, **changes)
    return found


def _rounded(value: float) -> float:
    r"""Returns a number of three digits: a level is typed and read."""
    return float(f"{value:.3g}")
