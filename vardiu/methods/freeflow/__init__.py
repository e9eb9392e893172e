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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ...denoisers.levels import karras_grid
from ...errors import ConfigError
from ...settings import build
from ...settings.fields import (
    DigitsSettings,
    LevelSettings,
    NetworkOptimizer,
    PairSettings,
    Training,
)
from ...settings.grounds import COARSE_TO_FINE, MOG40, PATCHES
from ...students.flow_map import FlowMap
from ...training.stage import Context, Recipe, Stages
from .. import regression
from ..base import Arm, Example, Method, Preset

if TYPE_CHECKING:
    from ...problems.base import Problem
from .objective import Drawn, FreeFlow
from .start import PathRegression

__all__ = ["Drawn", "FreeFlow", "METHOD", "PathRegression", "Settings", "recipe"]


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""FreeFlow."""

    correction: float = 0.25
    """The share of a batch's rows that correct; 0 for prediction alone, 1 for correction alone."""
    balance: float = 1.0
    """The size of the correction's direction against the prediction's."""
    adaptive: float = 1.0
    """The power k of the weight of a row of the prediction; 0 for none."""
    lead: float = 0.0
    """The share of the steps in which prediction trains alone. Before it has arrived at the data,
    the correction gathers samples at modes."""
    below: float = 0.25
    """The share of the rows that start below the highest level, at the student's own noised
    samples: what samples of several calls are learned from."""
    derivative: Literal["forward", "difference"] = "forward"
    """The derivative by the level: forward mode, or a centred difference where a network has
    none."""
    ratio: int = 1
    """The number of updates of the fake for each update of the student."""
    fake_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How the fake is updated."""
    pairs: PairSettings = PairSettings()
    """The teacher's pairs, and the length, batch and rate of a regression on the states of their
    paths, which comes first."""
    levels: LevelSettings = LevelSettings(sigma_min=0.02, sigma_max=20.0)
    """The levels at which the map ends."""
    noise_levels: LevelSettings = LevelSettings(
        kind="log_normal", mean=0.1, std=1.0, sigma_min=0.02, sigma_max=20.0
    )
    """The levels of correction and fake; log-normal is the paper's logit-normal time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.below < 1:
            raise ConfigError(f"below must be within [0, 1), got {self.below:g}")
        if self.lead and self.correction == 1:
            raise ConfigError("lead: correction alone has no prediction that could lead; give 0")


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
    objective = PathRegression(teacher, student, paths, [teacher.sigma_max, *below])
    found = yield from regression.fitted(objective, problem, row, config, context)
    assert isinstance(found, FlowMap)
    return found


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


MIXTURE = Settings(
    steps=4_000,
    batch=512,
    lr=2e-3,
    fake_optimizer=NetworkOptimizer(lr=4e-3),
    beta_1=0.5,
    beta_2=0.99,
    correction=0.5,
    lead=0.2,
    levels=LevelSettings(sigma_min=0.2, sigma_max=80.0),
    noise_levels=COARSE_TO_FINE,
)


DIGITS = Settings(
    steps=1_800,
    batch=128,
    lr=5e-4,
    fake_optimizer=NetworkOptimizer(lr=8e-4),
    warmup=50,
    beta_2=0.99,
    halflife=20_000.0,
    correction=0.5,
    balance=3.0,
    lead=0.3,
    levels=LevelSettings(sigma_min=0.05, sigma_max=20.0),
)


WIDE = replace(MOG40, sigma_max=80.0)


PRESETS = {
    "mog40-freeflow": Preset("a flow map from noise alone, any number of calls", WIDE, MIXTURE),
    "digits-freeflow": Preset(
        "8x8 real images by class; a flow map from noise alone, any number of calls",
        DigitsSettings(),
        DIGITS,
    ),
    "patches-freeflow": Preset(
        "16x16 patches of photographs; a flow map from noise alone, any number of calls",
        PATCHES,
        DIGITS,
    ),
}


ARMS = {
    "mog40": {"freeflow": Arm("FreeFlow", MIXTURE)},
    "digits": {"freeflow": Arm("FreeFlow", DIGITS)},
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
