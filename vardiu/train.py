r"""The loop: optimisers, steps, averages, checkpoints and logs, and nothing of any method.

A run can be stopped at any instant. What a checkpoint holds is all that the next step depends on:
networks, optimisers, averages, random streams, the place in the data and the counters. Going on
from it gives, bit for bit, what not stopping would have given.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Generator as PyGenerator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .average import Average
from .checkpoint import Checkpoints
from .data.batches import Batches
from .generate import Generator
from .objective import Batch, Loss, Objective, Phase, only

__all__ = [
    "Diverged",
    "Interrupted",
    "Optimisation",
    "Recipe",
    "Report",
    "Stage",
    "Trainer",
    "cosine",
    "constant",
    "trapezoid",
]


# Steps between two of an objective's diagnostics at least: they cost up to two or three steps.
DEAR = 100


class Diverged(RuntimeError):
    r"""A loss or a gradient was not finite; the networks were not updated with it."""


class Interrupted(RuntimeError):
    r"""The run was asked to stop, and has been saved."""


def constant(progress: float) -> float:
    r"""The learning rate's factor, always one."""
    return 1.0


def cosine(progress: float) -> float:
    r"""The learning rate's factor, :math:`\tfrac12 (1 + \cos \pi t)` at progress :math:`t`.

    Example:
        >>> cosine(0.0), cosine(1.0)
        (1.0, 0.0)
    """
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def trapezoid(progress: float) -> float:
    r"""The learning rate's factor: one until 3/8 of the run, then linear to 1/50.

    Example:
        >>> trapezoid(0.3), trapezoid(1.0)
        (1.0, 0.02)
    """
    return max(0.02, min(1.0, 1.6 * (1 - progress)))


@dataclass(frozen=True)
class Optimisation:
    r"""How the networks of a stage are updated: Adam, one optimiser a network.

    Arguments:
        rates: The learning rate of each network that a phase updates.
        betas: Adam's decay rates of its two moments; `first_moment` may differ by network.
        momenta: The first decay rate of networks for which it differs.
        decay: The factor of the learning rate, of the progress in [0, 1].
        warmup: The number of steps in which the rate grows from zero.
        delays: The number of steps before a network's first update.
        clip: The largest norm of a network's gradient.
        halflife: The half-life of the student's average, in samples.
    """

    rates: Mapping[str, float]
    betas: tuple[float, float] = (0.9, 0.999)
    momenta: Mapping[str, float] = field(default_factory=dict)
    decay: Callable[[float], float] = constant
    warmup: int = 0
    delays: Mapping[str, int] = field(default_factory=dict)
    clip: float = math.inf
    halflife: float = 0.0

    def optimizers(self, objective: Objective) -> dict[str, torch.optim.Optimizer]:
        r"""Returns an Adam for each network; parameters that the user froze are left out."""
        result: dict[str, torch.optim.Optimizer] = {}
        for name, rate in self.rates.items():
            free = [p for p in objective.network(name).parameters() if p.requires_grad]
            betas = (self.momenta.get(name, self.betas[0]), self.betas[1])
            # Fused updates are the same arithmetic in one kernel, on CPU and CUDA.
            result[name] = torch.optim.Adam(free, lr=rate, betas=betas, fused=True)
        return result


class Stage(NamedTuple):
    r"""One training run of a recipe.

    Arguments:
        name: The name in logs and folders.
        objective: What to train.
        steps: The number of steps.
        batches: The data.
        optimisation: How to train it.
    """

    name: str
    objective: Objective
    steps: int
    batches: Batches
    optimisation: Optimisation


# A method: yields stages, is sent the trained and averaged student of each, returns the last.
Recipe = PyGenerator[Stage, Generator, Any]


class Report(NamedTuple):
    r"""What the trainer tells now and then."""

    step: int
    seconds: float
    calls: int
    values: Mapping[str, float]


