r"""Denoising score matching: how a teacher is trained on data.

.. math:: \mathcal{L} = \mathbb{E}_{x, \sigma, \varepsilon} \left[ \lambda(\sigma) \,
    \| D(x + \sigma \varepsilon, \sigma) - x \|^2 \right]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.levels import Levels
from ..errors import ConfigError
from ..functional.scores import denoising, edm_weight
from ..functional.tensors import expand_like
from ..settings import build
from ..settings.fields import DigitsSettings, LevelSettings, Training
from ..settings.grounds import MOG40, PATCHES
from ..training.objective import Loss, Objective, Phase, denoiser_of
from ..training.stage import Context, Recipe
from .base import Example, Method, Needs, Preset

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["METHOD", "Settings", "Denoising", "recipe"]


class Denoising(Objective):
    r"""Denoising score matching with EDM's weight.

    Needs:
        Data, no teacher.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364, Equation 2 and Table 1

    Arguments:
        denoiser: The denoiser to train.
        levels: The distribution of noise levels.
        sigma_data: The data's standard deviation in the weight.
        drop: The share of the rows whose class is replaced by `null`: what guidance leads away
            from is learned so.
        null: The class that stands for none.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        levels: Levels,
        sigma_data: float,
        drop: float = 0.0,
        null: int | None = None,
    ) -> None:
        super().__init__(None, denoiser)
        if not 0 <= drop < 1 or (drop and null is None):
            raise ValueError(f"drop must be within [0, 1), and 0 without a null class, got {drop}")
        if not sigma_data > 0:
            raise ValueError(f"sigma_data must be positive, got {sigma_data}")
        self.levels, self.sigma_data, self.drop, self.null = levels, sigma_data, drop, null

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("denoising", self.loss, updates=("generator",)),)

    def loss(self, batch: Batch, step: int) -> Loss:
        x = batch.clean().to(self.like)
        sigma = self.levels(self.uniform(len(x)), step)
        x_t = x + expand_like(sigma, x) * self.noise_like(x)
        weight = edm_weight(sigma, self.sigma_data)
        cond = dict(batch.cond)
        if self.drop and self.null is not None:
            dropped = self.uniform(len(x), "drop") < self.drop
            cond["label"] = cond["label"].masked_fill(dropped, self.null)
        return Loss(denoising(denoiser_of(self)(x_t, sigma, **cond), x, weight).mean())


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""A teacher's training."""

    levels: LevelSettings = LevelSettings()
    """The noise levels."""
    drop: float = 0.0
    """The share of the rows whose class is replaced by one that stands for none: what guidance
    leads away from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop < 1:
            raise ConfigError(f"drop must be within [0, 1), got {self.drop:g}")


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains a fresh denoiser on the problem's data, in one stage."""
    null = problem.networks.null
    if config.drop and null is None:
        raise ConfigError("drop must be 0: there are no classes here that could be left out")
    objective = Denoising(
        problem.networks.denoiser(),
        drop=config.drop,
        null=null,
        levels=build.levels(config.levels, config.steps),
        sigma_data=problem.space.sigma_data,
    )
    batches = problem.data.clean(config.batch, context.seed)
    return (yield build.last_stage("denoising", objective, batches, config)).network


EDM = """@inproceedings{karras2022edm,
  title     = {Elucidating the Design Space of Diffusion-Based Generative Models},
  author    = {Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022}
}"""


# How a U-Net of images is taught.
UNETS = Settings(
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


PRESETS = {
    "patches": Preset(
        "a U-Net on 16x16 patches of the photographs of scikit-learn and scikit-image",
        PATCHES,
        replace(UNETS, steps=5_000, batch=96, halflife=60_000.0),
    ),
    "mog40": Preset(
        "the paper's learned teacher: 20,480 points, five layers, 400 wide",
        replace(MOG40, width=400, depth=4),
        Settings(
            steps=20_000,
            batch=512,
            lr=1e-3,
            levels=LevelSettings(kind="log_uniform", sigma_min=0.1, sigma_max=40.0),
        ),
    ),
    "digits": Preset(
        "a class-conditional U-Net on scikit-learn's digits", DigitsSettings(), UNETS
    ),
}


TINY = Settings(steps=10, batch=8, levels=LevelSettings(sigma_min=0.2, sigma_max=5.0))


METHOD = Method(
    name="denoising",
    title="Denoising score matching",
    year=2022,
    address="https://arxiv.org/abs/2206.00364",
    networks=("teacher",),
    needs=Needs(data=True, teacher=False),
    settings=Settings,
    recipe=recipe,
    bibtex={"edm": EDM},
    presets=PRESETS,
    examples={"denoising": Example(TINY), "denoising-classes": Example(TINY, classes=2)},
)
