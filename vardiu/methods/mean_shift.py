r"""Mean-shift distillation: what is moved goes to the mean of the teacher's samples around it.

.. math:: m(x) = \mathbb{E}_{r(y \mid x)}[y] - x = \lambda^2 \, \nabla \log p_\lambda(x), \qquad
    r(y \mid x) \propto p(y) \, \mathcal{N}(x; y, \lambda^2 I), \qquad
    \nabla_\theta \mathcal{L} = \mathbb{E} \big[ (x - y)^\top \nabla_\theta x \big]

with :math:`x = g_\theta(z)`. It stops at modes of the teacher's density smoothed *once*, where
SDS stops at those of one that is smoothed twice; no entropy keeps samples apart. The
mean is estimated by a sample of the product, or asked of the denoiser at the level
:math:`\lambda`, which ideally is the same: :math:`D(x, \lambda) = \mathbb{E}_r[y]`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.levels import Geometric, Schedule, karras_grid, value_at_step
from ..errors import ConfigError
from ..functional.scores import surrogate
from ..samplers.products import product_sample
from ..settings import build
from ..settings.fields import DigitsSettings, KernelSettings, Training, VariableSettings
from ..settings.grounds import MOG40
from ..students.base import Generator
from ..training.objective import Loss, Objective, Phase
from ..training.stage import Context, Recipe
from .base import Arm, Example, Method, Preset

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["METHOD", "MeanShift", "Settings", "recipe"]


class MeanShift(Objective):
    r"""Mean-shift distillation.

    .. math:: \mathcal{L} = \tfrac12 \, \mathbb{E} \, \| g_\theta(z) - \mathrm{sg}[y] \|^2

    Needs:
        No data, no gradient of the teacher; of a sample of the product as many of its calls a row
        as the sampler has steps, of the denoiser one.

    Deviations:
        - The schedule of the width is geometric: the paper's decreases, and is not published.
        - What is moved is a generator, particles or a picture; in the paper a picture or a
          radiance field.

    References:
        | Mean-Shift Distillation for Diffusion Mode Seeking (Thamizharasan et al., 2025)
        | https://arxiv.org/abs/2502.15989

    Arguments:
        teacher: The denoiser :math:`D`.
        g: What is moved.
        width: The kernel's standard deviation :math:`\lambda`, a schedule.
        solver_steps: The steps of the product's sampler; 0 asks the denoiser.
        draws: The number of samples whose mean :math:`y` is.
        low: Above which level the kernel pulls, see `product_sample`.
        high: Below which level it does.
        lattice: Whether rows are spread evenly, see `Objective`.
    """

    grid: Tensor

    def __init__(
        self,
        teacher: Denoiser,
        g: Generator,
        *,
        width: Schedule,
        solver_steps: int = 20,
        draws: int = 1,
        low: float = 0.0,
        high: float = math.inf,
        lattice: bool = False,
    ) -> None:
        super().__init__(teacher, g)
        self.width, self.solver_steps, self.draws = width, solver_steps, draws
        self.low, self.high, self.lattice = low, high, lattice
        grid = karras_grid(max(1, solver_steps), teacher.sigma_min, teacher.sigma_max)
        self.grid = grid  # on the host, where it is looked at

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("student", self.loss, updates=("generator",)),)

    def loss(self, batch: Batch, step: int) -> Loss:
        x = self.generator(self.latents(batch.rows), **batch.cond)
        shift = self.mean(x.detach(), batch, step) - x.detach()
        size = shift.flatten(1).norm(dim=1).mean()
        width = x.new_full((), value_at_step(self.width, step))
        return Loss(surrogate(x, -shift).mean(), {"shift": size, "width": width})

    def mean(self, x: Tensor, batch: Batch, step: int) -> Tensor:
        r"""Returns estimates of the mean of the product around points, `(B, *)`, without a
        gradient."""
        width = value_at_step(self.width, step)
        with torch.no_grad():
            if not self.solver_steps:
                return self.teacher(x, x.new_full((len(x),), width), **batch.cond)
            drawn = [
                product_sample(
                    self.teacher,
                    x,
                    self.noise_like(x),
                    self.grid,
                    width,
                    low=self.low,
                    high=self.high,
                    **batch.cond,
                )
                for _ in range(self.draws)
            ]
        return torch.stack(drawn).mean(0)


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""Mean-shift distillation."""

    estimator: Literal["product", "denoiser"] = "product"
    """The mean around what is moved: by samples of the product of teacher and kernel, or the
    teacher's own answer at the level of the kernel, one call, where it is off its inputs."""
    variables: VariableSettings = VariableSettings()
    """What is moved."""
    kernel: KernelSettings = KernelSettings()
    """The kernel."""
    solver_steps: int = 20
    """product: the steps of the sampler, each one call of the teacher."""
    draws: int = 1
    """product: the number of samples whose mean is taken."""
    lattice: bool = False
    """Spread the rows of a batch evenly: particles are then visited equally often."""


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Moves the variables at each step, with a kernel that narrows."""
    teacher, row = problem.known_teacher, config.kernel
    asked = config.estimator == "denoiser"
    if asked and not teacher.sigma_min <= row.width_end <= row.width <= teacher.sigma_max:
        raise ConfigError(
            f"--estimator denoiser asks the teacher at the kernel's width: kernel.width and "
            f"kernel.width_end must be within {teacher.sigma_min:g} and {teacher.sigma_max:g}, "
            f"its noise levels, got {row.width:g} and {row.width_end:g}"
        )
    objective = MeanShift(
        teacher,
        problem.networks.variables(config.variables),
        width=Geometric(row.width, row.width_end, max(1, config.steps - 1)),
        solver_steps=0 if asked else config.solver_steps,
        draws=config.draws,
        low=row.low,
        high=math.inf if row.high is None else row.high,
        lattice=config.lattice,
    )
    batches = problem.data.free(config.batch, context.seed)
    return (yield build.last_stage("mean_shift", objective, batches, config)).network


THAMIZHARASAN = """@misc{thamizharasan2025msd,
  title         = {Mean-Shift Distillation for Diffusion Mode Seeking},
  author        = {Thamizharasan, Vikas and Chatzis, Nikitas and Georgiev, Iliyan and
                   Fisher, Matthew and Liu, Difan and Zhao, Nanxuan and Kalogerakis, Evangelos and
                   Luk{\\'a}{\\v{c}}, Michal},
  year          = {2025},
  eprint        = {2502.15989},
  archivePrefix = {arXiv}
}"""


# A step of Adam is of the size of its rate: in units of the data, not of a network's weights.
PARTICLES = Settings(
    steps=400,
    batch=2_000,
    lr=0.5,
    lattice=True,
    halflife=0.0,
    variables=VariableSettings(kind="particles", particles=2_000),
)
PICTURES = Settings(
    steps=400,
    batch=80,
    lr=1e-2,
    variables=VariableSettings(kind="picture"),
    kernel=KernelSettings(width=2.0, width_end=0.3),
)
PRESETS = {
    "mog40-mean-shift": Preset(
        "2,000 particles to the nearest modes; it keeps no law, see mog40-vsd", MOG40, PARTICLES
    ),
    "mog40-mean-shift-student": Preset(
        "the same of a student, which gathers at few modes; see mog40-vsd",
        MOG40,
        Settings(steps=500),
    ),
    "digits-mean-shift": Preset("one picture of each digit", DigitsSettings(), PICTURES),
}


TINY = Settings(steps=10, batch=8, solver_steps=3, kernel=KernelSettings(width=2.0))
ASKED = replace(TINY, estimator="denoiser")
FEW = VariableSettings(kind="particles", particles=3)


METHOD = Method(
    name="mean_shift",
    title="Mean-shift distillation",
    year=2025,
    address="https://arxiv.org/abs/2502.15989",
    networks=("student",),
    settings=Settings,
    recipe=recipe,
    bibtex={"mean_shift": THAMIZHARASAN},
    presets=PRESETS,
    arms={"mog40": {"mean-shift": Arm("Mean shift", Settings())}},
    cures={
        "collapse": "--method sds and its variant vsd, whose fake keeps samples apart: this one "
        "seeks modes; of particles raise --variables.std, they stay where they start",
        "divergence": "lower --lr, or raise --kernel.width-end",
    },
    examples={
        "mean-shift": Example(TINY),
        "mean-shift-classes": Example(TINY, classes=2),
        "mean-shift-denoiser": Example(ASKED),
        "mean-shift-particles": Example(replace(TINY, variables=FEW, lattice=True), classes=2),
    },
)