class Trainer:
    r"""Trains an objective.

    Arguments:
        objective: What to train; it owns the networks.
        optimisers: One optimiser for each network that a phase updates.
        optimisation: Decay, warm-up, clipping and averaging; see `Optimisation`.
        steps: The number of steps of the whole run, of which the decay is a function.
        seed: The seed of the objective's streams.

    Attributes:
        step: The number of steps taken.
        seconds: The time spent in steps, over all resumptions.
        updates: The number of updates of each network.
        average: The student's moving average.

    Raises:
        ValueError: An optimiser is missing, or its network is not updated by any phase.
    """

    def __init__(
        self,
        objective: Objective,
        optimisation: Optimisation,
        *,
        steps: int,
        optimizers: Mapping[str, torch.optim.Optimizer] | None = None,
        seed: int = 0,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        given = optimisation.rates if optimizers is None else optimizers
        missing, extra = set(objective.trained) - set(given), set(given) - set(objective.trained)
        if missing:
            raise ValueError(
                f"no optimizer for {sorted(missing)}; the phases update {list(objective.trained)}"
            )
        if extra:
            raise ValueError(
                f"an optimizer for {sorted(extra)}, which no phase updates; "
                f"the phases update {list(objective.trained)}"
            )
        self.objective = objective.train()
        self.optimisation = optimisation
        self.optimizers = dict(optimizers or optimisation.optimizers(objective))
        self.rates = {
            name: [group["lr"] for group in optimizer.param_groups]
            for name, optimizer in self.optimizers.items()
        }
        self.average = Average(objective.generator, optimisation.halflife)
        self.steps = steps
        self.step = 0
        self.seconds = 0.0
        self.updates = dict.fromkeys(objective.trained, 0)
        self.stopping = False
        self.batch: Batch | None = None
        self.latest: dict[str, Tensor] = {}
        objective.streams.reset(seed)
        if torch.distributed.is_initialized():
            objective.streams.rank = torch.distributed.get_rank()
            objective.streams.world = torch.distributed.get_world_size()

    # ---------------------------------------------------------------- one step

    def advance(self, batches: Batches) -> None:
        r"""Takes one step: draws a batch, prepares it, runs the phases whose turn it is."""
        started = time.perf_counter()
        x, cond = next(batches)
        device = self.objective.device
        cond = {name: value.to(device) for name, value in cond.items()}
        self.batch = batch = Batch(x.to(device), cond)
        with torch.no_grad():
            drawn = self.objective.prepare(batch, self.step)
        for phase in self.objective.phases:
            if self.step % phase.every == 0:
                for _ in range(phase.repeat):
                    loss = self.update(phase, drawn, len(batch.x))
                info = {"loss": loss.value.detach(), **loss.info}
                self.latest |= {f"{phase.name}/{key}": value for key, value in info.items()}
        self.step += 1
        self.seconds += time.perf_counter() - started

    def update(self, phase: Phase, drawn: Any, samples: int) -> Loss:  # noqa: ANN401
        r"""Takes one step of the optimisers of the networks that a phase names.

        Raises:
            Diverged: The loss or a gradient is not finite. No network has been changed.
        """
        with only(self.objective, phase.updates) as free:
            loss = phase.loss(drawn, self.step)
            loss.value.backward()
        share_gradients(free)
        norms = self.clip(phase, loss)
        for name in phase.updates:
            self.apply(name, samples)
        info = {f"gradient/{name}": norm for name, norm in norms.items()}
        return Loss(loss.value, {**loss.info, **info})

    def clip(self, phase: Phase, loss: Loss) -> dict[str, Tensor]:
        r"""Clips the gradient of each network of a phase, and returns their norms before.

        The loss and the norms are read in one message: a GPU waits once a step.

        Raises:
            Diverged: The loss or a norm is not finite; the gradients are gone.
        """
        gradients = {
            name: [p.grad for p in self.objective.network(name).parameters() if p.grad is not None]
            for name in phase.updates
        }
        norms = {name: nn.utils.get_total_norm(group) for name, group in gradients.items()}
        values = torch.stack([everywhere(loss.value), *norms.values()]).tolist()
        names = ["its loss", *(f"the gradient of {name}" for name in norms)]
        for what, value in zip(names, values, strict=True):
            if not math.isfinite(value):
                self.objective.zero_grad(set_to_none=True)
                raise Diverged(self.complaint(phase, what, value))
        for group, norm in zip(gradients.values(), values[1:], strict=True):
            # Most gradients are short enough: they need no multiplication by one.
            if norm + 1e-6 > self.optimisation.clip:
                torch._foreach_mul_(group, self.optimisation.clip / (norm + 1e-6))
        return norms

    def apply(self, name: str, samples: int) -> None:
        r"""Steps one network's optimiser, and the average after the student's."""
        factor = self.optimisation.decay(self.step / self.steps)
        if self.step < self.optimisation.warmup:
            factor *= (self.step + 1) / self.optimisation.warmup
        optimizer = self.optimizers[name]
        if self.step < self.optimisation.delays.get(name, 0):
            optimizer.zero_grad(set_to_none=True)
            return
        for group, rate in zip(optimizer.param_groups, self.rates[name], strict=True):
            group["lr"] = factor * rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.updates[name] += 1
        if name == "generator":
            samples *= self.objective.streams.world
            self.average.update(self.objective.generator, samples)

    def complaint(self, phase: Phase, what: str, value: float) -> str:
        return (
            f"step {self.step}, phase {phase.name!r}: {what} is {value}. Nothing was "
            "updated with it, and the last checkpoint is kept. Lower the learning rate, raise "
            "sigma_min, or compute in float32."
        )

    # ---------------------------------------------------------------- the loop

    def fit(
        self,
        batches: Batches,
        *,
        store: Checkpoints | None = None,
        save_every: float = 60.0,
        report_every: int = 0,
        report: Callable[[Report], None] = lambda report: None,
        progress: Callable[[int], None] = lambda step: None,
    ) -> Generator:
        r"""Trains from where it stands until `steps`; see `load_state_dict` to resume.

        Arguments:
            batches: The data.
            store: Where checkpoints go; none are written without it.
            save_every: The number of seconds between checkpoints.
            report_every: The number of steps between reports; 0 stands for none.
            report: Is given each report.
            progress: Is given the step, after each.

        Returns:
            The averaged student.

        Raises:
            Diverged: A loss or a gradient is not finite.
            Interrupted: SIGINT or SIGTERM came; the step was finished and saved.
        """
        saved = time.monotonic()
        batches.rank, batches.world = self.objective.streams.rank, self.objective.streams.world
        with self.signals():
            while self.step < self.steps:
                self.advance(batches)
                if report_every and (self.step % report_every == 0 or self.step == self.steps):
                    due = self.step // DEAR > (self.step - report_every) // DEAR
                    report(self.summary(due or self.step == self.steps))
                progress(self.step)
                due = time.monotonic() - saved > save_every
                if store is not None and (due or self.stopping or self.step == self.steps):
                    store.save(self.step, self.state_dict(batches))
                    saved = time.monotonic()
                if self.stopping:
                    raise Interrupted(f"stopped at step {self.step} of {self.steps}")
        return self.average.module

    @torch.no_grad()
    def summary(self, dear: bool = True) -> Report:
        r"""Returns each phase's latest values, and if wanted the objective's diagnostics."""
        assert self.batch is not None
        diagnostics = self.objective.diagnostics(self.batch, self.step) if dear else {}
        scalars = {key: float(value) for key, value in {**self.latest, **diagnostics}.items()}
        return Report(self.step, self.seconds, self.objective.calls, scalars)

    @contextmanager
    def signals(self) -> Iterator[None]:
        r"""Turns SIGINT and SIGTERM into a wish to stop after the step; a second one is heard."""
        self.stopping = False

        def handler(number: int, frame: FrameType | None) -> None:
            self.stopping = True
            signal.signal(number, previous[number])

        try:
            previous = {n: signal.signal(n, handler) for n in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # only the main thread may listen to signals
            yield
            return
        try:
            yield
        finally:
            for number, old in previous.items():
                signal.signal(number, old)

    # ---------------------------------------------------------------- state

    def state_dict(self, batches: Batches) -> dict[str, Any]:
        r"""Returns all that the next step depends on."""
        names = self.objective.trained
        state = {
            "networks": self.objective.state_dict(),
            "optimizers": {name: self.optimizers[name].state_dict() for name in names},
            "average": self.average.state_dict(),
            "random": {
                "streams": self.objective.streams.state_dict(),
                "torch": torch.get_rng_state(),
            },
            "trainer": {
                "step": self.step,
                "steps": self.steps,
                "seconds": self.seconds,
                "updates": self.updates,
            },
            "batches": batches.state_dict(),
        }
        if torch.cuda.is_available():
            state["random"]["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state: Mapping[str, Any], batches: Batches) -> None:
        r"""Restores what `state_dict` returned, and the place in the data."""
        # A step that was broken off may have left gradients.
        self.objective.zero_grad(set_to_none=True)
        self.objective.load_state_dict(state["networks"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.average.load_state_dict(state["average"])
        self.objective.streams.load_state_dict(state["random"]["streams"])
        torch.set_rng_state(state["random"]["torch"].cpu())
        if "cuda" in state["random"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["random"]["cuda"]])
        counters = state["trainer"]
        self.step, self.seconds = counters["step"], counters["seconds"]
        self.updates = dict(counters["updates"])
        batches.load_state_dict(state["batches"])


def everywhere(value: Tensor) -> Tensor:
    r"""Returns the sum over processes: not finite in one is so in all, and none waits for ever."""
    value = value.detach().clone()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value


def share_gradients(parameters: list[nn.Parameter]) -> None:
    r"""Averages gradients over processes, in one flat message; nothing in a lone process."""
    if not torch.distributed.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
