r"""Score identity distillation (SiD): the Fisher divergence by a projection that needs no score.

.. math:: \mathcal{F} = \mathbb{E} \| \nabla \log q_\sigma - \nabla \log p_\sigma \|^2
    = \sigma^{-4} \, \mathbb{E} \| D - D_p \|^2
    = \sigma^{-4} \, \mathbb{E} \langle D - D_p, D - x \rangle

of the teacher's :math:`D` and the denoiser :math:`D_p` of the student's samples :math:`x`, at
:math:`x_t = x + \sigma \varepsilon`: the last form is due to :math:`\mathbb{E} \langle u(x_t),
D_p(x_t) \rangle = \mathbb{E} \langle u(x_t), x \rangle`. A fake :math:`D_\phi` in the place of
:math:`D_p` biases the two forms differently; the loss is the last, less :math:`\alpha` times the
one before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.levels import LogUniform
from ..functional.scores import tempered
from ..functional.tensors import dot, expand_like
from ..settings import build
from ..settings.fields import DigitsSettings, LevelSettings, NetworkOptimizer, WeightSettings
from ..settings.grounds import COARSE_TO_FINE, MOG40
from ..students.base import Generator
from ..training.objective import Loss
from ..training.stage import Context, Recipe
from . import diff_instruct, regression
from .base import Arm, Example, Method, Needs, Preset
from .diff_instruct import DMD, DiffInstruct, Fakes, beside, options_of, shown

if TYPE_CHECKING:
    from ..problems.base import Problem
    from ..problems.linear import LinearProblem
    from ..students.affine import Affine

__all__ = ["METHOD", "SiD", "Settings", "recipe"]


class SiD(DiffInstruct):
    r"""Score identity distillation.

    .. math:: \mathcal{L}_g = \mathbb{E} \left[ \frac{w(\sigma)}{\sigma^4} \Big( \langle D -
        D_\phi, D - x \rangle - \alpha \, \| D - D_\phi \|^2 \Big) \right]

    The gradient goes through :math:`x`, through both denoisers' input and through neither's
    weights. With a fake that is exact its mean is, at each level,

    .. math:: \tfrac12 \nabla_\theta \mathcal{F} + (\tfrac12 - \alpha) \, \nabla_\theta \,
        \mathbb{E}_\theta \| s_q - s_p \|^2 \big|_{s_p \text{ held}}

    so that :math:`\alpha = \tfrac12` descends the Fisher divergence, and :math:`\alpha = 1` that
    whose samples are held and whose score moves. The fake is trained as Diff-Instruct's.

    Needs:
        The gradient of the teacher with respect to its input; no data.

    Deviations:
        - The divisor of a row is that of `DiffInstruct` and has its floor.
        - Levels, weight and ratio are arguments.

    References:
        | Score identity Distillation: Exponentially Fast Distillation of Pretrained Diffusion
        | Models for One-Step Generation (Zhou et al., 2024), https://arxiv.org/abs/2404.04057

    Arguments:
        teacher: The denoiser to distil; it is differentiated.
        generator: The student. Of a few-step one, one call a step is trained, the same for all
            rows; those before it are made without a gradient.
        fake: The denoiser :math:`D_\phi` of the student's samples.
        alpha: The factor :math:`\alpha`.
        options: See `DiffInstruct`; the weight :math:`w(\sigma)` is one of the Fisher divergence.
            Rows are divided by their mean correction by default.

    Raises:
        ValueError: The factor is not finite.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        fake: Denoiser,
        *,
        alpha: float = 1.0,
        **options: Any,  # noqa: ANN401 (those of Diff-Instruct)
    ) -> None:
        super().__init__(teacher, generator, fake, **{"normalised": True, **options})
        if not math.isfinite(alpha):
            raise ValueError(f"alpha must be finite, got {alpha}")
        self.alpha = alpha

    def prepare(self, batch: Batch, step: int) -> Fakes:
        state, index = shown(self, batch)
        return Fakes(state, self.generator.call(index, state, **batch.cond), batch, index)

    def student_loss(self, drawn: Fakes, step: int) -> Loss:
        x = self.generator.call(drawn.call, drawn.z, **drawn.batch.cond)
        return self.regressed(self.matching(x, drawn.batch.cond, step), len(x))

    def matched(
        self,
        x: Tensor,
        sigma: Tensor,
        noise: Tensor,
        cond: Mapping[str, Tensor],
        offset: Tensor | float = 0.0,
    ) -> Loss:
        x_t = x + expand_like(sigma, x) * noise  # with its graph: the networks are differentiated
        real = self.teacher(x_t, sigma, **cond)
        mean = self.fake(x_t, sigma, **cond) + offset
        gap = real - tempered(mean, x_t, self.temperature)
        factor = self.weight(sigma) / sigma**4 / self.size(real.detach(), x.detach())
        projected = factor * dot(gap, real - tempered(x, x_t, self.temperature))
        value = (projected - self.alpha * factor * dot(gap, gap)).mean()
        return Loss(value, {"divergence": projected.detach().mean()})


