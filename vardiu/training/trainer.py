r"""The loop: optimisers, steps, averages, checkpoints and logs, and nothing of any method.

A run can be stopped at any instant. What a checkpoint holds is all that the next step depends on:
networks, optimisers, averages, random streams, the place in the data and the counters. Going on
from it gives, bit for bit, what not stopping would have given.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.batch import Batch, divided_rows
from ..data.batches import Batches
from ..errors import CheckpointError, ConfigError, Diverged, Interrupted
from ..storage import processes
from ..storage.checkpoints import Checkpoints
from ..storage.interrupts import wish_to_stop
from ..students.base import Generator
from .device_kind import refuse_other_kind
from .distributed import averaged, share_gradients
from .ema import Average
from .loss_scale import LossScale, scales_of
from .objective import Loss, Objective, Phase, only
from .optimizers import Optimisation
from .sharding import Division, Shard, chosen_shard, divided_as, state_divided_as, whole

__all__ = ["Report", "Trainer", "pause"]


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
        optimisation: How each network is updated, and the average; see `Optimisation`.
        steps: The number of steps of the whole run, of which the decay is a function.
        seed: The seed of the objective's streams.
        accumulate: The number of equal parts in which a batch is visited, one after another. Their
            mean gradient is that of the whole batch, on the same draws, up to rounding.
        scale: The first scale of the losses, see `LossScale`. By default there is one where a
            network computes in float16.
        shard: Whether the weights of networks are divided among the processes: `full` or `none`,
            or `auto`, where they would fill half of a card.

    Attributes:
        step: The number of steps taken.
        seconds: The time spent in steps, over all resumptions.
        updates: The number of updates of each network.
        average: The student's moving average.
        batch: The latest batch that the instruments may look at: one of its parts.
        asked_to_stop: Whether SIGINT or SIGTERM came; whoever trained the last step decides then.
        saved: The step of the last checkpoint; none where nothing was saved yet.

    Raises:
        ValueError: An optimiser is missing, or its network is not updated by any phase, or is
            frozen whole; or a loss that couples the rows of its batch was to be accumulated.
    """

    def __init__(
        self,
        objective: Objective,
        optimisation: Optimisation,
        *,
        steps: int,
        seed: int = 0,
        accumulate: int = 1,
        scale: float | None = None,
        shard: Shard = "none",
    ) -> None:
        for name, value in (("steps", steps), ("accumulate", accumulate)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        refuse_divided_rows(objective, accumulate)
        given = optimisation.rows
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
        refuse_networks_never_updated(objective, optimisation, steps)
        refuse_frozen_networks(objective)
        self.objective = objective.train()
        self.optimisation = optimisation
        self.average = Average(objective.generator, optimisation.halflife)
        divides = chosen_shard(objective, shard, objective.like.device) == "full"
        self.division = Division(objective, self.average.module) if divides else None
        self.optimizers = {
            name: row.optimizer(objective.network(name)) for name, row in given.items()
        }
        self.scales = scales_of(objective, scale)
        self.accumulate = accumulate
        self.steps = steps
        self.step = 0
        self.seconds = 0.0
        self.updates = dict.fromkeys(objective.trained, 0)
        self.batch: Batch | None = None
        self.latest: dict[str, Tensor] = {}
        self.asked_to_stop = False
        self.saved: int | None = None
        objective.streams.reset(seed)
        objective.streams.rank, objective.streams.world = processes.rank(), processes.count()

    # ---------------------------------------------------------------- one step

    def advance(self, batches: Batches) -> None:
        r"""Takes one step: draws a batch, prepares it, runs the phases whose turn it is.

        Raises:
            ValueError: The batch cannot be divided into equal parts.
        """
        started, device = time.perf_counter(), self.objective.like.device
        with self.objective.streams.own_draws(self.step, device):
            batch = next(batches).to(device)
            parts = divided_rows(batch, self.accumulate)
            self.batch = parts[0]
            with torch.no_grad():
                prepare = functools.partial(self.objective.prepare, step=self.step)
                drawn = self.objective.streams.over_parts(prepare, parts)
            for phase in self.objective.phases:
                if phase.due(self.step) and self.due(phase):
                    for part in visits(phase, drawn):
                        loss = self.update(phase, part, batch.rows // phase.minibatches)
                    info = {"loss": loss.value, **loss.info}
                    self.latest |= {f"{phase.name}/{key}": value for key, value in info.items()}
            with torch.no_grad():
                self.objective.remember(drawn, self.step)
        self.step += 1
        self.seconds += time.perf_counter() - started

    def due(self, phase: Phase) -> tuple[str, ...]:
        r"""Returns the networks of a phase whose delay is over; without any it is left out."""
        rows = self.optimisation.rows
        return tuple(name for name in phase.updates if self.step >= rows[name].delay)

    def update(self, phase: Phase, drawn: Sequence[Any], samples: int) -> Loss:
        r"""Takes one step of the optimisers of the networks of a phase whose delay is over.

        The others are frozen: no gradient is taken that would be thrown away, and a loss that asks
        the teacher for the student's sake alone can see that it need not.

        Arguments:
            phase: The phase.
            drawn: What `prepare` returned, of each part of the batch.
            samples: The number of rows of all parts.

        Raises:
            Diverged: The loss or a gradient is not finite. No network has been changed.
        """
        scale = self.scales.get(phase.name)
        factor = (1.0 if scale is None else scale.value) / len(drawn)

        def visit(part: Any) -> Loss:  # noqa: ANN401 (each method has its own)
            loss = phase.loss(part, self.step)
            loss.value.backward(None if factor == 1 else torch.full_like(loss.value, factor))
            return Loss(loss.value.detach(), loss.info)

        with only(self.objective, self.due(phase)) as free:
            loss = mean_of(self.objective.streams.over_parts(visit, drawn))
        mean = share_gradients(free, loss.value)
        norms = self.clip(phase, mean, scale)
        for name in norms:
            row, optimizer = self.optimisation.rows[name], self.optimizers[name]
            row.set_rate(optimizer, self.optimisation.decay(self.step / self.steps), self.step)
            optimizer.step()
            self.updates[name] += 1
            if name == "generator":
                self.average.update(
                    self.objective.generator, samples * self.objective.streams.world
                )
            optimizer.zero_grad(set_to_none=True)
        info = {f"gradient/{name}": norm for name, norm in norms.items()}
        if scale is not None:
            info |= scale.info()
        return Loss(loss.value, {**loss.info, **info})

    def clip(self, phase: Phase, loss: Tensor, scale: LossScale | None) -> dict[str, Tensor]:
        r"""Clips the gradient of each network of a phase, and returns their norms before.

        The loss and the norms are read in one message: a GPU waits once a step. Where a scaled
        gradient is not finite, the scale is lowered and nothing is returned: nothing is updated.

        Raises:
            Diverged: The loss or a norm is not finite, whatever its scale; the gradients are gone.
        """
        gradients = {
            name: [p.grad for p in self.objective.network(name).parameters() if p.grad is not None]
            for name in self.due(phase)
        }
        if scale is not None:
            scale.undo([g for group in gradients.values() for g in group])
        norms = {n: whole(nn.utils.get_total_norm(group)) for n, group in gradients.items()}
        values = torch.stack([loss, *norms.values()]).tolist()
        names = ["its loss", *(f"the gradient of {name}" for name in norms)]
        bad = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
        if bad is not None:
            self.objective.zero_grad(set_to_none=True)
            if bad == 0 or scale is None or not scale.lower():
                raise Diverged(self.complaint(phase, names[bad], values[bad]))
            return {}
        if scale is not None:
            scale.passed()
        for (name, group), norm in zip(gradients.items(), values[1:], strict=True):
            # Most gradients are short enough: they need no multiplication by one.
            largest = self.optimisation.rows[name].clip
            if norm + 1e-6 > largest:
                torch._foreach_mul_(group, largest / (norm + 1e-6))
        return norms

    def complaint(self, phase: Phase, what: str, value: float) -> str:
        kept = f"the last checkpoint is kept, of step {self.saved}"
        if self.saved is None:
            kept = "no checkpoint of this stage was written yet"
        return (
            f"step {self.step}, phase {phase.name!r}: {what} is {value}. Nothing was "
            f"updated with it, and {kept}. Lower the learning rate, raise "
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
        stopping: Callable[[], None] = lambda: None,
    ) -> Generator:
        r"""Trains from where it stands until `steps`; see `load_state_dict` to resume.

        Arguments:
            batches: The data.
            store: Where checkpoints go; none are written without it.
            save_every: The least number of seconds between checkpoints, see `pause`; each step has
                one where it is not positive.
            report_every: The number of steps between reports; 0 stands for none.
            report: Is given each report.
            progress: Is given the step, after each.
            stopping: Is called when the process is asked to stop, before the step at hand ends.

        Returns:
            The averaged student.

        Raises:
            Diverged: A loss or a gradient is not finite.
            Interrupted: SIGINT or SIGTERM came; the step was finished and saved. After the last
                step the student is returned all the same, and `asked_to_stop` is set.
        """
        saved, took = time.monotonic(), 0.0
        batches.rank, batches.world = self.objective.streams.rank, self.objective.streams.world
        with wish_to_stop(stopping) as wish:
            while self.step < self.steps:
                self.advance(batches)
                if report_every and (self.step % report_every == 0 or self.step == self.steps):
                    every = self.objective.diagnostics_every
                    due = self.step // every > (self.step - report_every) // every
                    report(self.summary(due or self.step == self.steps))
                progress(self.step)
                waited = time.monotonic() - saved
                due = processes.is_writer() and waited > pause(save_every, took)
                asked, due = processes.agreed(wish.asked, due)
                if store is not None and (due or asked or self.step == self.steps):
                    started = time.monotonic()
                    store.save(self.step, self.state_dict(batches))
                    saved, self.saved = time.monotonic(), self.step
                    took = saved - started
                self.asked_to_stop = asked
                if asked and self.step < self.steps:
                    raise Interrupted(f"stopped at step {self.step} of {self.steps}")
        return self.average.module

    def make_whole(self) -> None:
        r"""Ends a division of the networks among the processes, after the last step."""
        if self.division is not None:
            self.division.undo()
            self.division = None

    @torch.no_grad()
    def summary(self, diagnose: bool = True) -> Report:
        r"""Returns each phase's latest values, and if wanted the objective's diagnostics."""
        assert self.batch is not None
        diagnostics = self.objective.diagnostics(self.batch, self.step) if diagnose else {}
        told = {key: float(value) for key, value in {**self.latest, **diagnostics}.items()}
        if told and processes.count() > 1:
            means = averaged(torch.tensor(list(told.values()), dtype=torch.float64))
            told = dict(zip(told, means.tolist(), strict=True))
        return Report(self.step, self.seconds, self.objective.teacher_cost[0], told)

    # ---------------------------------------------------------------- state

    def state_dict(self, batches: Batches) -> dict[str, Any]:
        r"""Returns all that the next step depends on."""
        names = self.objective.trained
        state = {
            "networks": self.objective.state_dict(),
            "optimizers": {name: self.optimizers[name].state_dict() for name in names},
            "average": self.average.state_dict(),
            "random": {
                "device": self.objective.like.device.type,
                "streams": self.objective.streams.state_dict(),
                "torch": torch.get_rng_state(),
            },
            "trainer": {
                "step": self.step,
                "steps": self.steps,
                "seconds": self.seconds,
                "updates": self.updates,
                # A phase whose turn comes seldom is told of by the next report all the same.
                "latest": dict(self.latest),
                "scales": {name: scale.state_dict() for name, scale in self.scales.items()},
            },
            "batches": batches.state_dict(),
        }
        if self.objective.like.device.type == "cuda":
            state["random"]["cuda"] = torch.cuda.get_rng_state(self.objective.like.device)
        return state

    def load_state_dict(self, state: Mapping[str, Any], batches: Batches) -> None:
        r"""Restores what `state_dict` returned, and the place in the data.

        Raises:
            ConfigError: It is of another kind of device: its random numbers are of that one.
        """
        refuse_other_kind(state["random"], self.objective.like.device.type)
        # A step that was broken off may have left gradients.
        self.objective.zero_grad(set_to_none=True)
        self.objective.load_state_dict(state_divided_as(self.objective, state["networks"]))
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(moments_divided_as(optimizer, state["optimizers"][name]))
            lay_out(optimizer)
        kept = state["average"]
        module = state_divided_as(self.average.module, kept["module"])
        self.average.load_state_dict({**kept, "module": module})
        self.objective.streams.load_state_dict(state["random"]["streams"])
        torch.set_rng_state(state["random"]["torch"].cpu())
        if "cuda" in state["random"] and self.objective.like.device.type == "cuda":
            set_card_state(state["random"]["cuda"], self.objective.like.device)
        counters = state["trainer"]
        self.step, self.seconds = counters["step"], counters["seconds"]
        self.saved = self.step
        self.updates = dict(counters["updates"])
        device = self.objective.like.device
        self.latest = {key: value.to(device) for key, value in counters["latest"].items()}
        for name, scale in self.scales.items():
            scale.load_state_dict(counters["scales"][name])
        batches.load_state_dict(state["batches"])


def set_card_state(kept: Tensor | Sequence[Tensor], card: torch.device) -> None:
    r"""Gives a card the state of the generator of the card that a run was on, whatever its number
    was there.

    Arguments:
        kept: That state; older checkpoints have one of each card of their machine.
        card: The card that the run is on now.

    Raises:
        CheckpointError: An older checkpoint has states of other cards alone.
    """
    if isinstance(kept, Tensor):
        torch.cuda.set_rng_state(kept.cpu(), card)
        return
    index = torch.cuda.current_device() if card.index is None else card.index
    if index >= len(kept):
        raise CheckpointError(
            f"the checkpoint has random states of {len(kept)} cards by their number, and the run "
            f"is on cuda:{index} now: give the card that it was begun on with --device"
        )
    torch.cuda.set_rng_state(kept[index].cpu(), card)


def pause(save_every: float, took: float) -> float:
    r"""Returns the seconds from one checkpoint to the next: at least twenty times what the last
    took, so that a run stands still for a twentieth of its time at most. Who asks for one at each
    step, by zero, gets it."""
    return max(save_every, 20 * took) if save_every > 0 else save_every


def refuse_divided_rows(objective: Objective, accumulate: int) -> None:
    r"""Raises an error if the rows of a batch are to be divided, into parts or among processes,
    and the objective cannot be trained so.

    Raises:
        ValueError: A loss couples the rows of its batch, and they are accumulated.
        ConfigError: The same among processes, or a network takes statistics of its batch.
    """
    coupling, world = objective.row_coupling, processes.count()
    if accumulate > 1 and coupling:
        raise ValueError(
            f"accumulate={accumulate} would train another objective: {coupling}. Train with "
            "accumulate=1 and a smaller batch, or with a loss that is a mean over rows"
        )
    if world > 1 and coupling:
        raise ConfigError(
            f"{world} processes would train another objective than one: {coupling}. Start it "
            "without torchrun, or take a loss that is a mean over rows"
        )
    norms = (m for n in objective.trained for m in objective.network(n).modules())
    found = next((m for m in norms if isinstance(m, nn.modules.batchnorm._BatchNorm)), None)
    if world > 1 and found is not None and not isinstance(found, nn.SyncBatchNorm):
        raise ConfigError(
            f"a {type(found).__name__} takes statistics of the rows of one process, and there are "
            f"{world}: take a norm of single rows, or torch.nn.SyncBatchNorm"
        )


def refuse_frozen_networks(objective: Objective) -> None:
    r"""Raises a `ValueError` if a network that is to be trained has nothing left to train."""
    for name in objective.trained:
        if not any(p.requires_grad for p in objective.network(name).parameters()):
            raise ValueError(
                f"{name} is to be trained, and all of its parameters are frozen: leave "
                "requires_grad of some of them"
            )


def refuse_networks_never_updated(
    objective: Objective, optimisation: Optimisation, steps: int
) -> None:
    r"""Raises a `ConfigError` if a network's delay lasts until after its last turn: the run would
    train nothing, and say nothing."""
    last = dict.fromkeys(objective.trained, -1)
    for phase in objective.phases:
        turns = (s for s in range(steps - 1, max(-1, steps - 1 - phase.cycle), -1) if phase.due(s))
        # Turns that depend on what happens on the way are not known yet.
        turn = next(turns, -1 if phase.when is None else steps - 1)
        for name in phase.updates:
            last[name] = max(last[name], turn)
    for name, step in last.items():
        delay = optimisation.rows[name].delay
        if delay > max(step, 0):
            raise ConfigError(
                f"the {name} would never be updated: its delay is of {delay:,} steps, and its "
                f"last turn is after {step:,} of {steps:,} steps. Raise --steps or lower the delay"
            )


def moments_divided_as(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> dict[str, Any]:
    r"""Returns an optimiser's state with its moments divided as their parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {
            key: divided_as(parameters[int(index)], value) if isinstance(value, Tensor) else value
            for key, value in kept.items()
        }
        for index, kept in state["state"].items()
    }
    return {**state, "state": moments}


def lay_out(optimizer: torch.optim.Optimizer) -> None:
    r"""Lays an optimiser's moments out in memory as their parameters are.

    Checkpoints are contiguous, parameters may be channels-last; fused updates walk through both
    by address, and take one element's moment for another's where the two differ.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                moment = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
                state[key] = moment.copy_(value)


def visits(phase: Phase, drawn: list[Any]) -> Iterator[list[Any]]:
    r"""Yields what each update of a phase sees: all that was drawn, or its minibatches in turn."""
    for _ in range(phase.repeat):
        if phase.minibatches == 1:
            yield drawn
            continue
        divided = [divided_rows(part, phase.minibatches) for part in drawn]
        yield from (list(parts) for parts in zip(*divided, strict=True))


def mean_of(losses: Sequence[Loss]) -> Loss:
    r"""Returns the mean of the losses of equal parts of a batch, and of what they tell."""
    if len(losses) == 1:
        return losses[0]
    value = torch.stack([loss.value for loss in losses]).mean()
    names = losses[0].info
    return Loss(value, {n: torch.stack([loss.info[n] for loss in losses]).mean() for n in names})
