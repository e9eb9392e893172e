r"""Rows of settings of VarDiU that were tuned."""

from __future__ import annotations

from dataclasses import replace

from ...settings.fields import (
    AnchorSettings,
    DensitySettings,
    DigitsSettings,
    FrameSettings,
    ImageSettings,
    LevelSettings,
    NetworkOptimizer,
    PairSettings,
    VectorSettings,
    WeightSettings,
)
from ...settings.grounds import (
    AT_ONCE,
    BOUNDED,
    COARSE_TO_FINE,
    DIGIT_PAIRS,
    IMAGE_UPDATES,
    MIXTURE,
    MOG40,
    PATCHES,
)
from ..base import Preset
from .settings import Settings

__all__ = ["ANCHORED", "FRAMED", "GAUSSIAN", "PRESETS", "SHARED", "SMALL", "TEXTURES"]


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

PRESETS = {
    "mog40": Preset(
        "40 Gaussians, exact score; the bound of the minibatch mixture", MOG40, SHARED
    ),
    "mog40-codes": Preset(
        "the same with a student that jumps between modes, and a row's own weight of 1/2",
        replace(MOG40, latent=3, codes=1_024),
        JUMPING,
    ),
    "mog40-gaussian": Preset("the same with the paper's Gaussian posterior", MOG40, GAUSSIAN),
    "mog40-mixture": Preset(
        "the same with a mixture of 16 Gaussians as posterior",
        MOG40,
        replace(GAUSSIAN, posterior="mixture"),
    ),
    "mog40-flow": Preset(
        "the same with a spline flow as posterior, the paper's other family",
        MOG40,
        replace(GAUSSIAN, posterior="flow", steps=3_000),
    ),
    "mog40-particles": Preset(
        "the same with a Gaussian posterior and four particles",
        MOG40,
        replace(GAUSSIAN, particles=4, steps=3_000),
    ),
    "mog40-kde": Preset(
        "the default bound; the teacher is the score of 10,000 noised samples",
        replace(MOG40, teacher="kde"),
        replace(SHARED, steps=4_000),
    ),
    "mog40-learned": Preset(
        "the default bound; the teacher is a network, see `vardiu teach mog40`",
        replace(MOG40, teacher="learned"),
        SHARED,
    ),
    "mog40-paper": Preset(
        "the published setting: Gaussian posterior, 400-wide networks, a million steps",
        DensitySettings(width=400, depth=4, fourier=0, scaled=False),
        PUBLISHED,
    ),
    "mixture": Preset(
        "a random mixture in any dimension (--dim, --modes)",
        replace(MOG40, name="mixture", dim=8, latent=8),
        SHARED,
    ),
    "mixture-residual": Preset(
        "the same from a student whose posterior is known at the start; does not collapse",
        MIXTURE,
        replace(SHARED, posterior="residual", steps=6_000, lr=1e-3, levels=AT_ONCE),
    ),
    "mixture-anchored": Preset(
        "the residual student by the posterior of a lagging copy; nearest to the data",
        MIXTURE,
        NEAR,
    ),
    "digits-vardiu": Preset(
        "8x8 real images by class; VarDiU with the posterior of a lagging student",
        DigitsSettings(),
        SMALL,
    ),
    "digits-vardiu-long": Preset(
        "the same with four times the pairs and a longer regression",
        DigitsSettings(),
        LONG,
    ),
    "patches-vardiu": Preset(
        "16x16 patches of photographs; VarDiU with the posterior of a lagging student",
        PATCHES,
        TEXTURES,
    ),
    "patches-vardiu-long": Preset(
        "the same with four times the pairs and a longer regression",
        PATCHES,
        replace(TEXTURES, pairs=MORE),
    ),
    "images-vardiu": Preset(
        "any teacher of images; VarDiU with the posterior of a lagging student",
        ImageSettings(),
        ANCHORED,
    ),
    "digits-framed": Preset(
        "8x8 real images by class; VarDiU from a frame of the teacher's samples, without a fake",
        DigitsSettings(),
        FRAMED,
    ),
    "images-framed": Preset(
        "any teacher of images; VarDiU from a frame of the teacher's samples, without a fake",
        ImageSettings(),
        replace(FRAMED, frame=FrameSettings(clusters=4, components=64)),
    ),
    "vectors-vardiu": Preset(
        "any teacher of vectors; the bound of the minibatch mixture, with a fresh student",
        VectorSettings(student="fresh"),
        replace(
            SHARED,
            levels=LevelSettings(sigma_min=0.01, sigma_max=1.0, start_min=0.5),
            weight=replace(BOUNDED, scale=0.05),
        ),
    ),
}
