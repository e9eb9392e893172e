r"""D3SR: super-resolution in one call, with a discriminator on a pre-trained denoiser's encoder.

.. math:: \mathcal{L}_g = \| \hat x - x \|^2 / d + \lambda_2 \, \text{EA-DISTS}(\hat x, x)
    + \lambda_1 \, \mathbb{E} \log \left( 1 + e^{-c(\hat z_t, \sigma)} \right), \qquad
    \hat z = g(y), \quad \hat x = \mathrm{Dec}(\hat z)

The student is shown a degraded image :math:`y` and nothing else; no score is distilled. The logits
:math:`c`, one a place, are those of an encoder that learns beside it, at noisy samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from ...data.batches import Batches
from ...denoisers.base import Denoiser
from ...discriminators.diffusion import DiffusionDiscriminator, discriminator_on, named_taps
from ...discriminators.encoders import encoder_of
from ...discriminators.heads import position_head
from ...errors import ConfigError
from ...settings import build
from ...settings.fields import LevelSettings, NetworkOptimizer, Training
from ...settings.grounds import PATCH_PAIRS, RESTORATION
from ...students.base import Generator
from ...training.stage import Context, Recipe, Stage, Stages
from ..base import Example, Method, Needs, Preset

if TYPE_CHECKING:
    from ...problems.base import Problem
from .objective import D3SR, Shown, Spatial

__all__ = ["D3SR", "DISTS", "METHOD", "Settings", "Shown", "Spatial", "recipe", "started"]


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""D3SR."""

    start_steps: int = 0
    """Updates of the student by the spatial loss alone, before the discriminator is there."""
    start_lr: float = 1e-3
    """The student's learning rate in these."""
    adversarial_weight: float = 0.02
    """lambda_1, the weight of the student's adversarial loss; at 0 there is no discriminator."""
    perceptual_weight: float = 1.0
    """lambda_2, the weight of the edge-aware DISTS beside the squared error."""
    critic: Literal["teacher", "fresh"] = "teacher"
    """Where the discriminator's encoder starts: a teacher's weights, or fresh ones."""
    critic_rank: int = 16
    """The rank of adapters on its weights; 0 trains a copy of them."""
    taps: str = ""
    """The features that it reads, separated by commas; the bottleneck by default."""
    levels: LevelSettings = LevelSettings(sigma_min=0.02, sigma_max=20.0)
    """The noise levels of what it reads; the paper has all times of a schedule."""
    critic_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How its encoder is updated."""
    head_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How its head is updated."""


def discriminator_of(
    problem: Problem, config: Settings
) -> tuple[Denoiser, DiffusionDiscriminator]:
    r"""Returns an encoder and its head, as settings ask for them.

    Raises:
        ConfigError: There are no such features, or none with places.
    """
    networks = problem.networks
    source = networks.judge() if config.critic == "teacher" else networks.denoiser()
    taps = named_taps(source, config.taps, config.critic, "--critic fresh")
    cond = problem.data.conditions(1, torch.Generator())
    try:
        critic = encoder_of(source, taps, config.critic_rank, **cond)
        return critic, discriminator_on(critic, taps, position_head, **cond)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"no discriminator can be made of this network: {error}") from error


