r"""f-distill: any f-divergence, by Diff-Instruct's direction and the ratio of two densities.

.. math:: \nabla_\theta D_f(p_\sigma \,\|\, q_\sigma) = \mathbb{E} \left[ h(r(x_t)) \left(
    \nabla \log q_\sigma(x_t) - \nabla \log p_\sigma(x_t) \right)^\top \nabla_\theta g(z) \right],
    \qquad h(r) = f''(r) \, r^2, \quad r = \frac{p_\sigma}{q_\sigma}

with the teacher's noisy density :math:`p_\sigma` and the student's :math:`q_\sigma`. The ratio is
that of a discriminator of noisy data and noisy samples, whose best logit is :math:`\log r`. Of the
reverse Kullback-Leibler divergence the weight is one, and this is Diff-Instruct.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ...denoisers.exact import GaussianDenoiser
from ...denoisers.levels import LogUniform
from ...errors import ConfigError
from ...settings import build
from ...settings.fields import DigitsSettings, NetworkOptimizer
from ...settings.grounds import BOUNDED, COARSE_TO_FINE, MOG40
from ...students.affine import AffineRatio
from ...training.stage import Context, Recipe
from .. import diff_instruct, regression
from ..base import Arm, Example, Method, Needs, Preset
from ..critics import critic_of
from ..diff_instruct import DMD, beside, options_of

if TYPE_CHECKING:
    from ...problems.base import Problem
    from ...problems.linear import LinearProblem
    from ...students.affine import Affine
from .objective import FDistill, divergence

__all__ = ["FDistill", "METHOD", "Settings", "divergence", "recipe"]


@dataclass(frozen=True, kw_only=True)
class Settings(diff_instruct.Settings):
    r"""f-distill."""

    divergence: str = "jensen_shannon"
    """The divergence: reverse_kl, forward_kl, jeffreys, jensen_shannon, softened_reverse_kl,
    softened_forward_kl, hellinger or chi_squared."""
    limit: float = 20.0
    """The largest ratio of densities, and one over the smallest, by which a direction is
    weighted."""
    critic: Literal["teacher", "fake", "own"] = "teacher"
    """What the discriminator reads: the frozen teacher's features, the fake's, or the sample
    itself by a network of its own."""
    taps: str = ""
    """The features that are read, separated by commas; the bottleneck by default."""
    head_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How the discriminator is updated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        divergence(self.divergence)
        if not self.limit > 1:
            raise ConfigError(f"limit must be above 1, got {self.limit:g}")
        if self.temperature != 1 and self.divergence != "reverse_kl":
            raise ConfigError(
                f"temperature must be 1 with --divergence {self.divergence}, got "
                f"{self.temperature:g}: its directions are weighed by the ratio of the laws as "
                "they are; take --divergence reverse_kl, or diff-instruct"
            )


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains fake and discriminator at each step and the student at each `ratio`-th, after a
    start by pairs."""
    steps, fake = config.steps * config.ratio, problem.networks.fake()
    head = None
    if config.divergence != "reverse_kl":
        head = critic_of(problem, config.critic, config.taps, fake)
    student, pairs = yield from regression.train_on_pairs(
        problem, problem.networks.student(), config.pairs, config, context
    )
    objective = FDistill(
        problem.known_teacher,
        student,
        fake,
        head,
        name=config.divergence,
        limit=config.limit,
        reads=config.critic,
        **options_of(problem, config, steps, pairs),
    )
    drawn = problem.data.free if head is None else problem.data.clean
    batches = drawn(config.batch, context.seed)
    return (yield build.last_stage("f_distill", objective, batches, config, steps=steps)).network


def ideal(problem: LinearProblem, student: Affine) -> FDistill:
    r"""Returns the objective with the fake and the ratio that are exact."""
    teacher, fake = problem.known_teacher, problem.networks.fake(student, follows=True)
    assert isinstance(teacher, GaussianDenoiser)
    ratio = AffineRatio(student, teacher)
    return FDistill(teacher, student, fake, ratio, levels=LogUniform(0.3, 3.0), ratio=1)


XU = """@article{xu2025fdistill,
  title   = {One-step Diffusion Models with f-Divergence Distribution Matching},
  author  = {Xu, Yilun and Nie, Weili and Vahdat, Arash},
  journal = {arXiv preprint arXiv:2502.15681},
  year    = {2025}
}"""


WANG = """@article{wang2025uniinstruct,
  title   = {{Uni-Instruct}: One-step Diffusion Model through Unified Diffusion Divergence
             Instruction},
  author  = {Wang, Yifei and Bai, Weimin and Zhang, Colin and Zhang, Debing and Luo, Weijian and
             Sun, He},
  journal = {arXiv preprint arXiv:2505.20755},
  year    = {2025}
}"""


MIXTURE = Settings(
    steps=2_800,
    batch=256,
    lr=1e-3,
    beta_1=0.5,
    beta_2=0.99,
    delay=200,
    levels=COARSE_TO_FINE,
    weight=BOUNDED,
    lattice=True,
    ratio=2,
    divergence="softened_reverse_kl",
    limit=100.0,
    critic="own",
    fake_optimizer=NetworkOptimizer(lr=2e-3),
)


IMAGES = Settings(**vars(diff_instruct.DIGITS), head_optimizer=NetworkOptimizer(lr=4e-4))


PRESETS = {
    "mog40-f-distill": Preset("the softened reverse divergence, with data", MOG40, MIXTURE),
    "digits-f-distill": Preset(
        "8x8 real images by class; the Jensen-Shannon divergence after a regression on pairs",
        DigitsSettings(),
        IMAGES,
    ),
}


TINY = Settings(
    steps=10,
    batch=8,
    ratio=2,
    critic="own",
    levels=replace(COARSE_TO_FINE, sigma_max=5.0, start_min=1.0),
)


METHOD = Method(
    name="f_distill",
    title="f-distill",
    year=2025,
    address="https://arxiv.org/abs/2502.15681",
    networks=("student", "fake", "head"),
    needs=Needs(data=True),
    settings=Settings,
    recipe=recipe,
    bibtex={"f_distill": XU, "uni_instruct": WANG, "dmd": DMD, **regression.METHOD.bibtex},
    cites_by=lambda config: ("f_distill", *beside(config)),
    presets=PRESETS,
    cures=diff_instruct.CURES,
    arms={
        "mog40": {"f-distill": Arm("f-distill, softened reverse, data", MIXTURE)},
        "digits": {"f-distill": Arm("f-distill, Jensen-Shannon", IMAGES)},
    },
    examples={
        "f-distill": Example(TINY),
        "f-distill-reverse": Example(replace(TINY, divergence="reverse_kl", lattice=True)),
        "f-distill-classes": Example(
            replace(TINY, divergence="forward_kl", critic="fake"), classes=2
        ),
        "f-distill-few-step": Example(replace(TINY, normalised=True), student="few_step"),
        "f-distill-regression": Example(
            replace(TINY, pairs=regression.TINY.pairs, regression_weight=0.5)
        ),
    },
    claims=frozenset({"fixed_point", "descent"}),
    ideal=ideal,
)
