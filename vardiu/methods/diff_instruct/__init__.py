r"""Diff-Instruct: distillation with a learned score of the student.

.. math:: \nabla_\theta \, \mathbb{E} \big[ w(\sigma) \, \mathrm{KL}(p_\sigma \,\|\, q_\sigma)
    \big] = \mathbb{E} \left[ w(\sigma) \left( \nabla \log p_\sigma(x_t) - \nabla \log
    q_\sigma(x_t) \right)^\top \nabla_\theta g(z) \right]

The student's score is unknown; a second denoiser, the *fake*, is fitted to the student's samples
while the student moves. It lags behind, and the gradient is biased by as much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ...denoisers.levels import LogUniform
from ...settings import build
from ...settings.fields import (
    LevelSettings,
)
from ...training.stage import Context, Recipe
from .. import regression
from ..base import Example, Method

if TYPE_CHECKING:
    from ...problems.base import Problem
    from ...problems.linear import LinearProblem
    from ...students.affine import Affine
from .objective import DiffInstruct, Fakes, shown
from .presets import ARMS, DIGITS, PRESETS
from .settings import Settings, beside, cites, options_of

__all__ = [
    "CURES",
    "DIGITS",
    "DMD",
    "DiffInstruct",
    "Fakes",
    "LUO",
    "METHOD",
    "Settings",
    "beside",
    "options_of",
    "recipe",
    "shown",
]


# What to try against each alarm, see `vardiu.monitoring.alarms`.
CURES: Mapping[str, str] = {
    "collapse": "start from a spread student (--pairs.pairs), raise --levels.sigma-min, give "
    "the fake more updates (--ratio), or reward entropy (--temperature 1.05)",
    "saturation": "the gradient is not noise: the fake may lag; raise --ratio or "
    "--fake-optimizer.lr",
    "worsening": "fewer --steps, a lower --lr, or a larger --regression-weight after "
    "--pairs.pairs",
    "divergence": "lower --lr or raise --levels.sigma-min",
}


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains the fake at each step and the student at each `ratio`-th, after a start by pairs."""
    steps = config.steps * config.ratio
    student = problem.networks.student()
    student, pairs = yield from regression.train_on_pairs(
        problem, student, config.pairs, config, context
    )
    fake, options = problem.networks.fake(), options_of(problem, config, steps, pairs)
    objective = DiffInstruct(problem.known_teacher, student, fake, **options)
    batches = problem.data.free(config.batch, context.seed)
    stage = build.last_stage("diff_instruct", objective, batches, config, steps=steps)
    return (yield stage).network


def ideal(problem: LinearProblem, student: Affine) -> DiffInstruct:
    r"""Returns the objective with the fake that is exact: without lag."""
    fake = problem.networks.fake(student, follows=True)
    return DiffInstruct(problem.known_teacher, student, fake, levels=LogUniform(0.3, 3.0), ratio=1)


LUO = """@inproceedings{luo2023diffinstruct,
  title     = {{Diff-Instruct}: A Universal Approach for Transferring Knowledge From
               Pre-trained Diffusion Models},
  author    = {Luo, Weijian and Hu, Tianyang and Zhang, Shifeng and Sun, Jiacheng and Li, Zhenguo
               and Zhang, Zhihua},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023}
}"""


DMD = """@inproceedings{yin2024dmd,
  title     = {One-step Diffusion with Distribution Matching Distillation},
  author    = {Yin, Tianwei and Gharbi, Micha{\\"e}l and Zhang, Richard and Shechtman, Eli and
               Durand, Fr{\\'e}do and Freeman, William T. and Park, Taesung},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year      = {2024}
}"""


TINY = Settings(
    steps=10, batch=8, ratio=2, levels=LevelSettings(sigma_min=0.2, sigma_max=5.0, start_min=1.0)
)


METHOD = Method(
    name="diff_instruct",
    title="Diff-Instruct",
    year=2023,
    address="https://arxiv.org/abs/2305.18455",
    networks=("student", "fake"),
    settings=Settings,
    recipe=recipe,
    bibtex={"diff_instruct": LUO, "dmd": DMD, **regression.METHOD.bibtex},
    cites_by=cites,
    presets=PRESETS,
    cures=CURES,
    arms=ARMS,
    examples={
        "diff-instruct": Example(TINY),
        "diff-instruct-lattice": Example(replace(TINY, ratio=1, lattice=True)),
        "diff-instruct-classes": Example(replace(TINY, ratio=1, normalised=True), classes=2),
    },
    claims=frozenset({"fixed_point", "descent"}),
    ideal=ideal,
)
