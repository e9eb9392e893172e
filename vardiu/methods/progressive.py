r"""Progressive distillation: one step of the student lands where two of the teacher's do.

.. math:: \mathcal{L} = \mathbb{E}_{i, x_0, \varepsilon} \left[ w(t_i) \,
    \| D_\theta(x_{t_i}, t_i) - \tilde x \|^2 \right], \qquad
    \tilde x = \frac{x'' - \tfrac{t_{i+2}}{t_i} x_{t_i}}{1 - \tfrac{t_{i+2}}{t_i}}

on a grid :math:`t_0 > \ldots > t_{2N} = 0`, where :math:`x''` is where two deterministic steps of
the teacher from :math:`x_{t_i}`, :math:`i` even, arrive. The student of :math:`N` steps is the
next teacher, until few steps are left: their map is that of the first teacher's sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..errors import ConfigError
from ..functional.distances import squared
from ..functional.scores import Weight, edm_weight, truncated_snr
from ..functional.tensors import expand_like
from ..samplers.lessons import Lesson, lesson
from ..samplers.trajectories import require_decreasing
from ..settings import build
from ..settings.fields import DigitsSettings, Training
from ..settings.grounds import MOG40, PATCHES
from ..students.base import Generator
from ..students.few_step import FewStep, OneStep
from ..training.objective import Loss, Objective, Phase, denoiser_of
from ..training.stage import Context, Recipe, Stage
from ..training.states import Shown, States
from .base import Arm, Example, Method, Needs, Preset
from .halving import begin, plan

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["METHOD", "ProgressiveDistillation", "Settings", "noised", "recipe"]


def noised(objective: ProgressiveDistillation, batch: Batch, place: Tensor, step: int) -> Shown:
    r"""Returns clean samples of the batch, with fresh noise of the levels of places."""
    x = batch.clean().to(objective.like)
    noise = expand_like(objective.visited(place)[0], x) * objective.noise_like(x)
    return Shown(x + noise, place, batch.cond)


class ProgressiveDistillation(Objective):
    r"""One stage of progressive distillation.

    Needs:
        Data; two calls of the teacher a row, four by Heun's method, one in a stage that copies.

    Deviations:
        - The weights are those of data divided by their spread :math:`\sigma_d`.
        - The grid is EDM's, and its last level is zero; the paper's is uniform in the angle.

    References:
        | Progressive Distillation for Fast Sampling of Diffusion Models (Salimans and Ho, 2022)
        | https://arxiv.org/abs/2202.00512, Algorithm 2 and Section 4

    Arguments:
        teacher: The teacher of this stage.
        network: The denoiser to train.
        grid: The levels of the *teacher's* steps, decreasing to zero, `(S N + 1,)`.
        stride: The teacher's steps :math:`S` in one of the student's; one to copy the teacher.
        weight: The weight :math:`w` of a level.
        correct: Whether the teacher's steps are Heun's: those of a denoiser, and of no student.
        states: Where the states come from, see `vardiu.training.states`.

    Raises:
        ValueError: The levels do not decrease to zero, or are no whole steps of the student.
    """

    grid: Tensor

    def __init__(
        self,
        teacher: Denoiser,
        network: Denoiser,
        grid: Tensor,
        *,
        stride: int = 2,
        weight: Weight,
        correct: bool = False,
        states: States = noised,
    ) -> None:
        super().__init__(teacher, network)
        require_decreasing(grid)
        if grid[-1] != 0:
            raise ValueError(f"the levels must end at the data, at 0, got {grid[-1]:g} at the end")
        if stride < 1 or (len(grid) - 1) % stride:
            raise ValueError(
                f"{len(grid) - 1} steps of the teacher are no whole number of the student's of "
                f"{stride} each"
            )
        self.register_buffer("grid", grid, persistent=False)
        self.asked_at: list[float] = grid[::stride][:-1].tolist()
        self.stride, self.weight, self.states, self.correct = stride, weight, states, correct
        self.calls = len(self.asked_at)
        self.lesson = partial(lesson, correct=correct, arrives=self.calls == 1)

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("progressive", self.loss, updates=("generator",)),)

    def visited(self, place: Tensor) -> Tensor:
        r"""Returns the levels that the teacher visits in steps of the student's, `(S + 1, B)`."""
        steps = torch.arange(self.stride + 1, device=place.device)
        return self.grid.to(self.like)[self.stride * place + steps[:, None]]

    def prepare(self, batch: Batch, step: int) -> Any:  # noqa: ANN401 (others have their own)
        place = (self.quantiles(batch.rows) * self.calls).long()
        shown = self.states(self, batch, place, step)
        return self.lesson(self.teacher, shown.x_t, self.visited(shown.place), shown.cond)

    def loss(self, drawn: Lesson, step: int) -> Loss:
        return self.taught(denoiser_of(self)(drawn.x_t, drawn.sigma, **drawn.cond), drawn)

    def taught(self, denoised: Tensor, drawn: Lesson) -> Loss:
        r"""Returns the loss of the student's estimates, `(B, *)`."""
        error = squared(denoised - drawn.target)
        info = {"squared_error": error.mean().detach()}
        return Loss((self.weight(drawn.sigma) * error).mean(), info)

    def student_of(self, network: nn.Module) -> Generator:
        r"""Returns the student that takes all steps of this stage's grid."""
        assert isinstance(network, Denoiser)
        sigmas = self.asked_at
        return FewStep(network, sigmas, "ddim") if self.calls > 1 else OneStep(network, sigmas[0])


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""Progressive distillation; `steps` is the number of updates of all stages together."""

    grid: int = 64
    """The teacher's steps, a power of two times sampling_steps; the paper has 8192 or 1024."""
    rho: float = 7.0
    """The exponent of the spacing of the levels."""
    grid_max: float | None = None
    """The largest level of the grid; none for the teacher's."""
    solver: Literal["ddim", "heun"] = "ddim"
    """The steps of the first teacher: one call each, or two; all later teachers are students."""
    sampling_steps: int = 1
    """The number of the student's calls, where the halving ends."""
    weight: Literal["snr", "v"] = "snr"
    """The weight of a level: the signal-to-noise ratio or 1, the larger one; or v, their sum."""
    fold: float = 1.0
    """Updates, of each of a halving, of a first stage: that of a student that is not yet guided
    as the teacher, or is fresh."""
    late: float = 2.0
    """Updates of the stages of two calls and of one, in updates of an earlier one."""
    halflife: float = 0.0
    """The half-life of the average, in samples; 0 for none: the next teacher would lag behind."""

    def __post_init__(self) -> None:
        super().__post_init__()
        held = [self.grid >> i for i in range(17) if self.grid % 2**i == 0]
        if self.sampling_steps not in held:
            raise ConfigError(
                f"sampling_steps must be one of {', '.join(map(str, held))}, to which halving "
                f"grid={self.grid} leads, got {self.sampling_steps}"
            )


