r"""Energy-distance matching: the student's samples against the teacher's answers to them.

.. math:: \mathcal{L} = \mathbb{E}_\sigma \, w(\sigma) \, \mathcal{D} \big( \mathrm{law}(x), \;
    \mathrm{law}(y) \big), \qquad x = g(z), \quad y = \Phi_\sigma(x + \sigma \varepsilon)

with the generalised energy distance :math:`\mathcal{D}` and the teacher's probability flow
:math:`\Phi_\sigma` from a level to zero, which is held. Noise and flow together leave the
teacher's law as it is, and lower the divergence of every other one from it. Nobody learns the
student's score: samples of both are all that is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.exact import GaussianDenoiser
from ..denoisers.levels import Levels, LogUniform
from ..errors import ConfigError
from ..functional.bounds import same_condition
from ..functional.energy import energy_distance
from ..functional.scores import Weight
from ..functional.tensors import expand_like
from ..samplers.trajectories import trajectory
from ..settings import build
from ..settings.fields import (
    DigitsSettings,
    LevelSettings,
    PairSettings,
    Training,
    WeightSettings,
)
from ..settings.grounds import MOG40
from ..students.base import Generator
from ..training.objective import Loss, Objective, Phase
from ..training.stage import Context, Recipe, Stage
from . import regression
from .base import Arm, Example, Method, Preset

if TYPE_CHECKING:
    from ..problems.base import Problem
    from ..problems.linear import LinearProblem
    from ..students.affine import Affine

__all__ = ["Energy", "METHOD", "Settings", "recipe"]


class Drawn(NamedTuple):
    r"""Latents, the teacher's answers to what the student makes of them, and their level."""

    z: Tensor
    y: Tensor
    sigma: Tensor
    batch: Batch


class Energy(Objective):
    r"""Energy-distance matching.

    All rows of a step have one level, so that they can be compared; with conditions, rows of one
    condition are.

    Needs:
        No data, no gradient of the teacher; :math:`2 n - 1` calls of it a row.

    Deviations:
        - VarFlow compares noisy samples of the student with noised data; here the teacher answers
          the student's own, and there are no data.

    References:
        | VarFlow: Proper Scoring-Rule Diffusion Distillation via Energy Matching (Shao et al.,
        | 2025), https://openreview.net/forum?id=nSAa6BaJtK

    Arguments:
        teacher: The denoiser to distil.
        generator: The student.
        levels: The distribution of noise levels, from which each step draws one.
        weight: The weight :math:`w(\sigma)` of a level's distance.
        exponent: The exponent of the distance within (0, 2).
        teacher_steps: Heun's steps :math:`n` of the teacher's flow.

    Raises:
        ValueError: A number is out of its range.
    """

    # The exponent of EDM's grid of levels.
    RHO = 7

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        *,
        levels: Levels,
        weight: Weight = torch.ones_like,
        exponent: float = 1.0,
        teacher_steps: int = 6,
    ) -> None:
        super().__init__(teacher, generator)
        if not 0 < exponent < 2:
            raise ValueError(f"exponent must be within (0, 2), got {exponent}")
        if teacher_steps < 1:
            raise ValueError(f"teacher_steps must be at least 1, got {teacher_steps}")
        self.levels, self.weight = levels, weight
        self.exponent, self.teacher_steps = exponent, teacher_steps

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("student", self.loss, updates=("generator",)),)

    @property
    def row_coupling(self) -> str:
        return "each row is compared with the other rows of its batch"

    def prepare(self, batch: Batch, step: int) -> Drawn:
        z, like = self.latents(batch.rows), self.like
        u = self.streams.uniform("level", 1, device=like.device, dtype=like.dtype, shared=True)
        sigma = self.levels(u, step).expand(batch.rows)
        x = self.generator(z, **batch.cond)
        x_t = x + expand_like(sigma, x) * self.noise_like(x)
        return Drawn(z, self.answer(x_t, sigma, batch.cond), sigma, batch)

    def answer(self, x_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        r"""Returns where the teacher's flow takes noisy samples, `(B, *)`.

        Arguments:
            x_t: Noisy samples, with shape :math:`(B, *)`.
            sigma: Their levels, with shape :math:`(B)`.
            cond: Their conditions.
        """
        lowest = (sigma / 2).clamp_max(self.teacher.module.sigma_min)
        share = torch.linspace(0, 1, self.teacher_steps + 1).to(sigma)[:-1, None]
        share = share * (self.teacher_steps / max(self.teacher_steps - 1, 1))
        high, low = sigma ** (1 / self.RHO), lowest ** (1 / self.RHO)
        sigmas = torch.cat([(high + share * (low - high)) ** self.RHO, 0 * sigma[None]])
        *_, y = trajectory(partial(self.teacher, **cond), x_t, sigmas, correct=True)
        return y

    def loss(self, drawn: Drawn, step: int) -> Loss:
        cond = drawn.batch.cond
        x = self.generator(drawn.z, **cond)
        same = same_condition(cond, len(x)) if cond else None
        distance = energy_distance(x, drawn.y, same, exponent=self.exponent)
        value = self.weight(drawn.sigma[0]) * distance
        return Loss(value, {"distance": distance.detach()})


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
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
    of = 2 if config.pairs.pairs else 1
    row = build.optimisation(config)
    return (yield Stage("energy", objective, config.steps, batches, row, of=of)).network


class Exact(Energy):
    r"""With a Gaussian teacher, whose flow is known:
    :math:`m + (C (C + \sigma^2)^{-1})^{1/2} (x_t - m)`."""

    def answer(self, x_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        teacher = self.teacher.module
        assert isinstance(teacher, GaussianDenoiser)
        gain = (teacher.values / (teacher.values + sigma.square()[:, None])).sqrt()
        along = (x_t - teacher.mean) @ teacher.vectors
        return teacher.mean + (gain * along) @ teacher.vectors.T


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
    steps=800,
    batch=160,
    lr=3e-4,
    warmup=50,
    beta_2=0.99,
    decay="trapezoid",
    halflife=17_700.0,
    teacher_steps=4,
    levels=LevelSettings(sigma_min=0.3, sigma_max=6.0),
    pairs=PairSettings(pairs=16_000),
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
