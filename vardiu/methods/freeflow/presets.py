r"""Rows of settings of FreeFlow that were tuned, and what it enters contests with."""

from __future__ import annotations

from dataclasses import replace

from ...settings.fields import DigitsSettings, LevelSettings, NetworkOptimizer, PairSettings
from ...settings.grounds import COARSE_TO_FINE, DIGIT_PAIRS, MOG40, PATCHES
from ..base import Arm, Preset
from .settings import Settings

__all__ = ["ARMS", "PRESETS"]


MIXTURE = Settings(
    steps=4_000,
    batch=512,
    lr=2e-3,
    fake_optimizer=NetworkOptimizer(lr=4e-3),
    beta_1=0.5,
    beta_2=0.99,
    correction=0.5,
    lead=0.2,
    levels=LevelSettings(sigma_min=0.2, sigma_max=80.0),
    noise_levels=COARSE_TO_FINE,
)


# On the teacher's paths first: from the teacher's weights alone prediction has not arrived at the
# data after as many updates, see docs/methods/freeflow.md.
DIGITS = Settings(
    steps=900,
    batch=128,
    lr=5e-5,
    fake_optimizer=NetworkOptimizer(lr=8e-4),
    warmup=50,
    beta_2=0.99,
    halflife=40_000.0,
    correction=0.5,
    levels=LevelSettings(sigma_min=0.05, sigma_max=20.0),
    pairs=replace(DIGIT_PAIRS, steps=4_000),
)
# What a contest of 300 seconds pays for.
SHORT = replace(DIGITS, pairs=DIGIT_PAIRS)
# How many steps solve a pair was measured of the digits' teacher.
PATCHED = replace(DIGITS, pairs=PairSettings(pairs=16_000, steps=4_000))


WIDE = replace(MOG40, sigma_max=80.0)


PRESETS = {
    "mog40-freeflow": Preset("a flow map from noise alone, any number of calls", WIDE, MIXTURE),
    "digits-freeflow": Preset(
        "8x8 real images by class; a flow map after the teacher's paths, any number of calls",
        DigitsSettings(),
        DIGITS,
    ),
    "patches-freeflow": Preset(
        "16x16 patches of photographs; a flow map after the teacher's paths, any number of calls",
        PATCHES,
        PATCHED,
    ),
}


ARMS = {
    "mog40": {"freeflow": Arm("FreeFlow", MIXTURE)},
    "digits": {"freeflow": Arm("FreeFlow after paths", SHORT)},
}
