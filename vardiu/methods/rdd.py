r"""Relational diffusion distillation: progressive distillation, and relations of feature maps.

.. math:: \mathcal{L} = \lambda_P \mathcal{L}_P + \lambda_F \, \mathrm{KL}_F + \lambda_R \,
    \mathrm{KL}_R + \lambda_M \, \mathrm{KL}_M

:math:`\mathcal{L}_P` is progressive distillation's. The other three compare maps :math:`M =
\varphi(x)` of a frozen classifier, of the student's estimate with those of its target: pooled
features; each position of each image with those of every image of the batch; and each position
with a memory of the teacher's earlier ones, of the student's through a head that is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..errors import ConfigError
from ..functional import relational
from ..functional.relational import positions
from ..nn.projection import Projection
from ..samplers.lessons import Lesson
from ..settings.fields import DigitsSettings, NetworkOptimizer, RelationSettings
from ..settings.grounds import MOG40
from ..training.frozen import Frozen
from ..training.memory import Queue
from ..training.objective import Loss, Phase, denoiser_of
from ..training.stage import Context, Recipe
from . import progressive
from .base import Arm, Example, Method, Needs, Preset
from .progressive import ProgressiveDistillation

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["METHOD", "RelationalDistillation", "Settings", "recipe"]


class Related(NamedTuple):
    r"""A lesson, and what its target looks like to the classifier."""

    lesson: Lesson
    maps: Tensor
    """The target's positions of unit length, `(B, A, C)`."""
    pooled: Tensor
    """The target's pooled features, `(B, C)`."""
    coming: Tensor
    """Some of its positions, drawn for the memory, `(N, C)`."""
    kept: Tensor
    """What positions are compared with: rows of the memory, as it is with these, `(K, C)`."""


class RelationalDistillation(ProgressiveDistillation):
    r"""One stage of progressive distillation with relations.

    Needs:
        As progressive distillation; two evaluations of the classifier a row, one with a gradient.

    Deviations:
        - The memory is a ring buffer of positions, and its empty places are left out: in the
          released code they hold noise, rows mix positions, and the last block overwrites others.
        - The head's rate decays as the student's, and its normalisation is of the batch at hand.
        - Of points, of one position each, `group` make up an image.

    References:
        | Relational Diffusion Distillation for Efficient Image Generation (Feng et al., 2024)
        | https://arxiv.org/abs/2410.07679

    Arguments:
        teacher: The teacher of this stage.
        network: The denoiser to train.
        grid: The levels of the teacher's steps.
        classifier: The maps :math:`\varphi`, `(B, C, *)`, or features of points, `(B, C)`.
        channels: The number :math:`C`.
        relations: The weights and the temperatures of the terms, and the sizes.
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
        relations: RelationSettings,
        **options: Any,  # noqa: ANN401 (those of progressive distillation)
    ) -> None:
        super().__init__(teacher, network, grid, **options)
        self.classifier, self.relations = Frozen(classifier), relations
        if relations.memory_weight:
            self.memory = Queue(relations.queue, (channels,), "coming")
            self.head = Projection(channels)

    @property
    def phases(self) -> tuple[Phase, ...]:
        names = ("generator", "head") if self.relations.memory_weight else ("generator",)
        return (Phase("relational", self.relational_loss, updates=names),)

    @property
    def row_coupling(self) -> str:
        related = self.relations.pair_weight or self.relations.memory_weight
        return "each row is compared with others" if related else super().row_coupling

    def seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns maps of samples, `(B, C, A)`, and their pooled features, `(B, C)`; of points
        maps of groups of them, and the features of each."""
        maps = self.classifier(x)
        if maps.ndim > 2:
            return maps.flatten(2), maps.flatten(2).mean(2)
        group = math.gcd(len(x), self.relations.group)
        return maps.view(-1, group, maps.shape[1]).transpose(1, 2), maps

    def prepare(self, batch: Batch, step: int) -> Related:
        lesson, row = super().prepare(batch, step), self.relations
        maps, pooled = self.seen(lesson.target)
        found = positions(maps)
        if not row.memory_weight:
            return Related(lesson, found, pooled, pooled[:0], pooled[:0])
        rows = found.flatten(0, 1)
        u = self.streams.uniform("kept", len(rows), device=rows.device, dtype=rows.dtype)
        coming = rows[u.argsort()[: row.enqueue]]
        return Related(lesson, found, pooled, coming, self.memory.spread(row.contrast, coming))

    def relational_loss(self, drawn: Related, step: int) -> Loss:
        lesson, row = drawn.lesson, self.relations
        denoised = denoiser_of(self)(lesson.x_t, lesson.sigma, **lesson.cond)
        beside = self.taught(denoised, lesson)
        maps, pooled = self.seen(denoised)
        terms = {"pixel": (row.pixel_weight, beside.value)} if row.pixel_weight else {}
        if row.feature_weight:
            value = relational.feature_divergence(pooled, drawn.pooled, row.feature_temperature)
            terms["feature"] = row.feature_weight, value
        if row.pair_weight:
            parts = zip(positions(maps).split(row.share), drawn.maps.split(row.share), strict=True)
            t = row.pair_temperature
            found = [len(a) * relational.pair_relations(a, b, t) for a, b in parts]
            terms["pair"] = row.pair_weight, torch.stack(found).sum() / len(maps)
        if row.memory_weight:
            rows = nn.functional.normalize(self.head(maps.transpose(1, 2).flatten(0, 1)), dim=1)
            value = relational.queue_relations(
                rows, drawn.maps.flatten(0, 1), drawn.kept, row.memory_temperature
            )
            terms["memory"] = row.memory_weight, value
        info = {name: value.detach() for name, (_, value) in terms.items()}
        total = torch.stack([weight * value for weight, value in terms.values()]).sum()
        return Loss(total, {**beside.info, **info})


