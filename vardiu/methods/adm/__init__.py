r"""ADM: a discriminator tells the teacher's step from the fake's, at the student's noisy samples.

Of a noisy sample :math:`x_t` of the student the teacher and the *fake*, a denoiser of the
student's samples, each take one step of the probability-flow equation, to a level
:math:`\sigma' < \sigma`:

.. math:: x_\mathrm{real} = D + \tfrac{\sigma'}{\sigma} (x_t - D), \qquad
    x_\mathrm{fake} = D_\phi + \tfrac{\sigma'}{\sigma} (x_t - D_\phi).

A hinge discriminator learns which is which, and the student makes the fake's step look like the
teacher's. The laws of the two are equal only if the student's is the teacher's; in place of the
reverse divergence of DMD stands their total variation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ...samplers.pairs import Pairs
from ...settings import build
from ...settings.fields import (
    DigitsSettings,
    LevelSettings,
    NetworkOptimizer,
    OnPairs,
    PairSettings,
    StartSettings,
    WeightSettings,
)
from ...settings.grounds import COARSE_TO_FINE, DIGIT_PAIRS, IMAGE_LEVELS, IMAGE_UPDATES, MOG40
from ...students.base import Generator
from ...training.stage import Context, Recipe, Stages
from .. import regression
from ..adp import train_adversarially
from ..base import Arm, Example, Method, Preset
from ..critics import critic_of
from .objective import ADM

if TYPE_CHECKING:
    from ...problems.base import Problem

__all__ = ["ADM", "METHOD", "Settings", "recipe"]


@dataclass(frozen=True, kw_only=True)
class Settings(OnPairs):
    r"""Adversarial distribution matching; after an adversarial start it is DMDX."""

    ratio: int = 1
    """The number of updates of fake and discriminator for each update of the student."""
    stride: float = 1 / 64
    """The solver's step, as a share of the range of log sigma."""
    critic: Literal["teacher", "fake", "own"] = "teacher"
    """What the discriminator reads: the frozen teacher's features, the fake's, or the sample
    itself by a network of its own."""
    taps: str = ""
    """The features that are read, separated by commas; the bottleneck by default."""
    detach_fake: bool = False
    """Whether the student's gradient goes around the fake's network."""
    pairs: PairSettings = PairSettings()
    """The teacher's pairs, and the length, batch and rate of the start on them."""
    start: StartSettings = StartSettings()
    """How the student starts on the pairs."""
    regression_weight: float = 0.0
    """The weight of a regression on the pairs in the method's own training, as in DMD."""
    fake_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How the fake is updated."""
    head_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How the discriminator is updated."""
    lattice: bool = False
    """Spread the latents and the levels of a batch evenly, by a randomly shifted lattice."""
    levels: LevelSettings = LevelSettings()
    """The noise levels from which steps are taken."""
    weight: WeightSettings = WeightSettings(kind="constant")
    """The weight of a noise level in the student's loss."""

    @property
    def fits_pairs(self) -> bool:
        return super().fits_pairs and self.start.kind == "regression"


