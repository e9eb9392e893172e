r"""DiffRatio: the slope of one learned ratio in the place of the difference of two scores.

.. math:: \nabla_\theta \, \mathrm{KL}(q_\sigma \,\|\, p_\sigma) = - \mathbb{E} \left[ \left(
    \nabla_{x_t} c(x_t, \sigma) \right)^\top \nabla_\theta g(z) \right], \qquad
    c = \log \frac{p_\sigma}{q_\sigma}

with the teacher's noisy density :math:`p_\sigma` and the student's :math:`q_\sigma`. The logit
:math:`c` is a discriminator's of the teacher's noisy samples and the student's. Two scores err
apart; of one ratio there is one error, and it vanishes where the laws are equal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from ...denoisers.exact import GaussianDenoiser
from ...denoisers.levels import LogUniform
from ...errors import ConfigError
from ...samplers.pairs import Pairs
from ...settings import build
from ...settings.fields import (
    DigitsSettings,
    LevelSettings,
    NetworkOptimizer,
    OnPairs,
    PairSettings,
    WeightSettings,
)
from ...settings.grounds import (
    BOUNDED,
    COARSE_TO_FINE,
    DIGIT_PAIRS,
    IMAGE_LEVELS,
    IMAGE_UPDATES,
    MOG40,
)
from ...students.affine import AffineRatio
from ...training.stage import Context, Recipe
from .. import diff_instruct, regression
from ..base import Arm, Example, Method, Needs, Preset
from ..critics import critic_of
from ..regression import make_pairs

if TYPE_CHECKING:
    from ...problems.base import Problem
    from ...problems.linear import LinearProblem
    from ...students.affine import Affine
from .objective import DiffRatio

__all__ = ["DiffRatio", "METHOD", "Settings", "recipe"]


@dataclass(frozen=True, kw_only=True)
class Settings(OnPairs):
    r"""DiffRatio."""

    ratio: int = 1
    """The number of updates of the discriminator for each update of the student."""
    critic: Literal["teacher", "own"] = "teacher"
    """What the discriminator reads: the frozen teacher's features, or the sample itself by a
    network of its own."""
    taps: str = ""
    """The features that are read, separated by commas; the bottleneck by default."""
    pairs: PairSettings = PairSettings(pairs=16_000)
    """The teacher's samples, and the start of the student on their pairs."""
    regression: bool = True
    """Whether the student starts by a regression on the pairs."""
    head_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How the discriminator is updated."""
    lattice: bool = False
    """Spread the latents and the levels of a batch evenly, by a randomly shifted lattice."""
    levels: LevelSettings = LevelSettings()
    """The noise levels."""
    weight: WeightSettings = WeightSettings()
    """The weight of a noise level."""

    @property
    def fits_pairs(self) -> bool:
        return super().fits_pairs and self.regression

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pairs.pairs:
            raise ConfigError(
                "a ratio to the teacher needs samples of it: give --pairs.pairs, their number"
            )


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains the discriminator at each step and the student at each `ratio`-th."""
    steps, student = config.steps * config.ratio, problem.networks.student()
    head = critic_of(problem, config.critic, config.taps, None)
    if config.regression:
        student, _ = yield from regression.train_on_pairs(
            problem, student, config.pairs, config, context
        )
    objective = DiffRatio(
        problem.known_teacher,
        student,
        head,
        make_pairs(problem, config.pairs, context),
        levels=build.levels(config.levels, steps),
        weight=build.weight(config.weight),
        ratio=config.ratio,
        lattice=config.lattice,
    )
    batches, of = problem.data.free(config.batch, context.seed), 2 if config.regression else 1
    stage = build.last_stage("diff_ratio", objective, batches, config, steps=steps, of=of)
    return (yield stage).network


def ideal(problem: LinearProblem, student: Affine) -> DiffRatio:
    r"""Returns the objective with the ratio that is exact."""
    teacher = problem.known_teacher
    assert isinstance(teacher, GaussianDenoiser)
    x = torch.zeros(1, *teacher.shape, dtype=student.shift.dtype)
    ratio = AffineRatio(student, teacher)
    return DiffRatio(teacher, student, ratio, Pairs(x, x, {}), levels=LogUniform(0.3, 3.0))


CHEN = """@article{chen2025diffratio,
  title   = {{DiffRatio}: Training One-Step Diffusion Models Without Teacher Supervision},
  author  = {Chen, Wenlin and Zhang, Mingtian and He, Jiajun and Ou, Zijing and
             Hern{\\'a}ndez-Lobato, Jos{\\'e} Miguel and Sch{\\"o}lkopf, Bernhard and Barber,
             David},
  journal = {arXiv preprint arXiv:2502.08005},
  year    = {2025}
}"""


MIXTURE = Settings(
    steps=5_000,
    batch=256,
    beta_1=0.5,
    beta_2=0.99,
    delay=200,
    levels=COARSE_TO_FINE,
    weight=BOUNDED,
    lattice=True,
    ratio=2,
    critic="own",
    regression=False,
    head_optimizer=NetworkOptimizer(lr=2e-3),
)


DIGITS = Settings(
    **IMAGE_UPDATES,
    steps=800,
    batch=128,
    lr=1e-4,
    beta_1=0.0,
    delay=100,
    levels=IMAGE_LEVELS,
    pairs=DIGIT_PAIRS,
    head_optimizer=NetworkOptimizer(lr=4e-4),
)


PRESETS = {
    "mog40-diff-ratio": Preset("a learned ratio of densities, and no fake", MOG40, MIXTURE),
    "digits-diff-ratio": Preset(
        "8x8 real images by class; a learned ratio after a regression on pairs",
        DigitsSettings(),
        DIGITS,
    ),
}


TINY = Settings(
    steps=10,
    batch=8,
    ratio=2,
    critic="own",
    levels=replace(COARSE_TO_FINE, sigma_max=5.0, start_min=1.0),
    pairs=regression.TINY.pairs,
    regression=False,
)


CURES = {
    **diff_instruct.CURES,
    "collapse": "start from a spread student (--pairs.pairs), or raise --levels.sigma-min",
    "worsening": "fewer --steps, a lower --lr, or a better start (--pairs.pairs)",
    "saturation": "the gradient is not noise: the ratio may lag; raise --head-optimizer.lr",
}


METHOD = Method(
    name="diff_ratio",
    title="DiffRatio",
    year=2025,
    address="https://arxiv.org/abs/2502.08005",
    networks=("student", "head"),
    needs=Needs(pairs=True),
    settings=Settings,
    recipe=recipe,
    bibtex={"diff_ratio": CHEN, **regression.METHOD.bibtex},
    cites_by=lambda config: ("diff_ratio", *(["luhman"] if config.regression else [])),
    presets=PRESETS,
    cures=CURES,
    arms={
        "mog40": {"diff-ratio": Arm("DiffRatio", MIXTURE)},
        "digits": {"diff-ratio": Arm("DiffRatio after pairs", DIGITS)},
    },
    examples={
        "diff-ratio": Example(TINY),
        "diff-ratio-classes": Example(replace(TINY, lattice=True), classes=2),
        "diff-ratio-few-step": Example(TINY, student="few_step"),
        "diff-ratio-start": Example(replace(TINY, regression=True), student="one_step"),
    },
    claims=frozenset({"fixed_point", "descent"}),
    ideal=ideal,
)
