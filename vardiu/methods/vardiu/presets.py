r"""What of VarDiU can be asked for by a name: a problem, and a row of settings that was tuned."""

from __future__ import annotations

from dataclasses import replace

from ...settings.fields import (
    DensitySettings,
    DigitsSettings,
    FrameSettings,
    ImageSettings,
    LevelSettings,
    VectorSettings,
)
from ...settings.grounds import AT_ONCE, BOUNDED, MIXTURE, MOG40, PATCHES
from ..base import Preset
from .rows import (
    ANCHORED,
    FRAMED,
    GAUSSIAN,
    JUMPING,
    LONG,
    MORE,
    NEAR,
    PUBLISHED,
    RAW,
    SHARED,
    SMALL,
    TEXTURES,
)

__all__ = ["PRESETS"]


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
    "digits-vardiu-raw": Preset(
        "the same from the teacher's weights alone, without pairs; a temperature keeps the spread",
        DigitsSettings(sigma=2.5),
        RAW,
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
