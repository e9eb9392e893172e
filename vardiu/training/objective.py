r"""What a method of distillation is: networks, and phases that train them.

An objective owns every network and knows no optimiser, device, logger or file. It returns phases;
a phase is one loss and the names of the networks that it updates. The trainer freezes all others
while the phase's gradient is taken, so that a gradient may still flow *through* a frozen critic.
What needs no gradient is computed once a step by `prepare`.
"""

from __future__ import annotations

import abc
import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..functional.tensors import lattice_normal
from ..students.base import Generator
from .frozen import Frozen
from .streams import Streams

__all__ = ["networks", "Loss", "Objective", "Phase", "only"]


def networks(objective: Objective) -> dict[str, nn.Module]:
    r"""Returns the networks of an objective by name, the teacher among them."""
    held = objective.named_children()
    return {name: m.teacher if isinstance(m, Frozen) else m for name, m in held}


class Loss(NamedTuple):
    r"""What a phase returns.

    Arguments:
        value: The scalar to minimise.
        info: Detached scalars to log.
    """

    value: Tensor
    info: Mapping[str, Tensor] = {}


@dataclass(frozen=True)
class Phase:
    r"""One loss, and the networks that it trains.

    Arguments:
        name: The name in logs.
        loss: A function of what `prepare` returned and of the step.
        updates: Names of the networks to update; every other one is frozen meanwhile.
        every: The phase runs at the steps that this divides, on fresh draws.
        repeat: The number of updates at each visit, on the same prepared draws.
    """

    name: str
    loss: Callable[[Any, int], Loss]
    updates: tuple[str, ...]
    every: int = 1
    repeat: int = 1


