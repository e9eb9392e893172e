r"""Where the states of a training come from: noised data, the teacher's path, the student's own.

A student of few steps meets, from its second step on, states that its own earlier steps made. A
training on noised data alone never shows it those: its errors there are not seen, and add up. What
is queried is mixed of three laws here, at each place :math:`k` of the student's grid,

.. math:: d_k = (1 - b_T - b_S) \, q_k + b_T \, d_k^T + b_S \, d_k^\theta

with :math:`q_k` the law of noised data, and :math:`d_k^T` and :math:`d_k^\theta` those of the
states on the paths of the teacher and of the student from fresh noise. The method's own loss is
asked at each of them; no gradient flows through a path, and a state has no clean sample beside it.

References:
    | DDIL: Diversity Enhancing Diffusion Distillation with Imitation Learning (Garrepalli et al.,
    | 2024), https://arxiv.org/abs/2410.11971
    | A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning
    | (Ross et al., 2011), https://arxiv.org/abs/1011.0686
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..functional.tensors import expand_like
from ..samplers.trajectories import trajectory
from ..students.few_step import FewStep
from .memory import Memory, Queue
from .objective import Objective
from .streams import StreamDraws

__all__ = ["Mixture", "Shares", "Shown", "States"]


class Shown(NamedTuple):
    r"""What a training asks its student at."""

    x_t: Tensor
    """The states, `(B, *)`."""
    place: Tensor
    """Their places in the grid, `(B,)`."""
    cond: Mapping[str, Tensor]
    """The conditions of each state: those it was made under."""


# Of an objective, a batch, places in the grid `(B,)` and the step, the states there.
States = Callable[[Any, Batch, Tensor, int], Shown]


SOURCES = ("teacher", "student")


@dataclass(frozen=True)
class Shares:
    r"""The shares of the teacher's and of the student's states; the rest are noised data.

    Arguments:
        teacher: The share :math:`b_T` at the end.
        student: The share :math:`b_S` at the end.
        start: The steps before the first state of a path.
        ramp: The steps after these, in which both shares grow linearly; 0 for at once.
    """

    teacher: float
    student: float
    start: int = 0
    ramp: int = 0

    def at(self, step: int) -> dict[str, float]:
        r"""Returns the shares at a step, by source."""
        grown = float(step >= self.start)
        if self.ramp:
            grown = min(max((step - self.start) / self.ramp, 0.0), 1.0)
        return {"teacher": grown * self.teacher, "student": grown * self.student}


class Path(NamedTuple):
    r"""The levels of the paths of a teacher and of a student.

    Arguments:
        sigmas: The levels of the teacher's steps, from pure noise to the last place, `(S + 1,)`.
        stops: Which of them are the places of the student's grid, `(K,)`.
        places: The numbers that the objective has for these; none for 0 to K - 1.
    """

    sigmas: Tensor
    stops: Tensor
    places: Tensor | None = None


class Ring(nn.Module):
    r"""Paths that are kept, the oldest of which are overwritten first.

    Arguments:
        rows: The number of paths.
        shape: The shape of a path, `(K, *)`.
        asked: Conditions of any number of rows, by name.
    """

    def __init__(self, rows: int, shape: tuple[int, ...], asked: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.states, self.born = Queue(rows, shape, ""), Queue(rows, (), "", torch.long)
        self.cond = nn.ModuleDict(
            {name: Queue(rows, value.shape[1:], "", value.dtype) for name, value in asked.items()}
        )

    @property
    def count(self) -> int:
        r"""The number of paths so far, at most those there is room for."""
        return len(self.states.filled)

    def push(self, states: Tensor, cond: Mapping[str, Tensor], step: int) -> None:
        r"""Keeps paths that were run at a step."""
        self.states.push(states)
        self.born.push(torch.full((len(states),), step, device=states.device))
        for name, queue in self.cond.items():
            assert isinstance(queue, Queue)
            queue.push(cond[name])

    def take(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        r"""Returns paths and their conditions, by an index `(B,)`."""
        kept = {name: queue.rows for name, queue in self.cond.items() if isinstance(queue, Queue)}
        return self.states.rows[rows], {name: value[rows] for name, value in kept.items()}


class Mixture(Memory):
    r"""States of three sources, those of paths kept in two ring buffers.

    A path gives a state for each place. So many paths as a batch has rows are run each
    `refill`-th step, by the student as it then is, in evaluation mode and as one samples with it;
    a row of a batch takes one of the kept paths at random, with the conditions that it was made
    under. With no buffer each batch has paths of its own, under its own conditions.

    Arguments:
        forward: The source of noised data: the objective's own.
        shares: The shares of the other two.
        path: The levels of the paths.
        shape: The shape of a sample.
        asked: Conditions under which one samples, by name, of any number of rows.
        batch: The paths that are run at once.
        replay: The capacity of a buffer, in batches; 0 for none.
        refill: The steps between two refills.

    Raises:
        ValueError: The shares are not within [0, 1] in sum, or there is but one place.
    """

    sigmas: Tensor
    places: Tensor | None

    def __init__(
        self,
        forward: States,
        shares: Shares,
        path: Path,
        shape: tuple[int, ...],
        asked: Mapping[str, Tensor],
        *,
        batch: int,
        replay: int = 16,
        refill: int = 4,
    ) -> None:
        super().__init__()
        low, total = min(shares.teacher, shares.student), shares.teacher + shares.student
        if not (low >= 0 and total <= 1):
            raise ValueError(
                "the shares of the teacher's and of the student's states must be at least 0 and "
                f"together at most 1, got {shares.teacher:g} and {shares.student:g}"
            )
        self.forward_states, self.shares, self.batch, self.refill = forward, shares, batch, refill
        self.watched = ""  # the source that an instrument asks for alone
        self.register_buffer("sigmas", path.sigmas, persistent=False)
        self.stops: list[int] = path.stops.tolist()
        self.register_buffer("places", path.places, persistent=False)
        self.names = tuple(asked)
        self.row_coupling = "states are of paths that each process keeps of its own" * bool(replay)
        for name, value in asked.items():
            self.register_buffer(f"asked_{name}", value, persistent=False)
        path_shape = (len(path.stops), *shape)
        self.rings = nn.ModuleDict(
            {
                source: Ring(replay * batch, path_shape, asked)
                for source in SOURCES
                if replay and getattr(shares, source)
            }
        )

    # Not `forward`: it is no network, and hooks on networks do not hear of it.
    def __call__(self, objective: Objective, batch: Batch, place: Tensor, step: int) -> Shown:
        r"""Returns the states of a batch: those of noised data, and in the place of some of them
        those of paths. With shares of zero, what the objective's own source returns."""
        if self.watched:
            place = torch.full_like(place, len(self.stops) - 1)
            number = place if self.places is None else self.places[place]
            shown = self.forward_states(objective, batch, number, step)
            if self.watched == "forward":
                return shown
            states = self.paths(objective, self.watched, batch.rows, batch.cond)
            return shown._replace(x_t=states[:, -1])
        shown = self.forward_states(objective, batch, place, step)
        return self.mixed(objective, shown, batch, step)

    def mixed(
        self,
        objective: Objective,
        shown: Shown,
        batch: Batch,
        step: int,
        own: Tensor | None = None,
    ) -> Shown:
        r"""Returns states, some of them in the place of those given.

        Arguments:
            objective: The objective.
            shown: States of noised data.
            batch: Their batch.
            step: The step.
            own: The student's own states at these places, `(B, *)`, where the objective has run
                a path for each row of the batch; a buffer's are taken before them.
        """
        n, low, u = batch.rows, 0.0, objective.uniform(batch.rows, "source")
        k, every = shown.place, torch.arange(batch.rows, device=shown.place.device)
        if self.places is not None:
            k = (objective.uniform(n, "place of a path") * len(self.stops)).long()
        for source, share in self.shares.at(step).items():
            if share == 0:
                continue
            mine = (u >= low) & (u < low + share)
            low += share
            kept, cond = self.taken(objective, source, n)
            if kept is not None:
                states = kept[every, k]
            elif source == "student" and own is not None:
                states, cond = own, batch.cond
            else:
                cond = batch.cond
                states = self.paths(objective, source, n, cond)[every, k]
            shown = Shown(
                torch.where(expand_like(mine, states), states.to(shown.x_t), shown.x_t),
                torch.where(mine, k if self.places is None else self.places[k], shown.place),
                {
                    name: torch.where(expand_like(mine, value), cond[name].to(value), value)
                    for name, value in shown.cond.items()
                },
            )
        return shown

    def taken(
        self, objective: Objective, source: str, n: int
    ) -> tuple[Tensor | None, Mapping[str, Tensor]]:
        r"""Returns kept paths at random, `(n, K, *)`, and their conditions; none without any."""
        ring = self.rings[source] if source in self.rings else None
        if not isinstance(ring, Ring) or not ring.count:
            return None, {}
        return ring.take((objective.uniform(n, f"kept {source}") * ring.count).long())

    def paths(
        self, objective: Objective, source: str, n: int, cond: Mapping[str, Tensor]
    ) -> Tensor:
        r"""Runs paths from fresh noise, and returns their states at all places, `(n, K, *)`."""
        like = objective.like
        network = objective.network("generator")
        student = objective.student_of(network)
        assert isinstance(student, FewStep)
        role = f"path of the {source}"
        with evaluated(network):
            if source == "student":
                z = student.latent_from(StreamDraws(objective.streams, role, n, like))
                return torch.stack([state.x_t for state in student.states(z, **cond)], dim=1)
            noise = objective.streams.normal(
                role, n, tuple(student.shape), device=like.device, dtype=like.dtype
            )
            sigmas = self.sigmas.to(like)
            asked = functools.partial(objective.teacher, **cond)
            found = list(trajectory(asked, sigmas[0] * noise, sigmas, arrives=False))
            return torch.stack([found[i] for i in self.stops], dim=1)

    def diagnostics(self, objective: Objective, batch: Batch, step: int) -> dict[str, Tensor]:
        r"""Returns the covariate shift: the student's error at the last place, as the root of the
        mean square, at noised data and at states of its own path, and their ratio; nothing of an
        objective that states no `squared_error`."""
        found: dict[str, Tensor] = {}
        with objective.undisturbed("covariate shift"):
            for self.watched in ("forward", "student"):
                try:
                    drawn = objective.prepare(batch, step)
                    info = objective.phases[0].loss(drawn, step).info
                finally:
                    source, self.watched = self.watched, ""
                if "squared_error" in info:
                    found[f"shift/{source}"] = info["squared_error"].sqrt()
        if found:
            found["shift/ratio"] = found["shift/student"] / found["shift/forward"]
        return found

    def follow(self, objective: Objective, drawn: list[Any], step: int) -> None:
        shares = self.shares.at(step + 1)
        for source, ring in self.rings.items():
            assert isinstance(ring, Ring)
            if shares[source] > 0 and ((step + 1) % self.refill == 0 or not ring.count):
                cond = self.asked(objective, self.batch)
                ring.push(self.paths(objective, source, self.batch, cond), cond, step + 1)

    def asked(self, objective: Objective, n: int) -> dict[str, Tensor]:
        r"""Draws conditions under which one samples, of so many rows."""
        if not self.names:
            return {}
        table: dict[str, Tensor] = {n: getattr(self, f"asked_{n}") for n in self.names}
        count = len(next(iter(table.values())))
        rows = (objective.uniform(n, "conditions of paths") * count).long()
        return {name: value[rows] for name, value in table.items()}


@contextlib.contextmanager
def evaluated(network: nn.Module) -> Iterator[None]:
    r"""Has a network be in evaluation mode: a path is one that is sampled, without dropout."""
    mode = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(mode)
