r"""DDIL: another method of few steps, on states of the teacher's and of the student's own paths.

.. math:: \mathcal{L} = \mathbb{E}_k \, \mathbb{E}_{x \sim d_k} \left[ \ell(x, k) \right],
    \qquad d_k = (1 - b_T - b_S) \, q_k + b_T \, d_k^T + b_S \, d_k^\theta

The loss :math:`\ell` is that of the base method, at states :math:`x` of the mixture of
`vardiu.training.states`. Clean estimates of the teacher may be thresholded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..denoisers.base import Denoiser
from ..denoisers.consistency import ConsistencyDenoiser
from ..denoisers.reflected import Reflected
from ..errors import ConfigError
from ..functional.thresholds import thresholded
from ..settings.fields import (
    DigitsSettings,
    LevelSettings,
    NetworkOptimizer,
    StateSettings,
    Training,
    WeightSettings,
)
from ..settings.grounds import COARSE_TO_FINE, MOG40
from ..students.base import Generator
from ..students.few_step import FewStep
from ..training.stage import Context, Recipe
from ..training.states import Mixture, Path, Shares, States
from . import consistency, dmd2, progressive
from .base import Arm, Example, Method, Needs, Preset
from .consistency import ConsistencyDistillation
from .imitated import ImitatedConsistency, ImitatedDMD2, noised_call, path_between
from .progressive import ProgressiveDistillation

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["METHOD", "Settings", "based", "recipe"]


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""DDIL. What is not among these is as in the base method's row for the same kind of
    problem."""

    base: Literal["progressive", "consistency", "dmd2"] = "progressive"
    """The method that is trained on these states."""
    sampling_steps: int = 4
    """progressive, consistency: the number of the student's calls, at least two."""
    grid: int = 64
    """progressive: the teacher's steps; consistency: the levels of a trajectory."""
    solver: Literal["ddim", "heun"] = "ddim"
    """progressive: the steps of the first teacher, one call each, or two."""
    states: StateSettings = StateSettings()
    """Where the states come from."""
    ratio: int = 5
    """dmd2: the number of updates of the fake for each update of the student."""
    levels: LevelSettings = LevelSettings()
    """dmd2: the noise levels of the student's samples."""
    weight: WeightSettings | None = None
    """consistency, dmd2: the weight of a noise level; none for the base method's own."""
    adversarial_weight: float = 0.0
    """dmd2: the weight of the student's adversarial loss; at 0 there is no head."""
    fake_optimizer: NetworkOptimizer = NetworkOptimizer()
    """dmd2: how the fake is updated."""
    head_optimizer: NetworkOptimizer = NetworkOptimizer()
    """dmd2: how the head is updated."""
    halflife: float = 0.0
    """The half-life of the student's average, in samples; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base != "dmd2" and self.sampling_steps < 2:
            raise ConfigError(
                "sampling_steps must be at least 2: a student of one call meets no states of its "
                f"own, got {self.sampling_steps}"
            )


BASES = {m.METHOD.name: m.METHOD for m in (progressive, consistency, dmd2)}


def based(config: Settings, problem: Any) -> Any:  # noqa: ANN401 (settings of any problem, method)
    r"""Returns the base method's settings: those of its row for the kind of problem, and over them
    what `ddil` has by the same name."""
    method = BASES[config.base]
    rows = [row.settings for row in method.presets.values() if type(row.problem) is type(problem)]
    known = {field.name for field in dataclasses.fields(method.settings)}
    if config.weight is None or config.base == "progressive":
        known.discard("weight")
    own = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name in known}
    return replace(rows[0], **own) if rows else method.settings(**own)


def reflected(teacher: Denoiser, row: StateSettings) -> Denoiser:
    r"""Returns the teacher with its answers thresholded, or as it is."""
    return teacher if row.bound is None else Reflected(teacher, row.bound, row.quantile)


def mixture(
    problem: Problem, config: Settings, forward: States, path: Path, steps: int
) -> Mixture:
    r"""Returns the states of a stage of so many steps."""
    row, classes = config.states, problem.space.classes
    # Conditions as often as they are among samples: those of a buffer would drift.
    asked = classes * max(1, 1_024 // classes) if classes else 1
    return Mixture(
        forward,
        Shares(row.teacher, row.student, round(row.start * steps), round(row.ramp * steps)),
        path,
        tuple(problem.space.shape),
        problem.data.conditions(asked, torch.Generator().manual_seed(0)),
        batch=config.batch,
        replay=row.replay,
        refill=max(row.refill, len(path.stops)),
    )


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains as the base method does, with its objectives' states from the mixture."""
    base, row = based(config, problem.settings), config.states
    mixed = partial(mixture, problem, config)
    threshold = partial(thresholded, bound=row.bound or math.inf, quantile=row.quantile)

    def halving(calls: int) -> Callable[..., ProgressiveDistillation]:
        rows = progressive.plan(base, not problem.networks.starts_as_teacher)

        def make(
            teacher: Denoiser,
            network: Denoiser,
            grid: Tensor,
            **named: Any,  # noqa: ANN401 (those of progressive distillation)
        ) -> ProgressiveDistillation:
            stride = named["stride"]
            if stride > 1:  # one that learns the teacher's answers has no path worth a state
                steps = next(steps for n, by, _, steps in rows if (n, by) == (calls, stride))
                stops = torch.arange(calls) * stride
                path = Path(grid[: int(stops[-1]) + 1], stops)
                named |= {"states": mixed(progressive.noised, path, steps)}
            return ProgressiveDistillation(reflected(teacher, row), network, grid, **named)

        return make

    def matching(  # the arguments of a base's objective, which are handed on
        teacher: Denoiser,
        network: ConsistencyDenoiser,
        **named: Any,  # noqa: ANN401
    ) -> ConsistencyDistillation:
        plain = ConsistencyDistillation(teacher, network, **named)
        student = plain.student_of(network)
        assert isinstance(student, FewStep)
        asked = torch.tensor(student.sigmas, dtype=plain.grid.dtype)
        places = (plain.grid[:, None] - asked).abs().argmin(0)
        path = Path(plain.grid[: int(places[-1]) + 1], places, places)
        named |= {"states": mixed(consistency.noised, path, config.steps)}
        return ImitatedConsistency(reflected(teacher, row), network, threshold=threshold, **named)

    def moving(
        teacher: Denoiser,
        student: Generator,
        *rest: Any,  # noqa: ANN401
        **named: Any,  # noqa: ANN401
    ) -> ImitatedDMD2:
        if not isinstance(student, FewStep) or student.calls < 2 or student.sigmas[0] == math.inf:
            raise ConfigError(
                "ddil on dmd2 needs a student of two calls or more, the first at a finite level: "
                "give --calls 4"
            )
        path, steps = path_between(student.sigmas), config.steps * config.ratio
        named |= {"states": mixed(noised_call, path, steps), "threshold": threshold}
        return ImitatedDMD2(reflected(teacher, row), student, *rest, **named)

    if config.base == "progressive":
        return (yield from progressive.recipe(problem, base, context, halving))
    if config.base == "consistency":
        return (yield from consistency.recipe(problem, base, context, matching))
    return (yield from dmd2.recipe(problem, base, context, moving))


