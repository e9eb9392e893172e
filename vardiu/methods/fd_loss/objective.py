r"""The distance of features, their memory, and the direction that each sample is pulled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ...data.batch import Batch
from ...denoisers.base import Denoiser
from ...functional.frechet import Moments, symmetric_root, transport
from ...functional.scores import surrogate
from ...metrics.sets import TrainingSpace
from ...students.base import Generator
from ...training.memory import Memory, Queue
from ...training.objective import Loss, Objective, Phase

__all__ = ["Average", "FDLoss", "Features", "Recent"]


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
        first = self.written.value % len(self.rows)
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
