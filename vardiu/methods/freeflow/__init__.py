r"""FreeFlow: a flow map that predicts from noise alone, and corrects itself by its own score.

With :math:`D` the teacher, :math:`X = \tfrac{s}{T} x_T + (1 - \tfrac{s}{T}) G` the student's state
at level :math:`s`, :math:`\tau(s) = s / (\sigma_d + s)` and :math:`r` the noise of a sample,

.. math:: \nabla \mathcal{L} = \mathbb{E} \Big[ w \, \frac{R^\top \nabla G(x_T, T, s)}
    {\tau(s) \tau(T)} \Big] + \lambda \, \mathbb{E} \Big[ \frac{(D_\psi(x_r, r) -
    D(x_r, r))^\top \nabla G(x_T, T, 0)}{\tau(r) \tau(T)} \Big], \qquad
    R = G - D(X, s) - s \Big( 1 - \frac{s}{T} \Big) \frac{\partial G}{\partial s}

The first term, *prediction*, has the student move with the teacher's velocity where the student
itself is; the second, *correction*, is variational score distillation. No data is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ...denoisers.levels import karras_grid
from ...errors import ConfigError
from ...settings import build
from ...settings.fields import LevelSettings
from ...students.flow_map import FlowMap
from ...training.stage import Context, Recipe, Stages
from .. import regression
from ..base import Example, Method

if TYPE_CHECKING:
    from ...problems.base import Problem
from .objective import Drawn, FreeFlow
from .presets import ARMS, PRESETS
from .settings import Settings
from .start import PathRegression

__all__ = ["Drawn", "FreeFlow", "METHOD", "PathRegression", "Settings", "recipe"]


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains the fake at each step and the flow map at each `ratio`-th, after a regression on
    the paths of pairs if there are any."""
    steps, data = config.steps * config.ratio, problem.space.sigma_data
    student = yield from started(problem, config, context)
    objective = FreeFlow(
        problem.known_teacher,
        student,
        problem.networks.fake() if config.correction else None,
        levels=build.levels(config.levels, steps),
        noise_levels=build.levels(config.noise_levels, steps),
        correction=config.correction,
        balance=config.balance,
        adaptive=config.adaptive,
        lead=round(config.lead * steps),
        below=config.below,
        derivative=config.derivative,
        ratio=config.ratio,
        sigma_data=data,
    )
    batches = problem.data.free(config.batch, context.seed)
    return (yield build.last_stage("freeflow", objective, batches, config, steps=steps)).network


def started(problem: Problem, config: Settings, context: Context) -> Stages[FlowMap]:
    r"""Yields the regression on the teacher's paths, if there are any, and returns the student.

    Raises:
        ConfigError: The solver's paths start at another level than the map.
    """
    student, row, teacher = flow_map(problem), config.pairs, problem.known_teacher
    if not row.pairs:
        return student
    if student.sigmas[0] != teacher.sigma_max:
        raise ConfigError(
            f"freeflow: pairs are solved from the teacher's highest level {teacher.sigma_max:g}, "
            f"and the map starts at {student.sigmas[0]:g}: give --sigma {teacher.sigma_max:g}, or "
            "--pairs.pairs 0"
        )
    paths = regression.make_pairs(problem, row, context, whole=True)
    # The grid's powers round its first level.
    _, *below = karras_grid(row.solver_steps, teacher.sigma_min, teacher.sigma_max).tolist()
    levels = [teacher.sigma_max, *below]
    # Of several calls a latent has the fresh noise between them too, which no path knows.
    one = student.with_calls(1)
    unit = problem.space.unit
    objective = PathRegression(teacher, one, paths, levels, below=config.below, unit=unit)
    objective.forward_mode = config.forward_mode  # what comes next goes on with the network
    found = yield from regression.fitted(objective, problem, row, config, context)
    assert isinstance(found, FlowMap)
    return found.with_calls(student.calls)


def flow_map(problem: Problem) -> FlowMap:
    r"""Returns the student, from the teacher's weights if it has any.

    Raises:
        ConfigError: Its network cannot be told where a map ends.
    """
    networks = problem.networks
    denoiser = networks.student_denoiser()
    high = denoiser.sigma_max if networks.sigma is None else networks.sigma
    spread = (high**2 + problem.space.sigma_data**2) ** 0.5
    try:
        return FlowMap.of(denoiser, networks.calls, high, spread)
    except TypeError as error:
        raise ConfigError(
            f"freeflow: {error}; the networks that can are MLP and UNet: give --student fresh, or "
            "a teacher from `vardiu teach`"
        ) from error


TONG = """@misc{tong2025freeflow,
  title         = {Flow Map Distillation Without Data},
  author        = {Tong, Shangyuan and Ma, Nanye and Xie, Saining and Jaakkola, Tommi},
  year          = {2025},
  eprint        = {2511.19428},
  archivePrefix = {arXiv}
}"""


CURES: Mapping[str, str] = {
    "collapse": "lower --correction: prediction alone keeps the pairing of noise and samples",
    "saturation": "raise --ratio or --fake-optimizer.lr, or --steps: the ends come last",
    "divergence": "lower --lr, or give --derivative difference",
}


TINY = Settings(
    steps=10,
    batch=8,
    levels=LevelSettings(sigma_min=0.2, sigma_max=8.0),
    noise_levels=LevelSettings(sigma_min=0.2, sigma_max=8.0),
)


METHOD = Method(
    name="freeflow",
    title="FreeFlow",
    year=2025,
    address="https://arxiv.org/abs/2511.19428",
    family="trajectory",
    networks=("student", "fake"),
    settings=Settings,
    recipe=recipe,
    bibtex={"freeflow": TONG, **regression.METHOD.bibtex},
    cites_by=lambda config: ("freeflow", *(["luhman"] if config.pairs.pairs else [])),
    presets=PRESETS,
    cures=CURES,
    arms=ARMS,
    examples={
        "freeflow": Example(TINY),
        "freeflow-prediction": Example(replace(TINY, correction=0.0)),
        "freeflow-correction": Example(replace(TINY, correction=1.0, ratio=2)),
        "freeflow-difference": Example(replace(TINY, derivative="difference", below=0.5)),
        "freeflow-classes": Example(TINY, classes=2),
        "freeflow-paths": Example(replace(TINY, pairs=regression.TINY.pairs)),
    },
)
