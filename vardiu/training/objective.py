r"""What a method of distillation is: networks, and phases that train them.

An objective owns every network and knows no optimiser, device, logger or file. It returns phases;
a phase is one loss and the names of the networks that it updates. The trainer freezes all others
while the phase's gradient is taken, so that a gradient may still flow *through* a frozen critic.
What needs no gradient is computed once a step by `prepare`.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..students.base import Generator
from .frozen import Frozen
from .memory import Count, Memory
from .streams import LatticeDraws, StreamDraws, Streams

__all__ = ["denoiser_of", "networks", "Loss", "Objective", "Phase", "only"]


def networks(objective: Objective) -> dict[str, nn.Module]:
    r"""Returns the networks of an objective by name, the teacher among them."""
    held = objective.named_children()
    return {name: m.module if isinstance(m, Frozen) else m for name, m in held}


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
        repeat: How many times each visit goes through the same prepared draws.
        minibatches: The equal parts of those draws that are updated with, one after another.
        when: Of the steps that `every` divides, those at which the phase runs; all by default.
        period: The number of steps after which the turns of the phase repeat, where it is not
            `every`.
        turns: The steps of a period at which the phase runs.
    """

    name: str
    loss: Callable[[Any, int], Loss]
    updates: tuple[str, ...]
    every: int = 1
    repeat: int = 1
    minibatches: int = 1
    when: Callable[[int], bool] | None = None
    period: int | None = None
    turns: int = 1

    def due(self, step: int) -> bool:
        r"""Whether the phase runs at a step."""
        return step % self.every == 0 and (self.when is None or self.when(step))

    @property
    def cycle(self) -> int:
        r"""The number of steps after which the turns of the phase repeat."""
        return self.every if self.period is None else self.period


