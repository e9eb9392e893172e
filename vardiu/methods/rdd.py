r"""Relational diffusion distillation: progressive distillation, and relations of feature maps.

.. math:: \mathcal{L} = \lambda_P \mathcal{L}_P + \lambda_F \, \mathrm{KL}_F + \lambda_R \,
    \mathrm{KL}_R + \lambda_M \, \mathrm{KL}_M

:math:`\mathcal{L}_P` is progressive distillation's. The other three compare maps :math:`M =
\varphi(x)` of a frozen classifier, of the student's estimate with those of its target: pooled
features; each position of each image with those of every image of the batch; and each position
with a memory of the teacher's earlier ones, of the student's through a head that is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..errors import ConfigError
from ..functional.relational import (
    feature_divergence,
    pair_relations,
    positions,
    queue_relations,
)
from ..samplers.lessons import Lesson
from ..settings.fields import DigitsSettings, NetworkOptimizer
from ..settings.grounds import MOG40
from ..training.frozen import Frozen
from ..training.memory import Queue
from ..training.objective import Loss, Phase
from ..training.stage import Context, Recipe
from . import progressive
from .base import Arm, Example, Method, Needs, Preset
from .progressive import ProgressiveDistillation

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["METHOD", "RelationalDistillation", "Settings", "Terms", "recipe"]


class Related(NamedTuple):
    r"""A lesson, and what its target looks like to the classifier."""

    lesson: Lesson
    maps: Tensor
    """The target's positions of unit length, `(B, A, C)`."""
    pooled: Tensor
    """Its features, `(B, C)`."""
    coming: Tensor
    """Some of its positions, drawn for the memory, `(N, C)`."""
    kept: Tensor
    """What positions are compared with: rows of the memory, as it is with these, `(K, C)`."""


@dataclass(frozen=True)
class Terms:
    r"""The weights and the temperatures of the terms, as in `Settings`."""

    pixel_weight: float = 0.0
    feature_weight: float = 1.0
    relation_weight: float = 1.0
    memory_weight: float = 0.1
    feature_temperature: float = 0.9
    relation_temperature: float = 1.0
    memory_temperature: float = 0.1


