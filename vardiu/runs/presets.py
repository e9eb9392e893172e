r"""Presets: named rows of settings. Any field can be overridden on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..methods import denoising, diff_instruct, regression, vardiu
from ..settings.fields import (
    DensitySettings,
    DigitsSettings,
    FrameSettings,
    ImageSettings,
    LevelSettings,
    PairSettings,
    Training,
    WeightSettings,
)

__all__ = ["PRESETS", "TEACHERS", "Preset"]


@dataclass(frozen=True)
class Preset:
    r"""A row of the table.

    Arguments:
        about: One line for `vardiu list`.
        method: The name of the method.
        problem: The problem's settings.
        settings: The method's settings.
    """

    about: str
    method: str
    problem: DensitySettings | DigitsSettings | ImageSettings
    settings: Training


MOG40 = DensitySettings(fourier=7, precision="bfloat16")


COARSE_TO_FINE = LevelSettings(sigma_min=0.2, sigma_max=20.0, start_min=10.0)


BOUNDED = WeightSettings(kind="bounded", scale=1.0)


SHARED = vardiu.Settings(
    posterior="shared",
    lattice=True,
    steps=14_000,
    batch=256,
    lr=2e-3,
    levels=COARSE_TO_FINE,
    weight=BOUNDED,
    halflife=200_000.0,
)


GAUSSIAN = replace(SHARED, posterior="gaussian", steps=6_000)


DIFF_INSTRUCT = diff_instruct.Settings(
    steps=4_000, batch=256, levels=COARSE_TO_FINE, weight=BOUNDED, ratio=5
)


# Unit scale, and a student that starts as spread as the data, see docs/dimensions.md.
MIXTURE = DensitySettings(
    name="mixture",
    dim=8,
    latent=8,
    fourier=0,
    residual=True,
    sigma_max=20.0,
    precision="bfloat16",
)


AT_ONCE = LevelSettings(sigma_min=0.2, sigma_max=10.0)


PATCHES = ImageSettings(name="patches", data="photos", widths=(24, 64), precision="bfloat16")


IMAGES = diff_instruct.Settings(
    steps=800,
    batch=128,
    lr=3e-4,
    fake_lr=8e-4,
    ratio=1,
    normalised=True,
    anchor=6.0,
    delay=100,
    warmup=50,
    beta_1=0.0,
    beta_2=0.99,
    clip=100.0,
    decay="trapezoid",
    levels=LevelSettings(sigma_min=0.1, sigma_max=6.0),
    halflife=17_700.0,
    pairs=PairSettings(pairs=16_000),
)


# A student whose posterior is known at the start, see docs/methods/vardiu.md.
FRAMED = vardiu.Settings(
    posterior="framed",
    steps=460,
    batch=128,
    lr=3e-4,
    posterior_lr=1e-3,
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


# How a U-Net of images is taught.
UNETS = denoising.Settings(
    steps=4_200,
    batch=128,
    lr=2e-3,
    beta_2=0.99,
    warmup=100,
    clip=1.0,
    decay="trapezoid",
    levels=LevelSettings(kind="log_normal", mean=-0.6, std=1.4, sigma_min=0.02, sigma_max=20.0),
    halflife=44_000.0,
)


PAPER = DensitySettings(width=400, depth=4, fourier=0, scaled=False)


PAPER_LEVELS = LevelSettings(
    kind="power_law", sigma_min=0.1, sigma_max=20.0, rho=0.1, rho_end=2.0, rho_every=1000
)


PRESETS: Mapping[str, Preset] = {
    "mog40": Preset(
        "40 Gaussians, exact score; the bound of the minibatch mixture", "vardiu", MOG40, SHARED
    ),
    "mog40-gaussian": Preset(
        "the same with the paper's Gaussian posterior", "vardiu", MOG40, GAUSSIAN
    ),
    "mog40-mixture": Preset(
        "the same with a mixture of 16 Gaussians as posterior",
        "vardiu",
        MOG40,
        replace(GAUSSIAN, posterior="mixture"),
    ),
    "mog40-flow": Preset(
        "the same with a spline flow as posterior, the paper's other family",
        "vardiu",
        MOG40,
        replace(GAUSSIAN, posterior="flow", steps=3_000),
    ),
    "mog40-particles": Preset(
        "the same with a Gaussian posterior and four particles",
        "vardiu",
        MOG40,
        replace(GAUSSIAN, particles=4, steps=3_000),
    ),
    "mog40-kde": Preset(
        "the default bound; the teacher is the score of 10,000 noised samples",
        "vardiu",
        replace(MOG40, teacher="kde"),
        replace(SHARED, steps=4_000),
    ),
    "mog40-learned": Preset(
        "the default bound; the teacher is a network, see `vardiu teach mog40`",
        "vardiu",
        replace(MOG40, teacher="learned"),
        SHARED,
    ),
    "mog40-paper": Preset(
        "the published setting: Gaussian posterior, 400-wide networks, a million steps",
        "vardiu",
        PAPER,
        vardiu.Settings(
            posterior="gaussian",
            steps=1_000_000,
            batch=512,
            lr=1e-4,
            posterior_lr=1e-4,
            decay="constant",
            clip=10.0,
            halflife=0.0,
            control_variate=False,
            levels=PAPER_LEVELS,
        ),
    ),
    "mog40-diff-instruct": Preset(
        "Diff-Instruct with five fake updates a student update",
        "diff_instruct",
        MOG40,
        DIFF_INSTRUCT,
    ),
    "mixture": Preset(
        "a random mixture in any dimension (--dim, --modes)",
        "vardiu",
        replace(MOG40, name="mixture", dim=8, latent=8),
        SHARED,
    ),
    "mixture-residual": Preset(
        "the same from a student whose posterior is known at the start; does not collapse",
        "vardiu",
        MIXTURE,
        replace(
            SHARED, posterior="residual", steps=6_000, lr=1e-3, posterior_lr=1e-3, levels=AT_ONCE
        ),
    ),
    "mixture-diff-instruct": Preset(
        "the same student by Diff-Instruct with one fake update: the best from 8 dimensions on",
        "diff_instruct",
        MIXTURE,
        diff_instruct.Settings(
            steps=4_000,
            batch=512,
            lr=1e-3,
            fake_lr=2e-3,
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
        "diff_instruct",
        DigitsSettings(),
        IMAGES,
    ),
    "digits-pairs": Preset(
        "the same images; the regression on pairs alone, for comparison",
        "regression",
        DigitsSettings(),
        regression.Settings(steps=2_500, halflife=17_700.0),
    ),
    "patches": Preset(
        "16x16 patches of photographs; Diff-Instruct after a regression on pairs",
        "diff_instruct",
        PATCHES,
        IMAGES,
    ),
    "images": Preset(
        "any teacher of images (--teacher, --data); Diff-Instruct after a regression on pairs",
        "diff_instruct",
        ImageSettings(),
        IMAGES,
    ),
    "digits-vardiu": Preset(
        "the same images; VarDiU from a frame of the teacher's samples, whose posterior is known",
        "vardiu",
        DigitsSettings(),
        FRAMED,
    ),
    "images-vardiu": Preset(
        "any teacher of images; VarDiU from a frame of the teacher's samples",
        "vardiu",
        ImageSettings(),
        replace(FRAMED, frame=FrameSettings(clusters=4, components=64)),
    ),
}


TEACHERS: Mapping[str, Preset] = {
    "patches": Preset(
        "a U-Net on 16x16 patches of the photographs of scikit-learn and scikit-image",
        "denoising",
        PATCHES,
        replace(UNETS, steps=5_000, batch=96, halflife=60_000.0),
    ),
    "mog40": Preset(
        "the paper's learned teacher: 20,480 points, five layers, 400 wide",
        "denoising",
        replace(MOG40, width=400, depth=4),
        denoising.Settings(
            steps=20_000,
            batch=512,
            lr=1e-3,
            levels=LevelSettings(kind="log_uniform", sigma_min=0.1, sigma_max=40.0),
        ),
    ),
    "digits": Preset(
        "a class-conditional U-Net on scikit-learn's digits",
        "denoising",
        DigitsSettings(),
        UNETS,
    ),
}
