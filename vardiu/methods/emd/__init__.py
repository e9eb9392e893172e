r"""EM distillation (EMD): maximum likelihood of the teacher's samples, by short Langevin chains.

.. math:: -\nabla_\theta \, \mathrm{KL}(q_\sigma \,\|\, p_\sigma) = \mathbb{E}_{\rho_\sigma}
    \left[ \nabla_\theta g(z)^\top \, \tfrac{x_t - g(z)}{\sigma^2} \right], \qquad
    \rho_\sigma(x_t, z) = q_\sigma(x_t) \, p_\sigma(z \mid x_t)

With :math:`x_t = g(z) + \sigma \varepsilon` the law of :math:`(\varepsilon, z)` is in proportion
to :math:`\tfrac{q_\sigma(x_t)}{p_\sigma(x_t)} \mathcal{N}(\varepsilon; 0, I) \mathcal{N}(z; 0, I)`
and needs two scores: the teacher's, and that of a *fake* of the student's samples. A chain starts
at a pair of the student's, and its noise is taken out of what the student is then moved by.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ...denoisers.levels import LogUniform
from ...settings import build
from ...settings.fields import ChainSettings, DigitsSettings, LevelSettings
from ...settings.grounds import BOUNDED, COARSE_TO_FINE, MOG40
from ...training.stage import Context, Recipe
from .. import diff_instruct, regression
from ..base import Arm, Example, Method, Preset
from ..diff_instruct import DMD, beside, options_of

if TYPE_CHECKING:
    from ...problems.base import Problem
    from ...problems.linear import LinearProblem
    from ...students.affine import Affine
from .objective import EMD

__all__ = ["EMD", "METHOD", "Settings", "recipe"]


@dataclass(frozen=True, kw_only=True)
class Settings(diff_instruct.Settings):
    r"""EM distillation."""

    chain: ChainSettings = ChainSettings()
    """The chain that the student learns from."""


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains the fake at each step and the student at each `ratio`-th, after a start by pairs."""
    steps = config.steps * config.ratio
    student, pairs = yield from regression.train_on_pairs(
        problem, problem.networks.student(), config.pairs, config, context
    )
    objective = EMD(
        problem.known_teacher,
        student,
        problem.networks.fake(),
        chain=config.chain,
        **options_of(problem, config, steps, pairs),
    )
    batches = problem.data.free(config.batch, context.seed)
    return (yield build.last_stage("emd", objective, batches, config, steps=steps)).network


def ideal(problem: LinearProblem, student: Affine) -> EMD:
    r"""Returns the objective with the fake that is exact: without lag."""
    fake, levels = problem.networks.fake(student, follows=True), LogUniform(0.3, 3.0)
    row = ChainSettings()
    return EMD(problem.known_teacher, student, fake, chain=row, levels=levels, ratio=1)


XIE = """@inproceedings{xie2024emd,
  title     = {{EM} Distillation for One-step Diffusion Models},
  author    = {Xie, Sirui and Xiao, Zhisheng and Kingma, Diederik P. and Hou, Tingbo and Wu, Ying
               Nian and Murphy, Kevin and Salimans, Tim and Poole, Ben and Gao, Ruiqi},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024}
}"""


TWO = ChainSettings(steps=2)


# Where a student tears one Gaussian into forty, latents that move made it worse.
STILL = ChainSettings(steps=4, gamma_z=0.0)


MIXTURE = Settings(steps=2_800, batch=256, levels=COARSE_TO_FINE, weight=BOUNDED, chain=STILL)


IMAGES = Settings(**{**vars(diff_instruct.DIGITS), "chain": TWO})


PRESETS = {
    "mog40-emd": Preset(
        "EM distillation with chains of four steps, whose latents stay", MOG40, MIXTURE
    ),
    "digits-emd": Preset(
        "8x8 real images by class; EM distillation after pairs", DigitsSettings(), IMAGES
    ),
}


ARMS = {
    "mog40": {"emd": Arm("EMD, chains of 4", MIXTURE)},
    "digits": {"emd": Arm("EMD after pairs", IMAGES)},
}


TINY = Settings(
    steps=10,
    batch=8,
    ratio=2,
    levels=LevelSettings(sigma_min=0.5, sigma_max=5.0),
    chain=ChainSettings(steps=4),
)


STATES = ChainSettings(steps=3, form="state", cancel="last", gamma_z=1e-3)


METHOD = Method(
    name="emd",
    title="EMD",
    year=2024,
    address="https://arxiv.org/abs/2405.16852",
    networks=("student", "fake"),
    settings=Settings,
    recipe=recipe,
    bibtex={"emd": XIE, "dmd": DMD, **regression.METHOD.bibtex},
    cites_by=lambda config: ("emd", *beside(config)),
    presets=PRESETS,
    arms=ARMS,
    cures=diff_instruct.CURES,
    examples={
        "emd": Example(TINY),
        "emd-states": Example(replace(TINY, lattice=True, chain=STATES)),
        "emd-classes": Example(replace(TINY, ratio=1, normalised=True), classes=2),
        "emd-regression": Example(
            replace(TINY, pairs=regression.TINY.pairs, regression_weight=0.5), student="one_step"
        ),
    },
    claims=frozenset({"fixed_point", "descent"}),
    ideal=ideal,
)
