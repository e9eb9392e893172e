r"""Rows of settings of Diff-Instruct that were tuned, and how it enters contests."""

from __future__ import annotations

from dataclasses import replace

from ...settings.fields import (
    DigitsSettings,
    ImageSettings,
    LevelSettings,
    NetworkOptimizer,
    PairSettings,
    VectorSettings,
)
from ...settings.grounds import (
    AT_ONCE,
    BOUNDED,
    COARSE_TO_FINE,
    DIGIT_PAIRS,
    IMAGE_LEVELS,
    IMAGE_UPDATES,
    MIXTURE,
    MOG40,
    PATCHES,
)
from ..base import Arm, Preset
from .settings import Settings

__all__ = ["ARMS", "DIGITS", "PRESETS"]


# How images are distilled: a regression on pairs first, and beside.
IMAGES = Settings(
    **IMAGE_UPDATES,
    steps=800,
    batch=128,
    lr=3e-4,
    fake_optimizer=NetworkOptimizer(lr=8e-4),
    ratio=1,
    normalised=True,
    regression_weight=6.0,
    delay=100,
    beta_1=0.0,
    clip=100.0,
    levels=IMAGE_LEVELS,
    pairs=PairSettings(pairs=16_000),
)


# From a good start few small steps: larger ones lead away from what the regression reached.
DIGITS = replace(IMAGES, steps=400, lr=5e-5, pairs=DIGIT_PAIRS)


# How vectors are distilled; levels are in units of the data.
VECTORS = replace(
    IMAGES,
    steps=2_000,
    batch=256,
    lr=2e-4,
    fake_optimizer=NetworkOptimizer(lr=1e-3),
    levels=LevelSettings(sigma_min=0.02, sigma_max=2.0),
    clip=10.0,
    pairs=PairSettings(pairs=16_000, steps=2_500, batch=256),
)


PRESETS = {
    "mog40-diff-instruct": Preset(
        "Diff-Instruct with five fake updates a student update",
        MOG40,
        Settings(steps=4_000, batch=256, levels=COARSE_TO_FINE, weight=BOUNDED, ratio=5),
    ),
    "mixture-diff-instruct": Preset(
        "the residual student by Diff-Instruct with one fake update: best from 8 dimensions on",
        MIXTURE,
        Settings(
            steps=4_000,
            batch=512,
            lr=1e-3,
            fake_optimizer=NetworkOptimizer(lr=2e-3),
            beta_1=0.5,
            beta_2=0.99,
            delay=100,
            ratio=1,
            lattice=True,
            levels=AT_ONCE,
            weight=BOUNDED,
            halflife=20_000.0,
        ),
    ),
    "digits": Preset(
        "8x8 real images by class; Diff-Instruct after a regression on pairs",
        DigitsSettings(),
        DIGITS,
    ),
    "patches": Preset(
        "16x16 patches of photographs; Diff-Instruct after a regression on pairs",
        PATCHES,
        IMAGES,
    ),
    "images": Preset(
        "any teacher of images (--teacher, --data); Diff-Instruct after a regression on pairs",
        ImageSettings(),
        IMAGES,
    ),
    "vectors": Preset(
        "any teacher of vectors (--teacher, --data); Diff-Instruct after a regression on pairs",
        VectorSettings(),
        VECTORS,
    ),
}


# As many rows a batch as VarDiU's pairs of opposite noise make; the fake learns the first student
# before that one moves, in place of a fake that starts from the teacher's weights.
CONTENDER = Settings(
    batch=512,
    lr=2e-3,
    fake_optimizer=NetworkOptimizer(lr=4e-3),
    beta_1=0.5,
    beta_2=0.99,
    delay=200,
    levels=COARSE_TO_FINE,
    weight=BOUNDED,
    lattice=True,
)


ARMS = {
    "mog40": {
        f"diff-instruct-{ratio}": Arm(
            f"Diff-Instruct, {ratio} fake", replace(CONTENDER, ratio=ratio)
        )
        for ratio in (1, 5, 10)
    },
    "digits": {"diff-instruct": Arm("Diff-Instruct after pairs", DIGITS)},
    "vectors": {"diff-instruct": Arm("Diff-Instruct after pairs", VECTORS)},
}
