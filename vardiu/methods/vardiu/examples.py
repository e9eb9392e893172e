r"""Trainings of a few steps, one for each form of the bound."""

from __future__ import annotations

from dataclasses import replace

from ...settings.fields import (
    AnchorSettings,
    FrameSettings,
    LevelSettings,
    WeightSettings,
)
from ..base import Example
from .settings import Settings

__all__ = ["EXAMPLES"]


TINY = Settings(
    steps=10,
    batch=8,
    components=3,
    transforms=2,
    hidden=8,
    levels=LevelSettings(sigma_min=0.2, sigma_max=5.0, start_min=1.0),
)


EXAMPLES = {
    "vardiu-gaussian": Example(TINY),
    "vardiu-gaussian-plain": Example(replace(TINY, antithetic=False, control_variate=False)),
    "vardiu-gaussian-particles": Example(replace(TINY, particles=3)),
    "vardiu-gaussian-weighted": Example(
        replace(TINY, posterior_weight=WeightSettings(kind="constant"))
    ),
    "vardiu-gaussian-lattice": Example(replace(TINY, lattice=True)),
    "vardiu-residual": Example(replace(TINY, posterior="residual"), student="residual"),
    "vardiu-cholesky": Example(replace(TINY, posterior="cholesky", particles=2)),
    "vardiu-mixture": Example(replace(TINY, posterior="mixture")),
    "vardiu-mixture-classes": Example(replace(TINY, posterior="mixture"), classes=2),
    "vardiu-flow": Example(replace(TINY, posterior="flow")),
    "vardiu-flow-particles": Example(replace(TINY, posterior="flow", transforms=1, particles=2)),
    "vardiu-diffusion": Example(replace(TINY, posterior="diffusion"), classes=2),
    "vardiu-shared": Example(replace(TINY, posterior="shared")),
    "vardiu-shared-lattice": Example(replace(TINY, posterior="shared", lattice=True)),
    "vardiu-shared-classes": Example(replace(TINY, posterior="shared"), classes=2),
    "vardiu-anchored": Example(replace(TINY, posterior="anchored", ratio=2)),
    "vardiu-anchored-held": Example(
        replace(
            TINY,
            posterior="anchored",
            antithetic=False,
            # Three steps, where the contract stops it, are not yet a period.
            anchor=AnchorSettings(refresh=3, settle=1, trust=5.0, gain=0.9),
        )
    ),
    "vardiu-anchored-classes": Example(
        replace(TINY, posterior="anchored", normalised=True, lattice=True), classes=2
    ),
    "vardiu-anchored-few-step": Example(replace(TINY, posterior="anchored"), student="few_step"),
    "vardiu-anchored-bank": Example(
        replace(
            TINY,
            posterior="anchored",
            own=0.5,
            anchor=AnchorSettings(rate=1.0, bank=2, bank_above=0.6),
        ),
        classes=2,
    ),
    "vardiu-framed": Example(
        replace(
            TINY,
            posterior="framed",
            weight=WeightSettings(kind="power", power=1.0),
            posterior_weight=WeightSettings(kind="constant"),
            frame=FrameSettings(samples=200, solver_steps=3, clusters=2, components=1, sigma=0.3),
        ),
        classes=2,
    ),
    "vardiu-framed-of-student": Example(
        replace(
            TINY,
            posterior="framed",
            posterior_weight=WeightSettings(kind="constant"),
            frame=FrameSettings(
                samples=200, solver_steps=3, clusters=2, components=1, sigma=0.3, of_student=True
            ),
        ),
        classes=2,
    ),
}
