r"""What methods of consistency share: levels, neighbours, a target network, the loss, students.

.. math:: \mathcal{L} = \mathbb{E} \left[ \lambda \, d \big( f_\theta(x_t, t),
    f_{\theta^-}(x_{t'}, t') \big) \right], \qquad x_t = x_0 + t \varepsilon, \quad t' < t

A method says what :math:`x_{t'}` is: a step of a solver with the teacher, or the same noise at a
lower level.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..errors import ConfigError
from ..functional.distances import Distance, squared
from ..functional.tensors import expand_like
from ..samplers.trajectories import require_decreasing, trajectory
from ..settings.fields import Training
from ..students.base import Generator
from ..students.few_step import FewStep
from ..training.memory import Target
from ..training.objective import Loss, Objective, Phase, denoiser_of

__all__ = [
    "ConsistencySettings",
    "Distilled",
    "Neighbours",
    "SONG",
    "SelfConsistency",
]


class Neighbours(NamedTuple):
    r"""A state, its level, and what the target network makes of the state after it."""

    x_t: Tensor
    sigma: Tensor
    value: Tensor
    cond: Mapping[str, Tensor]
    lower: Tensor
    """The level of the state after it."""
    left: Tensor
    """The number of places from the level to the end of the grid."""


class SelfConsistency(Objective):
    r"""A consistency function and its target network, on the levels of a grid.

    Arguments:
        teacher: The teacher; none without.
        network: The consistency function to train.
        levels: The levels of the grid, decreasing, to the smallest level of the network.
        target_decay: The rate :math:`\mu` of the target network, or that of each step; 0 for a
            copy.
        distance: The distance :math:`d`.
        calls: The number of calls of the student.

    Raises:
        ValueError: The levels do not decrease, or do not end at the data.
    """

    grid: Tensor

    def __init__(
        self,
        teacher: Denoiser | None,
        network: Denoiser,
        levels: Tensor,
        target_decay: float | Callable[[int], float],
        distance: Distance = squared,
        calls: int = 1,
    ) -> None:
        super().__init__(teacher, network)
        require_decreasing(levels)
        if abs(levels[-1].item() / network.sigma_min - 1) > 1e-6:
            raise ValueError(
                f"levels must end at the data, {network.sigma_min:g}, the network's smallest "
                f"level, where its answer is its input: got {levels[-1].item():g}"
            )
        self.register_buffer("grid", levels, persistent=False)
        self.levels: list[float] = levels.tolist()  # on the host too
        self.distance, self.calls = distance, calls
        self.target = Target("generator", network, target_decay)

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (Phase("consistency", self.loss, updates=("generator",)),)

    def noised(self, batch: Batch, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns clean samples, noise, and the states at levels `(B,)`, each `(B, *)`."""
        x = batch.clean().to(self.like)
        noise = self.noise_like(x)
        return x, noise, x + expand_like(sigma, x) * noise

    def answer(
        self,
        network: nn.Module,
        x_t: Tensor,
        sigma: Tensor,
        left: Tensor,
        cond: Mapping[str, Tensor],
    ) -> Tensor:
        r"""Returns what a network, or its copy, has for the end of the trajectory, `(B, *)`.

        Arguments:
            network: The network.
            x_t: The states, `(B, *)`.
            sigma: Their levels, `(B,)`.
            left: The number of places that are left to the end of the grid, `(B,)`.
            cond: The conditions.
        """
        return self.bounded(x_t, left, network(x_t, sigma, **cond))

    def bounded(self, x_t: Tensor, left: Tensor, answer: Tensor) -> Tensor:
        r"""Returns the answer for states with so many places left to the end, `(B, *)`; the state
        itself where there are none. A network that is so by itself is left alone."""
        return answer

    def weighting(self, drawn: Neighbours) -> Tensor:
        r"""Returns the weight of each row, `(B,)`."""
        return torch.ones_like(drawn.sigma)

    def loss(self, drawn: Neighbours, step: int) -> Loss:
        ours = self.answer(denoiser_of(self), drawn.x_t, drawn.sigma, drawn.left, drawn.cond)
        difference = ours - drawn.value
        value = (self.weighting(drawn) * self.distance(difference)).mean()
        return Loss(value, {"squared_error": squared(difference).mean().detach()})

    @property
    def asked_at(self) -> list[float]:
        r"""The levels at which a student may ask its network, decreasing."""
        return self.levels[:-1]

    @property
    def floor(self) -> float:
        r"""The level of noise that the network's answers have themselves."""
        return denoiser_of(self).sigma_min

    def student_of(self, network: nn.Module) -> Generator:
        r"""Returns the student that asks a network at some levels, evenly from the largest."""
        assert isinstance(network, Denoiser)
        levels = self.asked_at
        return FewStep(network, levels[:1], floor=self.floor, grid=levels).with_calls(self.calls)


class Distilled(SelfConsistency):
    r"""A consistency function whose neighbours are a step of a solver of the teacher's equation.

    Arguments:
        correct: Whether the solver's step is Heun's; else it is Euler's, which is DDIM's.
    """

    correct: bool

    def stepped(
        self, x_t: Tensor, sigma: Tensor, lower: Tensor, cond: Mapping[str, Tensor]
    ) -> Tensor:
        r"""Returns the states at lower levels, `(B, *)`, by one step with the teacher."""
        levels = torch.stack([sigma, lower])
        _, x_next = trajectory(
            self.teacher,
            x_t,
            levels,
            correct=self.correct,
            eta=0.0,
            noise=None,
            guide=None,
            arrives=False,
            **cond,
        )
        return x_next


@dataclass(frozen=True, kw_only=True)
class ConsistencySettings(Training):
    r"""What methods of consistency share."""

    LENGTHS: ClassVar[tuple[str, ...]] = ("softness",)

    rho: float = 7.0
    """The exponent of the spacing of the levels."""
    grid_max: float | None = None
    """The largest level of the grid; none for the network's."""
    distance: Literal["l2", "l1", "pseudo_huber"] = "l2"
    """The distance of neighbours: squared, absolute, or between the two."""
    softness: float = 0.03
    """pseudo_huber: the length below which it is squared, in units of the data."""
    target_decay: float = 0.95
    """The rate of the target network; 0 copies the student."""
    sampling_steps: int = 1
    """The number of the student's calls."""
    optimizer: Literal["adam", "adamw", "radam", "sgd", "adam8bit", "adamw8bit"] = "radam"
    """The student's optimiser; the papers' rates are 8e-6 (ImageNet-64) to 4e-4 (CIFAR-10)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.target_decay < 1:
            raise ConfigError(f"target_decay must be within [0, 1), got {self.target_decay:g}")


SONG = """@inproceedings{song2023consistency,
  title     = {Consistency Models},
  author    = {Song, Yang and Dhariwal, Prafulla and Chen, Mark and Sutskever, Ilya},
  booktitle = {International Conference on Machine Learning},
  year      = {2023}
}"""