class RelationalDistillation(ProgressiveDistillation):
    r"""One stage of progressive distillation with relations.

    Needs:
        As progressive distillation; two evaluations of the classifier a row, one with a gradient.

    Deviations:
        - The memory is a ring buffer: in the released code the block that reaches its end
          overwrites the last rows, recent ones among them.
        - Places of the memory that are empty are left out; there they hold noise.
        - A row of the memory is a position of an image; there it mixes several.
        - The head's rate decays as the student's, and its normalisation is of the batch at hand.
        - Of points, which have one position, `group` make up an image.

    References:
        | Relational Diffusion Distillation for Efficient Image Generation (Feng et al., 2024)
        | https://arxiv.org/abs/2410.07679

    Arguments:
        teacher: The teacher of this stage.
        network: The denoiser to train.
        grid: The levels of the teacher's steps.
        classifier: The maps :math:`\varphi`, `(B, C, *)`, or features of points, `(B, C)`.
        channels: The number :math:`C`.
        terms: The weights and temperatures.
        queue: The rows of the memory.
        contrast: The rows that positions are compared with, at evenly spaced places.
        enqueue: The positions of a step that are kept.
        group: The points that make up an image.
        options: See `ProgressiveDistillation`.
    """

    def __init__(
        self,
        teacher: Denoiser,
        network: Denoiser,
        grid: Tensor,
        *,
        classifier: nn.Module,
        channels: int,
        terms: Terms,
        queue: int = 20_000,
        contrast: int = 4_096,
        enqueue: int = 128,
        group: int = 16,
        **options: Any,  # noqa: ANN401 (those of progressive distillation)
    ) -> None:
        super().__init__(teacher, network, grid, **options)
        self.classifier, self.terms, self.group = Frozen(classifier), terms, group
        self.contrast, self.enqueue = contrast, enqueue
        if terms.memory_weight:
            self.memory = Queue(queue, (channels,), "coming")
            self.head = nn.Sequential(
                nn.Linear(channels, channels, bias=False),
                nn.BatchNorm1d(channels, track_running_stats=False),
                nn.ReLU(),
                nn.Linear(channels, channels, bias=False),
            )

    @property
    def phases(self) -> tuple[Phase, ...]:
        names = ("generator", "head") if self.terms.memory_weight else ("generator",)
        return (Phase("relational", self.loss, updates=names),)

    @property
    def row_coupling(self) -> str:
        related = self.terms.relation_weight or self.terms.memory_weight
        return "each row is compared with others of its batch" if related else ""

    def seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns maps of samples, `(B, C, A)`, and their pooled features, `(B, C)`; of points
        maps of groups of them, and the features of each."""
        maps = self.classifier(x)
        if maps.ndim > 2:
            return maps.flatten(2), maps.flatten(2).mean(2)
        return maps.view(-1, self.group, maps.shape[1]).transpose(1, 2), maps

    def prepare(self, batch: Batch, step: int) -> Related:
        lesson = super().prepare(batch, step)
        maps, pooled = self.seen(lesson.target)
        found = positions(maps)
        if not self.terms.memory_weight:
            return Related(lesson, found, pooled, pooled[:0], pooled[:0])
        rows = found.flatten(0, 1)
        order = self.streams.uniform(
            "positions kept", len(rows), device=rows.device, dtype=rows.dtype
        ).argsort()
        coming = rows[order[: self.enqueue]]
        return Related(lesson, found, pooled, coming, self.memory.spread(self.contrast, coming))

    def loss(self, drawn: Related, step: int) -> Loss:
        lesson, terms = drawn.lesson, self.terms
        denoised = self.denoiser(lesson.x_t, lesson.sigma, **lesson.cond)
        pixel = self.taught(denoised, lesson)
        maps, pooled = self.seen(denoised)
        found, parts = positions(maps), {"pixel": (terms.pixel_weight, pixel.value)}
        if terms.feature_weight:
            value = feature_divergence(pooled, drawn.pooled, terms.feature_temperature)
            parts["feature"] = terms.feature_weight, value
        if terms.relation_weight:
            value = pair_relations(found, drawn.maps, terms.relation_temperature)
            parts["relation"] = terms.relation_weight, value
        if terms.memory_weight:
            rows = nn.functional.normalize(self.head(maps.transpose(1, 2).flatten(0, 1)), dim=1)
            taught, t = drawn.maps.flatten(0, 1), terms.memory_temperature
            parts["memory"] = terms.memory_weight, queue_relations(rows, taught, drawn.kept, t)
        total = sum((w * value for w, value in parts.values() if w), pixel.value.new_zeros(()))
        info = {name: value.detach() for name, (_, value) in parts.items()}
        return Loss(total, {**pixel.info, **info})


@dataclass(frozen=True, kw_only=True)
class Settings(progressive.Settings):
    r"""Relational diffusion distillation; `steps` is the number of updates of all stages."""

    relational_calls: int = 4
    """The stages of a student of at most so many calls learn relations, earlier ones do not."""
    tap: str = ""
    """The part of the classifier whose maps are compared; empty for that of the problem's own."""
    pixel_weight: float = 0.0
    """The weight of progressive distillation's own loss, beside; the paper has none."""
    feature_weight: float = 1.0
    """The weight of the divergence of pooled features."""
    relation_weight: float = 1.0
    """The weight of the relations within a batch."""
    memory_weight: float = 0.1
    """The weight of the relations to a memory."""
    feature_temperature: float = 0.9
    """The teacher's temperature of pooled features; below 1 it sharpens."""
    relation_temperature: float = 1.0
    """The temperature of the relations within a batch."""
    memory_temperature: float = 0.1
    """The temperature of the relations to the memory."""
    queue: int = 20_000
    """The positions that the memory holds."""
    contrast: int = 4_096
    """The positions of the memory, evenly spaced, that those of a batch are compared with."""
    enqueue: int = 128
    """The positions of a step that the memory takes."""
    group: int = 16
    """The points that make up an image, where samples are points."""
    head_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How the head on the student's positions is updated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampling_steps > self.relational_calls:
            raise ConfigError(
                f"relational_calls must be at least sampling_steps ({self.sampling_steps}), or no "
                f"stage learns relations, got {self.relational_calls}"
            )
        if not any((self.feature_weight, self.relation_weight, self.memory_weight)):
            raise ConfigError(
                "one of feature_weight, relation_weight and memory_weight must be positive: "
                "without them it is --method progressive"
            )
        if self.enqueue > self.queue:
            raise ConfigError(
                f"enqueue must be at most queue ({self.queue}), the rows of the memory, got "
                f"{self.enqueue}"
            )


def terms_of(config: Settings) -> Terms:
    r"""Returns what settings say of the terms."""
    return Terms(**{name: getattr(config, name) for name in Terms.__dataclass_fields__})


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Halves as progressive distillation, and adds relations to the last stages."""
    maps = problem.scores.feature_maps(config.tap)
    with torch.no_grad():
        tried = maps(torch.zeros(2, *problem.space.shape))
    if tried.ndim == 2 and config.batch % config.group:
        raise ConfigError(
            f"batch must be a multiple of group ({config.group}), the points that make up an "
            f"image, got {config.batch}"
        )
    related = partial(
        RelationalDistillation,
        classifier=maps,
        channels=tried.shape[1],
        terms=terms_of(config),
        queue=config.queue,
        contrast=config.contrast,
        enqueue=config.enqueue,
        group=config.group,
    )

    def make(
        teacher: Denoiser, network: Denoiser, grid: Tensor, *, stride: int, **options: Any
    ) -> ProgressiveDistillation:
        late = (len(grid) - 1) // stride <= config.relational_calls
        kind = related if late else ProgressiveDistillation
        return kind(teacher, network, grid, stride=stride, **options)

    return (yield from progressive.recipe(problem, config, context, make))


FENG = """@inproceedings{feng2024relational,
  title     = {Relational Diffusion Distillation for Efficient Image Generation},
  author    = {Feng and Yang and An and Huang and Diao and Wang and Xu},
  booktitle = {ACM International Conference on Multimedia},
  year      = {2024}
}"""