GARREPALLI = """@article{garrepalli2024ddil,
  title   = {{DDIL}: Diversity Enhancing Diffusion Distillation with Imitation Learning},
  author  = {Garrepalli, Risheek and Mahajan, Shweta and Hayat, Munawar and Porikli, Fatih},
  journal = {arXiv preprint arXiv:2410.11971},
  year    = {2024}
}"""

CURES: Mapping[str, str] = {
    "collapse": "a smaller --states.student: noised data hold the modes",
    "worsening": "lower --lr, or raise --states.replay",
}

MIXTURE = Settings(steps=20_000, batch=256, lr=5e-3, clip=1.0)
# Without a threshold, which draws samples together, see docs/methods/ddil.md.
DIGITS = Settings(
    steps=2_000,
    batch=128,
    lr=5e-4,
    beta_2=0.99,
    warmup=50,
    clip=1.0,
    grid=8,
    solver="heun",
    sampling_steps=2,
)
PRESETS = {
    "mog40-ddil": Preset("DDIL on progressive distillation, four calls", MOG40, MIXTURE),
    "digits-ddil": Preset(
        "8x8 real images by class; DDIL on progressive, two calls", DigitsSettings(), DIGITS
    ),
}

SOME = StateSettings(teacher=0.3, student=0.5, start=0.0, ramp=0.0, replay=2, refill=1, bound=2.0)
TINY = Settings(steps=12, batch=8, grid=4, sampling_steps=2, states=SOME)
FAKE = replace(
    TINY, base="dmd2", ratio=2, levels=replace(COARSE_TO_FINE, sigma_max=5.0, start_min=1.0)
)

METHOD = Method(
    name="ddil",
    title="DDIL",
    year=2024,
    address="https://arxiv.org/abs/2410.11971",
    family="trajectory",
    networks=("student",),
    needs=Needs(data=True),
    settings=Settings,
    recipe=recipe,
    bibtex={"ddil": GARREPALLI, **{k: v for m in BASES.values() for k, v in m.bibtex.items()}},
    cites_by=lambda config: ("ddil", *BASES[config.base].citations(based(config, None))),
    presets=PRESETS,
    cures=CURES,
    arms={"mog40": {"ddil": Arm("DDIL on progressive, 4 calls (with data)", MIXTURE)}},
    examples={
        "ddil": Example(TINY),
        "ddil-consistency": Example(replace(TINY, base="consistency"), classes=2),
        "ddil-dmd2": Example(replace(FAKE, adversarial_weight=3e-3), student="few_step"),
    },
)