def started(
    problem: Problem,
    student: Generator,
    spatial: Spatial,
    config: Any,  # noqa: ANN401 (the settings of each method that starts so)
    context: Context,
) -> Stages[tuple[Generator, Batches]]:
    r"""Yields the start of a student by the spatial loss, where settings ask for one; returns it
    and the pairs to go on with."""
    batches = problem.data.paired(config.batch, context.seed)
    if not config.start_steps:
        return student, batches
    row = build.optimisation(replace(config, lr=config.start_lr, delay=0))
    share, start = config.start_steps / config.steps, D3SR(student, spatial)
    trained = yield Stage("start", start, config.start_steps, batches, row, share, 2)
    return trained.network, problem.data.paired(config.batch, context.seed + 1)


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains the student by the spatial loss, then against the discriminator."""
    student, spatial = problem.networks.student(), Spatial(problem, config.perceptual_weight)
    student, batches = yield from started(problem, student, spatial, config, context)
    if not config.adversarial_weight:
        last = D3SR(student, spatial)
    else:
        critic, head = discriminator_of(problem, config)
        levels = build.levels(config.levels, config.steps)
        weight = config.adversarial_weight
        last = D3SR(student, spatial, critic, head, levels=levels, adversarial_weight=weight)
    of = 2 if config.start_steps else 1
    return (yield build.last_stage("d3sr", last, batches, config, of=of)).network


LI = """@inproceedings{li2025d3sr,
  title     = {Unleashing the Power of One-Step Diffusion based Image Super-Resolution via a
               Large-Scale Diffusion Discriminator},
  author    = {Li, Jianze and Cao, Jiezhang and Zou, Zichen and Su, Xiongfei and Yuan, Xin and
               Zhang, Yulun and Guo, Yong and Yang, Xiaokang},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2025}
}"""


DISTS = """@article{ding2020dists,
  title   = {Image Quality Assessment: Unifying Structure and Texture Similarity},
  author  = {Ding, Keyan and Ma, Kede and Wang, Shiqi and Simoncelli, Eero P.},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year    = {2020}
}"""


CURES: Mapping[str, str] = {
    "collapse": "lower --adversarial-weight: the discriminator moves the student from its images",
    "worsening": "lower --lr or --adversarial-weight",
    "saturation": "narrow --levels.sigma-max: missing detail must not drown in noise",
    "divergence": "lower --lr or --critic-optimizer.lr",
}


# The published row, but for the weights, which are in a supplement that was not seen.
PUBLISHED = Settings(
    steps=100_000, batch=8, lr=5e-5, optimizer="adamw", weight_decay=1e-2, decay="constant"
)


# Small networks: missing detail is below the noise of all but the smallest levels.
SMALL = Settings(
    steps=400,
    batch=16,
    lr=1e-4,
    start_steps=800,
    adversarial_weight=0.01,
    critic_rank=0,
    perceptual_weight=0.0,
    delay=50,
    decay="constant",
    halflife=800.0,
    levels=LevelSettings(sigma_min=0.01, sigma_max=0.35),
    critic_optimizer=NetworkOptimizer(lr=1e-3, beta_1=0.5, beta_2=0.99),
    head_optimizer=NetworkOptimizer(lr=1e-3, beta_1=0.5, beta_2=0.99),
)


PRESETS = {
    "patches-d3sr": Preset("16x16 patches of photographs, four times; D3SR", PATCH_PAIRS, SMALL),
    "restoration": Preset(
        "any teacher of images and clean images (--teacher, --data); D3SR", RESTORATION, PUBLISHED
    ),
}


TINY = Settings(
    steps=10,
    batch=8,
    adversarial_weight=0.5,
    perceptual_weight=0.0,
    critic="fresh",
    critic_rank=0,
    levels=LevelSettings(sigma_min=0.2, sigma_max=5.0, start_min=1.0),
)


METHOD = Method(
    name="d3sr",
    title="D3SR",
    year=2025,
    address="https://arxiv.org/abs/2410.04224",
    family="adversarial",
    networks=("student", "critic", "head"),
    needs=Needs(data=True, paired=True, asked=False),
    settings=Settings,
    recipe=recipe,
    bibtex={"d3sr": LI, "dists": DISTS},
    cites_by=lambda config: ("d3sr", *(["dists"] if config.perceptual_weight else [])),
    presets=PRESETS,
    cures=CURES,
    examples={
        "d3sr": Example(TINY, student="restorer"),
        "d3sr-classes": Example(replace(TINY, start_steps=4), classes=2, student="restorer"),
        "d3sr-adapters": Example(replace(TINY, critic_rank=2), student="restorer"),
    },
)