@dataclass(frozen=True, kw_only=True)
class Settings(diff_instruct.Settings):
    r"""Score identity distillation."""

    alpha: float = 1.0
    """The share of the biased square that is subtracted from the projected divergence; the paper
    takes 1 and 1.2."""
    ratio: int = 1
    """The number of updates of the fake for each update of the student."""
    normalised: bool = True
    """Divide each row's loss by the teacher's mean absolute correction, as DMD does."""
    weight: WeightSettings = WeightSettings(kind="power", power=4.0)
    """The weight of a level's Fisher divergence, before rows are divided; sigma^4 is the
    paper's."""


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains the fake at each step and the student at each `ratio`-th, after a start by pairs."""
    steps = config.steps * config.ratio
    student = problem.networks.student()
    student, pairs = yield from regression.train_on_pairs(
        problem, student, config.pairs, config, context
    )
    objective = SiD(
        problem.known_teacher,
        student,
        problem.networks.fake(),
        alpha=config.alpha,
        **options_of(problem, config, steps, pairs),
    )
    batches = problem.data.free(config.batch, context.seed)
    return (yield build.last_stage("sid", objective, batches, config, steps=steps)).network


def ideal(problem: LinearProblem, student: Affine) -> SiD:
    r"""Returns the objective with the fake that is exact: without lag."""
    fake = problem.networks.fake(student, follows=True)
    return SiD(problem.known_teacher, student, fake, levels=LogUniform(0.3, 3.0), ratio=1)


ZHOU = """@inproceedings{zhou2024sid,
  title     = {Score identity Distillation: Exponentially Fast Distillation of Pretrained
               Diffusion Models for One-Step Generation},
  author    = {Zhou, Mingyuan and Zheng, Huangjie and Wang, Zhendong and Yin, Mingzhang and
               Huang, Hai},
  booktitle = {International Conference on Machine Learning},
  year      = {2024}
}"""


MIXTURE = Settings(
    alpha=0.5,
    steps=5_000,
    batch=512,
    lr=2e-3,
    fake_optimizer=NetworkOptimizer(lr=4e-3),
    beta_1=0.0,
    beta_2=0.99,
    delay=200,
    levels=COARSE_TO_FINE,
    lattice=True,
)


IMAGES = Settings(
    **{
        **vars(diff_instruct.DIGITS),
        "weight": Settings().weight,
        "regression_weight": 0.0,
    }
)


PRESETS = {
    "mog40-sid": Preset("SiD: the projected Fisher divergence, without data", MOG40, MIXTURE),
    "digits-sid": Preset("8x8 real images by class; SiD", DigitsSettings(), IMAGES),
}


ARMS = {
    "mog40": {"sid": Arm("SiD", MIXTURE)},
    "digits": {"sid": Arm("SiD after pairs", IMAGES)},
}


TINY = Settings(
    steps=10, batch=8, levels=LevelSettings(sigma_min=0.2, sigma_max=5.0, start_min=1.0)
)


METHOD = Method(
    name="sid",
    title="SiD",
    year=2024,
    address="https://arxiv.org/abs/2404.04057",
    networks=("student", "fake"),
    needs=Needs(gradient=True),
    settings=Settings,
    recipe=recipe,
    bibtex={"sid": ZHOU, "dmd": DMD, **regression.METHOD.bibtex},
    cites_by=lambda config: ("sid", *beside(config)),
    presets=PRESETS,
    arms=ARMS,
    cures=diff_instruct.CURES,
    examples={
        "sid": Example(TINY),
        "sid-classes": Example(replace(TINY, ratio=2, normalised=False, lattice=True), classes=2),
        "sid-few-step": Example(TINY, student="few_step"),
    },
    claims=frozenset({"fixed_point", "descent"}),
    ideal=ideal,
)