def recipe(
    problem: Problem,
    config: Settings,
    context: Context,
    kind: Callable[[int], Callable[..., ProgressiveDistillation]] = lambda _: (
        ProgressiveDistillation
    ),
) -> Recipe:
    r"""Yields the stages, each with the last student for its teacher. A method that adds to the
    loss, or takes other states, says what the objective is of a stage of so many calls."""
    teacher, network, grid = begin(problem, config)
    weigh = truncated_snr if config.weight == "snr" else edm_weight
    weight = partial(weigh, sigma_data=problem.space.sigma_data)
    rows = plan(config, not problem.networks.starts_as_teacher)
    # A student answers where its step lands, which is no slope for Heun's method.
    slope = config.solver == "heun" and not problem.networks.begins_elsewhere
    for calls, stride, share, steps in rows:
        levels = grid[:: config.grid // (calls * stride)]
        first = stride > 1 and calls * stride == config.grid
        told = {"stride": stride, "weight": weight, "correct": first and slope}
        objective = kind(calls)(teacher, network, levels, **told)
        row = build.optimisation_of(objective, config)
        name = f"{calls}-steps" if stride > 1 else "fold"
        batches = problem.data.clean(config.batch, context.seed)
        trained = yield Stage(name, objective, steps, batches, row, share, len(rows), True)
        teacher, network = trained.network, trained.network.trainable_copy()
    return objective.student_of(teacher)


SALIMANS = """@inproceedings{salimans2022progressive,
  title     = {Progressive Distillation for Fast Sampling of Diffusion Models},
  author    = {Salimans, Tim and Ho, Jonathan},
  booktitle = {International Conference on Learning Representations},
  year      = {2022}
}"""

CURES: Mapping[str, str] = {
    "collapse": "more --steps, or end the halving earlier by more of --sampling-steps",
    "worsening": "lower --lr, or raise --late: the last stages have the most to learn",
}

MIXTURE = Settings(steps=20_000, batch=256, lr=5e-3, clip=1.0, fold=8.0)
IMAGES = Settings(steps=8_000, batch=128, lr=5e-4, beta_2=0.99, warmup=50, clip=1.0)
# Eight steps of Heun's method spread a little too far, and an average draws together.
DIGITS = replace(IMAGES, steps=4_000, grid=8, solver="heun")
PRESETS = {
    "mog40-progressive": Preset("progressive distillation from 64 calls to one", MOG40, MIXTURE),
    "digits-progressive": Preset(
        "8x8 real images by class; progressive distillation to one call", DigitsSettings(), DIGITS
    ),
    "patches-progressive": Preset(
        "16x16 patches; progressive distillation", PATCHES, replace(IMAGES, batch=96)
    ),
}
TINY = Settings(steps=12, batch=8, grid=4)

METHOD = Method(
    name="progressive",
    title="Progressive distillation",
    year=2022,
    address="https://arxiv.org/abs/2202.00512",
    family="trajectory",
    networks=("student",),
    needs=Needs(data=True),
    settings=Settings,
    recipe=recipe,
    bibtex={"progressive": SALIMANS},
    presets=PRESETS,
    cures=CURES,
    arms={
        "mog40": {"progressive": Arm("Progressive distillation (with data)", MIXTURE)},
        "digits": {"progressive": Arm("Progressive distillation (with data)", DIGITS)},
    },
    examples={
        "progressive": Example(TINY),
        "progressive-classes": Example(replace(TINY, sampling_steps=2, weight="v"), classes=2),
    },
)