class Objective(nn.Module, abc.ABC):
    r"""A method of distillation.

    Subclasses register their networks as attributes, `teacher = Frozen(...)` and
    `generator` among them, and return their phases. Randomness is drawn from `self.streams` only.

    Attributes:
        generator: The network that is averaged, evaluated and exported: the student. A teacher's
            own training has a denoiser in its place.
        teacher: The frozen teacher.
        streams: The random streams, saved with the run.
        lattice: Whether the latents of a batch are the points of a randomly shifted lattice, and
            its levels one in each of as many equal shares. Each is distributed as before; together
            they are spread evenly.
    """

    generator: Generator
    teacher: Frozen
    lattice: bool = False

    def __init__(self, teacher: Denoiser | None, generator: Generator | Denoiser) -> None:
        super().__init__()
        if not isinstance(generator, Generator | Denoiser):
            kind = type(generator).__name__
            raise TypeError(f"generator must be a vardiu.Generator, got {kind}")
        if teacher is not None and tuple(teacher.shape) != tuple(generator.shape):
            raise ValueError(
                f"the generator returns samples of shape {tuple(generator.shape)}, "
                f"the teacher denoises shape {tuple(teacher.shape)}; they must be equal"
            )
        if teacher is not None:
            self.teacher = Frozen(teacher)
        self.generator = generator
        self.streams = Streams()

    @property
    @abc.abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        r"""The losses of one step, in their order."""

    @property
    def mixes(self) -> str:
        r"""Why a loss is not a mean over the rows of its batch; empty where it is one.

        Only a mean over rows is the mean of its parts': a method that says so here is not trained
        with accumulated gradients.
        """
        return ""

    def begin(self, batch: Batch, step: int) -> None:
        r"""Does what a step does once and not for each row; called before `prepare`, under
        `no_grad`, with all rows of this process.

        Nothing here may be needed by `prepare`: instruments call that alone.
        """

    @property
    def beginnings(self) -> int:
        r"""The number of steps, counted from the first, in which `begin` has something to do."""
        return 0

    def prepare(self, batch: Batch, step: int) -> Any:  # noqa: ANN401 (each method has its own)
        r"""Returns what the phases need and no gradient, under `no_grad`.

        Called once a step; with accumulated gradients once for each part of the batch, before the
        first update. What it returns holds rows of its batch only.
        """
        return batch

    def diagnostics(self, batch: Batch, step: int) -> dict[str, Tensor]:
        r"""Returns values worth a report now and then, too dear for each step; draws nothing
        from the streams of training. Called under `no_grad`."""
        return {}

    def network(self, name: str) -> nn.Module:
        r"""Returns the network that a phase names.

        Raises:
            ValueError: There is none of this name, or it is the teacher.
        """
        networks = self._modules
        if name not in networks or name == "teacher":
            networks = {key: value for key, value in networks.items() if key != "teacher"}
            raise ValueError(f"unknown network {name!r}; the objective owns {sorted(networks)}")
        return networks[name]

    @contextlib.contextmanager
    def aside(self, role: str) -> Iterator[None]:
        r"""Lets an instrument run the losses: streams, counters and buffers are put back."""
        frozen = [m for m in self.children() if isinstance(m, Frozen)]
        counts = [(m.calls, m.samples) for m in frozen]
        buffers = [(b, b.clone()) for b in self.buffers()]
        with self.streams.aside(role):
            try:
                yield
            finally:
                for module, (calls, samples) in zip(frozen, counts, strict=True):
                    module.calls, module.samples = calls, samples
                for buffer, value in buffers:
                    buffer.copy_(value)

    @property
    def calls(self) -> int:
        r"""The number of evaluations of the teacher so far."""
        return sum(m.calls for m in self.children() if isinstance(m, Frozen))

    @property
    def rows(self) -> int:
        r"""The number of rows that the teacher has evaluated so far."""
        return sum(m.samples for m in self.children() if isinstance(m, Frozen))

    @property
    def trained(self) -> tuple[str, ...]:
        r"""The names of the networks that some phase updates, in order of appearance."""
        return tuple(dict.fromkeys(name for phase in self.phases for name in phase.updates))

    @property
    def device(self) -> torch.device:
        return next(self.generator.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.generator.parameters()).dtype

    def latent(self, n: int, role: str = "latent") -> Tensor:
        r"""Draws the generator's input, with shape `(n, *latent_shape)`."""
        shape = self.generator.latent_shape
        return self.streams.normal(role, n, shape, device=self.device, dtype=self.dtype)

    def latents(self, n: int, role: str = "latent") -> Tensor:
        r"""Draws the latents of a batch: independent, or the points of a shifted lattice."""
        if not self.lattice:
            return self.latent(n, role)
        shape = self.generator.latent_shape
        shift = self.common(math.prod(shape), role)
        points = lattice_normal(shift, n * self.streams.world)
        return self.streams.share(points).unflatten(1, shape)

    def quantiles(self, n: int, role: str = "level", order: str = "order") -> Tensor:
        r"""Draws what the levels of a batch are made of: independent, or one in each n-th."""
        if not self.lattice:
            return self.uniform(n, role)
        total = n * self.streams.world
        places = self.common(total, order).argsort()
        return self.streams.share((places + self.common(total, role)) / total)

    def noise_like(self, x: Tensor, role: str = "noise") -> Tensor:
        r"""Draws standard normal noise with the shape of `x`."""
        return self.streams.normal(role, len(x), x.shape[1:], device=x.device, dtype=x.dtype)

    def uniform(self, n: int, role: str = "level") -> Tensor:
        r"""Draws the uniform numbers that noise levels are made of, with shape `(n,)`."""
        return self.streams.uniform(role, n, device=self.device, dtype=self.dtype)

    def common(self, n: int, role: str) -> Tensor:
        r"""Draws uniform numbers that all processes share, with shape `(n,)`."""
        return self.streams.uniform(role, n, device=self.device, dtype=self.dtype, common=True)


@contextlib.contextmanager
def only(objective: Objective, names: Iterable[str]) -> Iterator[list[nn.Parameter]]:
    r"""Freezes every network but the named ones; thaws nothing that the user froze.

    Yields:
        The parameters that are free inside the context.
    """
    named = [p for name in names for p in objective.network(name).parameters()]
    free = {id(p) for p in named}
    changed = []
    for parameter in objective.parameters():
        if parameter.requires_grad and id(parameter) not in free:
            parameter.requires_grad_(False)
            changed.append(parameter)
    try:
        yield [p for p in named if p.requires_grad]
    finally:
        for parameter in changed:
            parameter.requires_grad_(True)
