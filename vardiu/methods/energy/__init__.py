r"""Energy-distance matching: the student's samples against the teacher's answers to them.

.. math:: \mathcal{L} = \mathbb{E}_\sigma \, w(\sigma) \, \mathcal{D} \big( \mathrm{law}(x), \;
    \mathrm{law}(y) \big), \qquad x = g(z), \quad y = \Phi_\sigma(x + \sigma \varepsilon)

with the generalised energy distance :math:`\mathcal{D}` and the teacher's probability flow
:math:`\Phi_\sigma` from a level to zero, which is held. Noise and flow together leave the
teacher's law as it is, and lower the divergence of every other one from it. Nobody learns the
student's score: samples of both are all that is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...denoisers.levels import LogUniform
from ...errors import ConfigError
from ...settings import build
from ...settings.fields import (
    DigitsSettings,
    LevelSettings,
    OnPairs,
    PairSettings,
    WeightSettings,
)
from ...settings.grounds import DIGIT_PAIRS, IMAGE_UPDATES, MOG40
from ...training.stage import Context, Recipe
from .. import regression
from ..base import Arm, Example, Method, Preset

if TYPE_CHECKING:
    from ...problems.base import Problem
    from ...problems.linear import LinearProblem
    from ...students.affine import Affine
from .objective import Energy, Exact

__all__ = ["Energy", "METHOD", "Settings", "recipe"]


@dataclass(frozen=True, kw_only=True)
class Settings(OnPairs):
    r"""Energy-distance matching."""

    exponent: float = 1.0
    """The exponent of distances, above 0 and below 2."""
    teacher_steps: int = 6
    """Heun's steps of the teacher's flow from a noisy sample to a clean one."""
    pairs: PairSettings = PairSettings()
    """A regression on the teacher's pairs, before the method's own training."""
    levels: LevelSettings = LevelSettings()
    """The noise levels; each step has one."""
    weight: WeightSettings = WeightSettings(kind="constant")
    """The weight of a level's distance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.exponent < 2:
            raise ConfigError(f"exponent must be above 0 and below 2, got {self.exponent:g}")
        if self.batch < 2:
            raise ConfigError(f"batch must be at least 2 to compare rows, got {self.batch}")


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains the student alone, after a start by pairs if there is one."""
    student = problem.networks.student()
    student, _ = yield from regression.train_on_pairs(
        problem, student, config.pairs, config, context
    )
    objective = Energy(
        problem.known_teacher,
        student,
        levels=build.levels(config.levels, config.steps),
        weight=build.weight(config.weight),
        exponent=config.exponent,
        teacher_steps=config.teacher_steps,
    )
    batches = problem.data.free(config.batch, context.seed)
    return (yield build.last_stage("energy", objective, batches, config)).network


def ideal(problem: LinearProblem, student: Affine) -> Exact:
    r"""Returns the objective with the teacher's exact flow."""
    return Exact(problem.known_teacher, student, levels=LogUniform(0.5, 5.0))


SHAO = """@inproceedings{shao2025varflow,
  title     = {{VarFlow}: Proper Scoring-Rule Diffusion Distillation via Energy Matching},
  author    = {Shao, Huiyang and Xia, Xin and Ren, Yuxi and Wang, Xing and Xiao, Xuefeng},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2025}
}"""


MIXTURE = Settings(
    steps=4_000,
    batch=512,
    lr=2e-3,
    beta_2=0.99,
    levels=LevelSettings(sigma_min=1.0, sigma_max=40.0),
)


IMAGES = Settings(
    **IMAGE_UPDATES,
    steps=400,
    batch=160,
    lr=5e-5,
    teacher_steps=4,
    levels=LevelSettings(sigma_min=0.3, sigma_max=6.0),
    pairs=DIGIT_PAIRS,
)


PRESETS = {
    "mog40-energy": Preset(
        "energy distance to the teacher's answers, without data or fake", MOG40, MIXTURE
    ),
    "digits-energy": Preset(
        "8x8 real images by class; energy distance after pairs", DigitsSettings(), IMAGES
    ),
}


ARMS = {
    "mog40": {"energy": Arm("Energy distance", MIXTURE)},
    "digits": {"energy": Arm("Energy distance after pairs", IMAGES)},
}


TINY = Settings(
    steps=10,
    batch=8,
    teacher_steps=2,
    levels=LevelSettings(sigma_min=0.2, sigma_max=5.0, start_min=1.0),
)


METHOD = Method(
    name="energy",
    title="Energy-distance matching",
    year=2025,
    address="https://openreview.net/forum?id=nSAa6BaJtK",
    networks=("student",),
    settings=Settings,
    recipe=recipe,
    bibtex={"varflow": SHAO, **regression.METHOD.bibtex},
    cites_by=lambda config: ("varflow", *(["luhman"] if config.pairs.pairs else [])),
    presets=PRESETS,
    arms=ARMS,
    cures={
        "collapse": "a larger --batch, or raise --levels.sigma-max",
        "noise": "raise --batch: rows are compared with each other",
        "saturation": "raise --batch, or --teacher-steps: the teacher's flow is solved in few",
        "worsening": "fewer --steps, a lower --lr, or more --teacher-steps",
        "divergence": "lower --lr",
    },
    examples={
        "energy": Example(TINY),
        "energy-classes": Example(replace(TINY, exponent=0.7), classes=2),
    },
    claims=frozenset({"descent"}),
    ideal=ideal,
)
