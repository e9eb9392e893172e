r"""FD-loss: the Fréchet distance of features as a loss, with the moments of a long memory.

.. math:: \mathrm{FD} = \| m - m_r \|^2 + \mathrm{tr} \left( C + C_r - 2 (C_r^{1/2} C
    \, C_r^{1/2})^{1/2} \right), \qquad h = \varphi(g(z))

The distance needs the moments of tens of thousands of samples, a step affords hundreds. Their
*values* are a memory's, their *gradient* is that of the batch alone: each feature is pulled to its
image under the optimal transport of the two Gaussians,

.. math:: \frac{\partial \mathrm{FD}}{\partial h_i} \propto (m - m_r) + (I - T)(h_i - m), \qquad
    T = C_r^{1/2} (C_r^{1/2} C \, C_r^{1/2})^{-1/2} C_r^{1/2}

A student that is trained on a distance is not judged by it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ...errors import ConfigError
from ...functional.frechet import Moments
from ...settings import build
from ...settings.fields import DigitsSettings, MemorySettings, OnPairs, PairSettings
from ...settings.grounds import DIGIT_PAIRS, MOG40
from ...students.base import Generator
from ...training.stage import Context, Recipe
from .. import regression
from ..base import Arm, Example, Method, Needs, Preset

if TYPE_CHECKING:
    from ...problems.base import Problem
from .objective import Average, FDLoss, Features, Recent

__all__ = ["Average", "FDLoss", "Features", "METHOD", "Recent", "Settings", "recipe"]


PORTION = 1024  # samples whose features are taken at once


@dataclass(frozen=True, kw_only=True)
class Settings(OnPairs):
    r"""FD-loss."""

    memory: MemorySettings = MemorySettings()
    """What is remembered of earlier samples."""
    label_weight: float = 1.0
    """Of a class asked for, what its one-hot vector among the features is multiplied by; 0 leaves
    it out, and the class then has no gradient."""
    pairs: PairSettings = PairSettings()
    """A regression on the teacher's pairs: the student that is trained on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory.kind == "queue" and self.memory.rows < self.batch:
            raise ConfigError(
                f"memory.rows must be at least a batch ({self.batch}) of a queue, got "
                f"{self.memory.rows}: raise --memory.rows"
            )


def features_of(problem: Problem, config: Settings) -> tuple[Features, Moments]:
    r"""Returns the features that a problem's students may be trained in, and real moments.

    Raises:
        ConfigError: There are no features beside those that judge.
    """
    ground = problem.scores.training_ground()
    if ground is None:
        raise ConfigError(
            f"fd_loss has no features to train in: the problem {problem.settings.name!r} has none "
            "beside those that judge its students; give another --method"
        )
    known = ground.label is not None and config.label_weight > 0
    classes = problem.space.classes if known else 0
    features = Features(ground.space, problem.space.decode, classes, config.label_weight)
    cond = {} if ground.label is None else {"label": ground.label}
    return features, Moments.of(features.joined(ground.space(ground.real), cond))


def filled_memory(
    problem: Problem, student: Generator, features: Features, config: Settings, context: Context
) -> Average | Recent:
    r"""Returns a memory of samples of the student as it is."""
    row, found = config.memory, []
    random = torch.Generator().manual_seed(context.seed + 31)
    twin = copy.deepcopy(student).to(context.device)
    x, cond = problem.student_source(twin, measured=True)(row.rows, random)
    for rows in torch.arange(row.rows).split(PORTION):
        with torch.no_grad():
            found.append(features(x[rows], {name: value[rows] for name, value in cond.items()}))
    h = torch.cat(found)
    size = h.shape[1]
    memory = Average(size, row.decay) if row.kind == "ema" else Recent(row.rows, size)
    memory.fill(h)
    return memory


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Trains the student of a regression on pairs, or a fresh one, on the distance."""
    features, real = features_of(problem, config)
    student = problem.networks.student()
    student, _ = yield from regression.train_on_pairs(
        problem, student, config.pairs, config, context
    )
    memory = filled_memory(problem, student, features, config, context)
    objective = FDLoss(problem.known_teacher, student, features, real, memory)
    batches = problem.data.free(config.batch, context.seed, shares=True)
    return (yield build.last_stage("fd_loss", objective, batches, config)).network


YANG = """@article{yang2026fdloss,
  title   = {Representation {Fr{\\'e}chet} Loss for Visual Generation},
  author  = {Yang and Geng and Ju and Tian and Wang},
  journal = {arXiv preprint arXiv:2604.28190},
  year    = {2026}
}"""


MIXTURE = Settings(
    steps=4_000,
    batch=512,
    lr=2e-3,
    beta_2=0.99,
    memory=MemorySettings(decay=0.95, rows=20_000),
)


IMAGES = Settings(
    steps=1_000,
    batch=256,
    lr=1e-4,
    warmup=50,
    beta_2=0.95,
    halflife=17_700.0,
    memory=MemorySettings(decay=0.98),
    pairs=DIGIT_PAIRS,
)


PRESETS = {
    "mog40-fd-loss": Preset("FD-loss on random cosines, with data; no teacher", MOG40, MIXTURE),
    "digits-fd-loss": Preset(
        "8x8 real images by class; pairs, then FD-loss on random filters", DigitsSettings(), IMAGES
    ),
}


ARMS = {
    "mog40": {"fd-loss": Arm("FD-loss, data, trained on FD", MIXTURE)},
    "digits": {"fd-loss": Arm("FD-loss after pairs, trained on FD", IMAGES)},
}


TINY = Settings(steps=10, batch=8, memory=MemorySettings(decay=0.9, rows=64))


QUEUE = replace(TINY, memory=MemorySettings(kind="queue", rows=64))


METHOD = Method(
    name="fd_loss",
    title="FD-loss",
    year=2026,
    address="https://arxiv.org/abs/2604.28190",
    networks=("student",),
    needs=Needs(data=True, pairs=True),
    settings=Settings,
    recipe=recipe,
    bibtex={"fd_loss": YANG, **regression.METHOD.bibtex},
    cites_by=lambda config: ("fd_loss", *(["luhman"] if config.pairs.pairs else [])),
    presets=PRESETS,
    arms=ARMS,
    cures={
        "collapse": "another --method: moments of features do not see every mode; or start from "
        "more --pairs.pairs",
        "worsening": "fewer --steps, a lower --lr, or a smaller --memory.decay",
        "divergence": "lower --lr, or a smaller --memory.decay: the memory lags",
    },
    examples={
        "fd-loss": Example(TINY),
        "fd-loss-queue": Example(QUEUE),
        "fd-loss-classes": Example(TINY, classes=2),
    },
    trained_on="the Fréchet distance",
)