class Objective(nn.Module, abc.ABC):
    r"""A method of distillation.

    Subclasses register their networks as attributes, `teacher = Frozen(...)` and
    `generator` among them, and return their phases. What they keep from step to step and do not
    train are attributes of class `Memory`. Randomness is drawn from `self.streams` only.

    Attributes:
        generator: The network that is averaged, evaluated and exported: the student. A teacher's
            own training has a denoiser in its place.
        teacher: The frozen teacher.
        streams: The random streams, saved with the run.
        lattice: Whether the latents of a batch are the points of a randomly shifted lattice, and
            its levels one in each of as many equal shares. Each is distributed as before; together
            they are spread evenly.
        forward_mode: The names of the networks that are differentiated forward, in this stage or
            in a later one that goes on with them: they are neither compiled nor recomputed.
        diagnostics_every: The least number of steps between two of its diagnostics, which cost as
            much as two or three steps.
    """

    generator: Generator
    teacher: Frozen[Denoiser]
    lattice: bool = False
    forward_mode: tuple[str, ...] = ()
    diagnostics_every: int = 100

    def __init__(self, teacher: Denoiser | None, generator: Generator | Denoiser) -> None:
        super().__init__()
        if not isinstance(generator, Generator | Denoiser):
            kind = type(generator).__name__
            raise TypeError(f"generator must be a vardiu.Generator, got {kind}")
        if teacher is not None and not isinstance(teacher, Denoiser):
            kind = type(teacher).__name__
            raise TypeError(f"teacher must be a vardiu.Denoiser, got {kind}")
        if teacher is not None and tuple(teacher.shape) != tuple(generator.shape):
            raise ValueError(
                f"the generator returns samples of shape {tuple(generator.shape)}, "
                f"the teacher denoises shape {tuple(teacher.shape)}; they must be equal"
            )
        if teacher is not None:
            self.teacher = Frozen(teacher)
        # A teacher's own training has a denoiser here, see `student_of`, and asks for it by name.
        self.add_module("generator", generator)
        self.streams = Streams()

    # ---------------------------------------------------------------- what a method defines

    @property
    @abc.abstractmethod
    def phases(self) -> tuple[Phase, ...]:
        r"""The losses of one step, in their order."""

    @property
    def row_coupling(self) -> str:
        r"""Why a loss is not a mean over the rows of its batch; empty where it is one.

        Only a mean over rows is the mean of its parts': a method that says so here is not trained
        with accumulated gradients.
        """
        kept = (m.row_coupling for m in self.children() if isinstance(m, Memory))
        return next(filter(None, kept), "")

    def prepare(self, batch: Batch, step: int) -> Any:  # noqa: ANN401 (each method has its own)
        r"""Returns what the phases need and no gradient, under `no_grad`; changes nothing.

        Called once a step; with accumulated gradients once for each part of the batch, before the
        first update. What it returns holds rows of its batch only.
        """
        return batch

    def diagnostics(self, batch: Batch, step: int) -> dict[str, Tensor]:
        r"""Returns values worth a report now and then, too expensive for each step; draws nothing
        from the streams of training. Called under `no_grad`; those of its memories by default."""
        kept = [m for m in self.children() if isinstance(m, Memory)]
        return {k: v for m in kept for k, v in m.diagnostics(self, batch, step).items()}

    def student_of(self, network: nn.Module) -> Generator | None:
        r"""Returns the generator that a trained network is, or none.

        A method that trains a denoiser says here how one samples with it; a teacher's own training
        has no student.

        Arguments:
            network: The network in the place of `generator`, averaged most often.
        """
        return network if isinstance(network, Generator) else None

    # ---------------------------------------------------------------- what the trainer asks for

    def remember(self, drawn: list[Any], step: int) -> None:
        r"""Moves every memory, once a step, after the phases.

        Arguments:
            drawn: What `prepare` returned, of each part of the batch.
            step: The step.
        """
        for memory in self.children():
            if isinstance(memory, Memory):
                memory.follow(self, drawn, step)

    def network(self, name: str) -> nn.Module:
        r"""Returns the network that a phase names.

        Raises:
            ValueError: There is none of this name, or it is held and not trained.
        """
        networks = {
            key: value
            for key, value in self.named_children()
            if not isinstance(value, Frozen | Memory)
        }
        if name not in networks:
            raise ValueError(f"unknown network {name!r}; the objective owns {sorted(networks)}")
        return networks[name]

    @contextlib.contextmanager
    def undisturbed(self, role: str) -> Iterator[None]:
        r"""Lets an instrument run the losses: streams, counters, memories and buffers are put
        back.

        Arguments:
            role: The name of the streams that the instrument draws from.
        """
        frozen = [m for m in self.children() if isinstance(m, Frozen)]
        asked = [(m.calls, m.samples) for m in frozen]
        counts = [(m, m.value) for m in self.modules() if isinstance(m, Count)]
        kept = [p for m in self.children() if isinstance(m, Memory) for p in m.parameters()]
        state = [(t, t.detach().clone()) for t in (*self.buffers(), *kept)]
        with self.streams.set_aside(role):
            try:
                yield
            finally:
                for module, (calls, samples) in zip(frozen, asked, strict=True):
                    module.calls, module.samples = calls, samples
                for count, number in counts:
                    count.value = number
                with torch.no_grad():
                    for tensor, value in state:
                        tensor.copy_(value)

    @property
    def teacher_cost(self) -> tuple[int, int]:
        r"""The number of evaluations of what is held so far, and of the rows in them."""
        held = [m for m in self.children() if isinstance(m, Frozen)]
        return sum(m.calls for m in held), sum(m.samples for m in held)

    @property
    def trained(self) -> tuple[str, ...]:
        r"""The names of the networks that some phase updates, in order of appearance."""
        return tuple(dict.fromkeys(name for phase in self.phases for name in phase.updates))

    # ---------------------------------------------------------------- random draws

    @property
    def like(self) -> Tensor:
        r"""A tensor of the device and type that draws have: the student's first weight."""
        return next(self.generator.parameters()).detach()

    def latents(self, n: int, role: str = "latent") -> Tensor:
        r"""Draws the generator's input, `(n, *latent_shape)`: independent, or the points of a
        shifted lattice."""
        kind = LatticeDraws if self.lattice else StreamDraws
        return self.generator.latent_from(kind(self.streams, role, n, self.like))

    def quantiles(self, n: int, role: str = "level", order: str = "order") -> Tensor:
        r"""Draws what the levels of a batch are made of: independent, or one in each n-th."""
        if not self.lattice:
            return self.uniform(n, role)
        total = n * self.streams.world
        places = self._shared_uniform(total, order).argsort()
        return self.streams.own_rows((places + self._shared_uniform(total, role)) / total)

    def noise_like(self, x: Tensor, role: str = "noise") -> Tensor:
        r"""Draws standard normal noise with the shape of `x`."""
        return self.streams.normal(role, len(x), x.shape[1:], device=x.device, dtype=x.dtype)

    def uniform(self, n: int, role: str = "level") -> Tensor:
        r"""Draws independent uniform numbers in [0, 1), `(n,)`."""
        like = self.like
        return self.streams.uniform(role, n, device=like.device, dtype=like.dtype)

    def _shared_uniform(self, n: int, role: str) -> Tensor:
        like = self.like
        return self.streams.uniform(role, n, device=like.device, dtype=like.dtype, shared=True)


def denoiser_of(objective: Objective) -> Denoiser:
    r"""Returns the denoiser that an objective trains in the place of a generator."""
    network = objective.network("generator")
    assert isinstance(network, Denoiser)
    return network


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