def started(
    problem: Problem, config: Settings, context: Context
) -> Stages[tuple[Generator, Pairs | None]]:
    r"""Yields the start of a student on the teacher's pairs, and returns it and the pairs."""
    student = problem.networks.student()
    if not config.pairs.pairs or config.start.kind == "regression":
        return (
            yield from regression.train_on_pairs(problem, student, config.pairs, config, context)
        )
    noisy = critic_of(problem, config.critic, config.taps, None)
    levels, rows = build.levels(config.levels, config.pairs.steps), (config.pairs, config.start)
    return (yield from train_adversarially(problem, student, noisy, levels, config, rows, context))


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains fake and discriminator at each step and the student at each `ratio`-th, after a
    start by pairs: of DMDX the second stage."""
    steps, levels = config.steps * config.ratio, config.levels
    fake = problem.networks.fake()
    head = critic_of(problem, config.critic, config.taps, fake)
    student, pairs = yield from started(problem, config, context)
    objective = ADM(
        problem.known_teacher,
        student,
        fake,
        head,
        shrink=(levels.sigma_min / levels.sigma_max) ** config.stride,
        reads=config.critic,
        detach_fake=config.detach_fake,
        levels=build.levels(levels, steps),
        weight=build.weight(config.weight),
        ratio=config.ratio,
        **regression.beside_method(pairs, config.regression_weight)._asdict(),
        lattice=config.lattice,
        sigma_data=problem.space.sigma_data,
    )
    batches = problem.data.free(config.batch, context.seed)
    return (yield build.last_stage("adm", objective, batches, config, steps=steps)).network


CURES: Mapping[str, str] = {
    "collapse": "start on pairs (--pairs.pairs), lower --lr, or take a longer --stride",
    "saturation": "the gradient is not noise: the fake may lag; raise --ratio or "
    "--fake-optimizer.lr",
    "worsening": "lower --lr, or raise --ratio: the student moves faster than what judges it",
    "divergence": "lower --lr or raise --levels.sigma-min",
}


LU = """@inproceedings{lu2025adm,
  title     = {Adversarial Distribution Matching for Diffusion Distillation Towards Efficient
               Image and Video Synthesis},
  author    = {Lu, Yanzuo and Ren, Yuxi and Xia, Xin and Lin, Shanchuan and Wang, Xing and Xiao,
               Xuefeng and Ma, Andy J. and Xie, Xiaohua and Lai, Jian-Huang},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2025}
}"""


ADVERSARIAL = StartSettings(kind="adversarial")
# A step of a fifth of the range: in two dimensions that of the paper leaves next to no signal.
MIXTURE = Settings(
    steps=5_200,
    batch=256,
    lr=5e-4,
    beta_1=0.0,
    beta_2=0.99,
    delay=200,
    stride=0.2,
    critic="own",
    levels=COARSE_TO_FINE,
    fake_optimizer=NetworkOptimizer(lr=2e-3),
    head_optimizer=NetworkOptimizer(lr=1e-3),
    halflife=100_000.0,
)


MIXTURE_DMDX = replace(
    MIXTURE,
    steps=2_500,
    lr=2e-4,
    pairs=PairSettings(pairs=20_000, steps=2_500, batch=256, lr=5e-4),
    start=StartSettings(kind="adversarial"),
)


# From a good start the student moves slowly, and is held to the pairs as Diff-Instruct's is.
DIGITS = Settings(
    **IMAGE_UPDATES,
    steps=400,
    batch=128,
    lr=5e-5,
    stride=0.2,
    regression_weight=6.0,
    beta_1=0.0,
    delay=100,
    levels=IMAGE_LEVELS,
    fake_optimizer=NetworkOptimizer(lr=4e-4),
    head_optimizer=NetworkOptimizer(lr=4e-4),
    pairs=replace(DIGIT_PAIRS, pairs=64_000, steps=6_000),
)


DIGITS_DMDX = replace(
    DIGITS,
    steps=1_000,
    lr=1e-4,
    pairs=replace(DIGIT_PAIRS, steps=4_000, lr=3e-4),
    start=StartSettings(kind="adversarial", head_lr=4e-4, squared_weight=10.0),
)
# Starts that a contest of 300 seconds pays for.
SHORT = replace(DIGITS, pairs=replace(DIGIT_PAIRS, steps=4_000))
SHORT_DMDX = replace(DIGITS_DMDX, pairs=replace(DIGITS_DMDX.pairs, steps=1_200))


PRESETS = {
    "mog40-adm": Preset("adversarial distribution matching, without a start", MOG40, MIXTURE),
    "mog40-dmdx": Preset("DMDX: an adversarial start on pairs, then ADM", MOG40, MIXTURE_DMDX),
    "digits-adm": Preset(
        "8x8 real images by class; ADM after a regression on pairs", DigitsSettings(), DIGITS
    ),
    "digits-dmdx": Preset(
        "8x8 real images by class; DMDX: an adversarial start on pairs, then ADM",
        DigitsSettings(),
        DIGITS_DMDX,
    ),
}


ARMS = {
    "mog40": {"adm": Arm("ADM", MIXTURE), "dmdx": Arm("DMDX", MIXTURE_DMDX)},
    "digits": {"adm": Arm("ADM after pairs", SHORT), "dmdx": Arm("DMDX", SHORT_DMDX)},
}


TINY = Settings(
    steps=10,
    batch=8,
    critic="own",
    stride=0.1,
    levels=LevelSettings(sigma_min=0.2, sigma_max=5.0, start_min=1.0),
)


METHOD = Method(
    name="adm",
    title="ADM",
    year=2025,
    address="https://arxiv.org/abs/2507.18569",
    family="adversarial",
    networks=("student", "fake", "head"),
    settings=Settings,
    recipe=recipe,
    bibtex={"adm": LU, **regression.METHOD.bibtex},
    cites_by=lambda config: ("adm", *(["luhman"] if config.pairs.pairs else [])),
    presets=PRESETS,
    cures=CURES,
    arms=ARMS,
    examples={
        "adm": Example(TINY),
        "adm-classes": Example(replace(TINY, critic="fake"), classes=2),
        "adm-few-step": Example(replace(TINY, ratio=2, detach_fake=True), student="few_step"),
        "adm-dmdx": Example(
            replace(TINY, lattice=True, pairs=regression.TINY.pairs, start=ADVERSARIAL)
        ),
    },
)
