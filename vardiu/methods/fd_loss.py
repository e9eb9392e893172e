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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..errors import ConfigError
from ..functional.frechet import Moments, symmetric_root, transport
from ..functional.scores import surrogate
from ..metrics.sets import TrainingSpace
from ..settings import build
from ..settings.fields import DigitsSettings, MemorySettings, PairSettings, Training
from ..settings.grounds import MOG40
from ..students.base import Generator
from ..training.memory import Memory, Queue
from ..training.objective import Loss, Objective, Phase
from ..training.stage import Context, Recipe, Stage
from . import regression
from .base import Arm, Example, Method, Needs, Preset

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["Average", "FDLoss", "Features", "METHOD", "Recent", "Settings", "recipe"]


PORTION = 1024  # samples whose features are taken at once


class Features:
    r"""The features of samples, and beside them the classes that were asked for.

    Arguments:
        space: The features of images, or of points.
        decode: From samples to what they stand for, see `Space.decode`.
        classes: The number of classes; zero to leave them out.
        weight: What their one-hot vectors are multiplied by.
    """

    def __init__(
        self,
        space: TrainingSpace,
        decode: Callable[[Tensor], Tensor],
        classes: int = 0,
        weight: float = 1.0,
    ) -> None:
        self.space, self.decode, self.classes, self.weight = space, decode, classes, weight

    def __call__(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        r"""Returns the features of samples with their gradient, `(B, K)`, in float64."""
        return self.joined(self.space.of(self.decode(x)), cond)

    def joined(self, h: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        r"""Returns features with the classes beside them, in float64."""
        h = h.double()
        if not self.classes:
            return h
        rows = torch.nn.functional.one_hot(cond["label"], self.classes)
        return torch.cat([h, self.weight * rows.to(h)], dim=1)


class Drawn(NamedTuple):
    r"""Latents, and the features of what the student makes of them, without a graph."""

    z: Tensor
    h: Tensor
    batch: Batch


class Average(Memory):
    r"""A moving average of the first two moments.

    .. math:: m = \beta \, m_- + (1 - \beta) \, \bar h, \qquad M = \beta M_- + (1 - \beta) \,
        \overline{h h^\top}, \qquad C = M - m m^\top

    Arguments:
        size: The number of features :math:`K`.
        decay: The rate :math:`\beta`.
    """

    mean: Tensor
    second: Tensor

    def __init__(self, size: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("second", torch.zeros(size, size, dtype=torch.float64))

    def _moved(self, h: Tensor) -> tuple[Tensor, Tensor]:
        share = 1 - self.decay
        mean = self.mean.double().lerp(h.mean(0), share)
        return mean, self.second.double().lerp(h.T @ h / len(h), share)

    def blended(self, h: Tensor) -> Moments:
        mean, second = self._moved(h)
        return Moments(mean, second - mean.outer(mean))

    def fill(self, h: Tensor) -> None:
        self.mean.copy_(h.mean(0))
        self.second.copy_(h.T @ h / len(h))

    def follow(self, objective: Objective, drawn: list[Drawn], step: int) -> None:
        mean, second = self._moved(torch.cat([part.h for part in drawn]))
        self.mean.copy_(mean)
        self.second.copy_(second)


class Recent(Queue):
    r"""The latest features themselves, of which a batch takes the place of the oldest.

    Arguments:
        rows: The number of rows; at least those of a batch.
        size: The number of features.
    """

    def __init__(self, rows: int, size: int) -> None:
        super().__init__(rows, (size,), "h")

    def blended(self, h: Tensor) -> Moments:
        first = int(self.written) % len(self.rows)
        places = (torch.arange(len(h), device=h.device) + first) % len(self.rows)
        return Moments.of(self.rows.double().index_copy(0, places, h))

    def fill(self, h: Tensor) -> None:
        self.push(h)


class FDLoss(Objective):
    r"""The Fréchet distance of features.

    .. math:: \mathcal{L} = \frac{\mathrm{FD}}{\mathrm{sg} [\mathrm{FD}] + c}

    whose gradient is that of :math:`\log (\mathrm{FD} + c)`, taken with respect to the moments of
    the whole memory: the factor that a batch's share of it would be is left out, as an optimiser
    like Adam does not see it.

    Needs:
        Clean data, of which the moments alone are kept; no call of the teacher.

    Deviations:
        - One space of features.
        - The class, as a one-hot vector, can be a part of the features: distances of features
          alone give the class no gradient.
        - Each of several processes has a memory of its own.

    References:
        | Representation Fréchet Loss for Visual Generation (Yang et al., 2026)
        | https://arxiv.org/abs/2604.28190

    Arguments:
        teacher: The teacher, whose student is trained on; it is not called.
        generator: The student.
        features: The map :math:`\varphi`.
        real: The moments of real features.
        memory: What is remembered of the student's, filled.
    """

    real_mean: Tensor
    real_trace: Tensor
    real_root: Tensor

    # The constant c.
    SOFTNESS = 0.01

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        features: Features,
        real: Moments,
        memory: Average | Recent,
    ) -> None:
        super().__init__(teacher, generator)
        self.features, self.memory = features, memory
        # Known to whoever made the objective, and in no checkpoint.
        self.register_buffer("real_mean", real.mean, persistent=False)
        self.register_buffer("real_trace", real.covariance.trace(), persistent=False)
        self.register_buffer("real_root", symmetric_root(real.covariance), persistent=False)

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("student", self.loss, updates=("generator",)),)

    @property
    def row_coupling(self) -> str:
        return "features are moved by the moments of the whole batch"

    def prepare(self, batch: Batch, step: int) -> Drawn:
        z = self.latents(batch.rows)
        return Drawn(z, self.features(self.generator(z, **batch.cond), batch.cond), batch)

    def loss(self, drawn: Drawn, step: int) -> Loss:
        x = self.generator(drawn.z, **drawn.batch.cond)
        h = self.features(x, drawn.batch.cond)
        with torch.no_grad():
            distance, direction = self.pull(h, self.memory.blended(drawn.h))
            scale = 1 / (distance + self.SOFTNESS)
        moved = surrogate(h, scale * direction).mean()
        value = distance * scale + moved - moved.detach()
        return Loss(value.to(x.dtype), {"trained_distance": distance.to(x.dtype)})

    def pull(self, h: Tensor, moments: Moments) -> tuple[Tensor, Tensor]:
        r"""Returns the distance, and the gradient of the distance of a whole set of features by
        each of them, times their number.

        Arguments:
            h: Features, with shape :math:`(B, K)`.
            moments: Those of the set that they are of.
        """
        mean, covariance = moments
        root = self.real_root.double()
        matrix, trace = transport(root, covariance)
        gap = mean - self.real_mean.double()
        distance = gap.square().sum() + covariance.trace() + self.real_trace.double() - 2 * trace
        centred = h - mean
        return distance, 2 * (gap + centred - centred @ matrix)


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
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
    x, cond = problem.student_source(twin)(row.rows, random)
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
    batches = problem.data.free(config.batch, context.seed)
    optimisation = build.optimisation(config)
    of = 2 if config.pairs.pairs else 1
    trained = yield Stage("fd_loss", objective, config.steps, batches, optimisation, of=of)
    return trained.network


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
    pairs=PairSettings(pairs=16_000),
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