@dataclass(frozen=True, kw_only=True)
class Settings(progressive.Settings):
    r"""Relational diffusion distillation; `steps` is the number of updates of all stages."""

    relations: RelationSettings = RelationSettings()
    """What is learned of the feature maps of a classifier."""
    head_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How the head on the student's positions is updated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampling_steps > (calls := self.relations.calls):
            raise ConfigError(
                f"relations.calls must be at least sampling_steps ({self.sampling_steps}), or no "
                f"stage learns relations, got {calls}"
            )


def recipe(problem: Problem, config: Settings, context: Context) -> Recipe:
    r"""Halves as progressive distillation, and adds relations to the last stages."""
    row = config.relations
    maps = problem.scores.feature_maps(row.tap)
    with torch.no_grad():
        tried = maps(torch.zeros(2, *problem.space.shape))
    if tried.ndim == 2 and config.batch % row.group:
        raise ConfigError(
            f"batch must be a multiple of relations.group ({row.group}), got {config.batch}"
        )
    told: dict[str, Any] = {"classifier": maps, "channels": tried.shape[1], "relations": row}
    related: Callable[..., ProgressiveDistillation] = partial(RelationalDistillation, **told)

    def kind(calls: int) -> Callable[..., ProgressiveDistillation]:
        return related if calls <= row.calls else ProgressiveDistillation

    return (yield from progressive.recipe(problem, config, context, kind))


FENG = """@inproceedings{feng2024relational,
  title     = {Relational Diffusion Distillation for Efficient Image Generation},
  author    = {Feng and Yang and An and Huang and Diao and Wang and Xu},
  booktitle = {ACM International Conference on Multimedia},
  year      = {2024}
}"""

CURES: Mapping[str, str] = {
    **progressive.METHOD.cures,
    "divergence": "lower --lr, or raise --relations.pixel-weight, which holds an image",
}

# Random cosines of points are no logits: progressive distillation's own loss stays.
BESIDE = RelationSettings(
    pixel_weight=1.0, feature_weight=0.1, pair_weight=0.1, queue=8_192, contrast=512
)
MIXTURE = Settings(**vars(progressive.MIXTURE), relations=BESIDE)
# The other terms brought nothing, and students of four calls need no help.
MAPS = RelationSettings(calls=2, pixel_weight=1.0, pair_weight=0.0, memory_weight=0.0)
IMAGES = Settings(**vars(progressive.DIGITS), relations=MAPS)
PRESETS = {
    "mog40-rdd": Preset("progressive distillation, relations of random cosines", MOG40, MIXTURE),
    "digits-rdd": Preset(
        "8x8 real images by class; progressive, features of maps", DigitsSettings(), IMAGES
    ),
}

FEW = RelationSettings(calls=1, pixel_weight=0.5, queue=64, contrast=32, enqueue=6, group=2)
TINY = Settings(steps=12, batch=8, grid=4, relations=FEW)
PLAIN = replace(TINY, relations=replace(FEW, memory_weight=0.0))

METHOD = Method(
    name="rdd",
    title="Relational diffusion distillation",
    year=2024,
    address="https://arxiv.org/abs/2410.07679",
    family="trajectory",
    networks=("student", "head"),
    needs=Needs(data=True),
    settings=Settings,
    recipe=recipe,
    bibtex={"rdd": FENG, **progressive.METHOD.bibtex},
    presets=PRESETS,
    cures=CURES,
    arms={
        "mog40": {"rdd": Arm("Relational distillation (with data)", MIXTURE)},
        "digits": {"rdd": Arm("Relational distillation (with data)", IMAGES)},
    },
    examples={
        "rdd": Example(TINY),
        "rdd-classes": Example(PLAIN, classes=2),
    },
)
