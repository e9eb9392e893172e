r"""f-distill: any f-divergence, by Diff-Instruct's direction and the ratio of two densities.

.. math:: \nabla_\theta D_f(p_\sigma \,\|\, q_\sigma) = \mathbb{E} \left[ h(r(x_t)) \left(
    \nabla \log q_\sigma(x_t) - \nabla \log p_\sigma(x_t) \right)^\top \nabla_\theta g(z) \right],
    \qquad h(r) = f''(r) \, r^2, \quad r = \frac{p_\sigma}{q_\sigma}

with the teacher's noisy density :math:`p_\sigma` and the student's :math:`q_\sigma`. The ratio is
that of a discriminator of noisy data and noisy samples, whose best logit is :math:`\log r`. Of the
reverse Kullback-Leibler divergence the weight is one, and this is Diff-Instruct.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.exact import GaussianDenoiser
from ..denoisers.levels import LogUniform
from ..errors import ConfigError, known
from ..functional.adversarial import softplus_discriminator
from ..functional.divergences import DIVERGENCES, Divergence
from ..functional.tensors import expand_like
from ..settings import build
from ..settings.fields import DigitsSettings, NetworkOptimizer
from ..settings.grounds import BOUNDED, COARSE_TO_FINE, MOG40
from ..students.affine import AffineRatio
from ..students.base import Generator
from ..training.objective import Loss, Phase
from ..training.stage import Context, Recipe, Stage
from . import diff_instruct, regression
from .adm import critic_of
from .base import Arm, Example, Method, Needs, Preset
from .diff_instruct import DMD, DiffInstruct, Fakes, options_of, shown

if TYPE_CHECKING:
    from ..problems.base import Problem
    from ..problems.linear import LinearProblem
    from ..students.affine import Affine

__all__ = ["FDistill", "METHOD", "Settings", "divergence", "recipe"]


# Divergences whose second derivative is no function, and where.
KINKED = {"total_variation": "r = 1", "hockey_stick": "r = 1"}


def divergence(name: str) -> Divergence:
    r"""Returns the divergence of a name.

    Raises:
        ConfigError: There is none of this name, or it has no finite weight.
    """
    found = known(name, [*DIVERGENCES, *KINKED], "divergence")
    if found in KINKED:
        raise ConfigError(
            f"the divergence {found!r} has no finite weight f''(r) r^2: its f has a kink at "
            f"{KINKED[found]}, and no sample has a direction; take one of "
            f"{', '.join(DIVERGENCES)}"
        )
    return DIVERGENCES[found]


class FDistill(DiffInstruct):
    r"""The gradient of an f-divergence.

    .. math:: \mathcal{L}_c = \mathbb{E} \left[ \log (1 + e^{c(x_t, \sigma)}) + \log (1 +
        e^{-c(y_{t'}, \sigma')}) \right]

    with data :math:`y`; at its minimum :math:`c = \log r`. A step updates the fake and the
    discriminator; each `ratio`-th step the student after them.

    Needs:
        Data for the ratio, but for the reverse divergence; no gradient of the teacher.

    Deviations:
        - A ratio is held within `limit` of one; the paper normalises weights over a batch, which
          couples its rows.
        - No adversarial loss of the student's beside the direction.

    References:
        | One-step Diffusion Models with f-Divergence Distribution Matching (Xu et al., 2025)
        | https://arxiv.org/abs/2502.15681

    Arguments:
        teacher: The denoiser to distil.
        generator: The student. Of a few-step one, one call a step is trained, see `DMD2`.
        fake: The denoiser of the student's samples.
        head: The discriminator; none for the reverse divergence. What has no weights is not
            trained.
        name: The divergence, of `vardiu.functional.divergences`.
        limit: The largest ratio, and one over the smallest, by which a direction is weighted.
        reads: Whose features the discriminator reads: `teacher` or `fake`.
        options: See `DiffInstruct`.

    Raises:
        ConfigError: There is no such divergence, or it has no finite weight.
        ValueError: There is a head for the reverse divergence, or none for another; or the limit
            is not above one.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        fake: Denoiser,
        head: nn.Module | None,
        *,
        name: str = "jensen_shannon",
        limit: float = 20.0,
        reads: str = "teacher",
        **options: Any,  # noqa: ANN401 (those of Diff-Instruct)
    ) -> None:
        super().__init__(teacher, generator, fake, **options)
        self.name, self.divergence = name, divergence(name)
        if (head is None) != (name == "reverse_kl"):
            raise ValueError("a ratio is needed by every divergence but the reverse one")
        if not 1 < limit < math.inf:
            raise ValueError(f"limit must be above 1 and finite, got {limit:g}")
        self.head, self.limit, self.reads = head, limit, reads

    @property
    def phases(self) -> tuple[Phase, ...]:
        fake, student = super().phases
        if self.head is None or next(self.head.parameters(), None) is None:
            return fake, student
        return fake, Phase("head", self.head_loss, updates=("head",)), student

    def prepare(self, batch: Batch, step: int) -> Fakes:
        state, index = shown(self, batch)
        return Fakes(state, self.generator.call(index, state, **batch.cond), batch, index)

    def log_ratio(self, x_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        r"""Returns the discriminator's :math:`\log r`, the mean of its heads', `(B,)`."""
        assert self.head is not None
        read = self.fake if self.reads == "fake" else self.teacher
        logits: Tensor = torch.stack(self.head(read, x_t, sigma, **cond)).mean(0)
        return logits

    def importance(self, x_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        if self.head is None:
            return super().importance(x_t, sigma, cond)
        most = math.log(self.limit)
        return self.divergence.weight(self.log_ratio(x_t, sigma, cond).clamp(-most, most))

    def noisy_logits(self, y: Tensor, cond: Mapping[str, Tensor], step: int, role: str) -> Tensor:
        r"""Returns the logits of samples at levels and noises of their own, `(B,)`."""
        sigma = self.levels(self.quantiles(len(y), f"{role} level", f"{role} order"), step)
        y_t = y + expand_like(sigma, y) * self.noise_like(y, f"{role} noise")
        return self.log_ratio(y_t, sigma, cond)

    def head_loss(self, drawn: Fakes, step: int) -> Loss:
        cond = drawn.batch.cond
        generated = self.noisy_logits(drawn.x.detach(), cond, step, "head fake")
        real = self.noisy_logits(drawn.batch.clean().to(drawn.x), cond, step, "head real")
        error = softplus_discriminator(real, generated).mean()
        info = {"real": real.mean().detach(), "fake": generated.mean().detach()}
        return Loss(error, {"classifier": error.detach(), **info})

    def student_loss(self, drawn: Fakes, step: int) -> Loss:
        cond = drawn.batch.cond
        x = self.generator.call(drawn.call, drawn.z, **cond)
        return self.regressed(self.matching(x, cond, step), len(x))


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


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains fake and discriminator at each step and the student at each `ratio`-th, after a
    start by pairs."""
    steps, fake = config.steps * config.ratio, problem.networks.fake()
    critics, batches, head = {"fake": config.fake_optimizer}, problem.data.free, None
    if config.divergence != "reverse_kl":
        head = critic_of(problem, config.critic, config.taps, fake)
        critics["head"], batches = config.head_optimizer, problem.data.clean
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
    rows, optimisation = batches(config.batch, context.seed), build.optimisation(config, **critics)
    of = 2 if config.pairs.pairs else 1
    trained = yield Stage("f_distill", objective, steps, rows, optimisation, of=of)
    return trained.network


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
IMAGES = Settings(**vars(diff_instruct.IMAGES), head_optimizer=NetworkOptimizer(lr=4e-4))
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
PAIRS = replace(regression.TINY.pairs, pairs=20)
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
    cites_by=lambda config: (
        "f_distill",
        *(["dmd"] if config.normalised else []),
        *(["luhman"] if config.pairs.pairs else []),
    ),
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
        "f-distill-regression": Example(replace(TINY, pairs=PAIRS, regression_weight=0.5)),
    },
    claims=frozenset({"fixed_point", "descent"}),
    ideal=ideal,
)
