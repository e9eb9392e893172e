r"""Rows of settings of VarDiU that were tuned; `presets` gives them a problem and a name."""

from __future__ import annotations

from dataclasses import replace

from ...settings.fields import (
    AnchorSettings,
    FrameSettings,
    LevelSettings,
    NetworkOptimizer,
    PairSettings,
    WeightSettings,
)
from ...settings.grounds import (
    AT_ONCE,
    BOUNDED,
    COARSE_TO_FINE,
    DIGIT_PAIRS,
    IMAGE_UPDATES,
)
from .settings import Settings

__all__ = [
    "ANCHORED",
    "FRAMED",
    "GAUSSIAN",
    "JUMPING",
    "LONG",
    "MORE",
    "NEAR",
    "PUBLISHED",
    "RAW",
    "SHARED",
    "SMALL",
    "TEXTURES",
]


SHARED = Settings(
    posterior="shared",
    lattice=True,
    steps=14_000,
    batch=256,
    lr=2e-3,
    levels=COARSE_TO_FINE,
    weight=BOUNDED,
    halflife=200_000.0,
)

GAUSSIAN = replace(
    SHARED, posterior="gaussian", steps=6_000, posterior_optimizer=NetworkOptimizer(lr=1e-3)
)

# A student whose posterior is known at the start, see docs/methods/vardiu.md.
FRAMED = Settings(
    posterior="framed",
    steps=460,
    batch=128,
    lr=3e-4,
    posterior_optimizer=NetworkOptimizer(lr=1e-3),
    delay=100,
    beta_1=0.5,
    beta_2=0.99,
    decay="trapezoid",
    clip=100.0,
    levels=LevelSettings(sigma_min=0.15, sigma_max=5.0),
    weight=WeightSettings(kind="power", power=1.0),
    posterior_weight=WeightSettings(kind="constant"),
    antithetic=False,
    halflife=8_800.0,
    frame=FrameSettings(clusters=12, components=24),
)

# A start from pairs, then the bound of a lagging copy of the student, see docs/methods/vardiu.md.
# A regression gets the coarse right and blurs the fine, which the small levels put right; Stable
# Diffusion knows none below 0.0292.
ANCHORED = Settings(
    **IMAGE_UPDATES,
    posterior="anchored",
    steps=800,
    batch=128,
    lr=1e-4,
    fake_optimizer=NetworkOptimizer(lr=8e-4, beta_1=0.0),
    delay=100,
    clip=100.0,
    levels=LevelSettings(sigma_min=0.03, sigma_max=1.0),
    antithetic=False,
    pairs=PairSettings(pairs=16_000),
    regression_weight=2.0,
)

# Of patches smaller levels, larger steps and less of the regression were better.
TEXTURES = replace(
    ANCHORED,
    steps=500,
    lr=3e-4,
    levels=replace(ANCHORED.levels, sigma_min=0.02),
    regression_weight=0.5,
)

# From a good start few small steps: larger ones lead away from what the regression reached.
SMALL = replace(
    ANCHORED,
    steps=350,
    lr=5e-5,
    beta_1=0.5,
    levels=LevelSettings(sigma_min=0.2, sigma_max=6.0),
    halflife=10_000.0,
    regression_weight=0.5,
    anchor=AnchorSettings(rate=0.05),
    pairs=DIGIT_PAIRS,
)

# Without pairs nothing but the divergence holds the samples apart, and it draws them to modes: see
# "A temperature" in docs/methods/vardiu.md.
RAW = replace(
    SMALL,
    steps=6_000,
    lr=3e-4,
    levels=LevelSettings(sigma_min=0.03, sigma_max=6.0),
    temperature=1.1,
    normalised=True,
    pairs=PairSettings(),
    regression_weight=0.0,
)

MORE = replace(DIGIT_PAIRS, pairs=64_000, steps=6_000)
LONG = replace(SMALL, halflife=20_000.0, pairs=MORE)

PUBLISHED = Settings(
    posterior="gaussian",
    steps=1_000_000,
    batch=512,
    lr=1e-4,
    decay="constant",
    clip=10.0,
    halflife=0.0,
    control_variate=False,
    levels=LevelSettings(
        kind="power_law", sigma_min=0.1, sigma_max=20.0, rho=0.1, rho_end=2.0, rho_every=1000
    ),
)

# A student that jumps, and a mixture that is not too high: see docs/methods/vardiu.md.
JUMPING = replace(
    SHARED,
    own=0.5,
    batch=1_024,
    steps=4_500,
    levels=replace(COARSE_TO_FINE, sigma_min=0.3),
    halflife=200_000.0,
)

# Without levels beyond the mixture's own spread 32 dimensions are reached too.
NEAR = replace(
    SHARED,
    posterior="anchored",
    steps=2_500,
    lr=1e-3,
    beta_2=0.99,
    fake_optimizer=NetworkOptimizer(lr=2e-3),
    delay=100,
    levels=replace(AT_ONCE, sigma_max=5.0),
    halflife=20_000.0,
    anchor=AnchorSettings(rate=0.2),
)
