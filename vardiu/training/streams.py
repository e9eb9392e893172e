r"""Named streams of random numbers that are seeded, saved and restored together.

Each role (latents, noise, levels, ...) has its own generator, so that an option that draws more of
one kind leaves the others' draws as they were, and two methods can be compared on equal draws.

Several processes draw the same *global* batch and keep their own rows of it: what rows do not mix
does not depend on how many processes share the work. (Particles are each process's own: their law
does not depend on it, their numbers do.)

A batch that is too large for the memory is visited in parts, one after another, see
`over_parts`. A part is what a further process would have been: it draws the same global batch
and keeps its own rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..functional.tensors import LATTICE_DIMENSIONS, lattice_normal, stratified_normal

__all__ = ["LatticeDraws", "StreamDraws", "Streams"]


P = TypeVar("P")


R = TypeVar("R")


def _number(name: str) -> int:
    r"""Returns a seed of 56 bits from a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


class Streams:
    r"""A dictionary of `torch.Generator`, one for each role and device, derived from one seed.

    Arguments:
        seed: The seed of every stream.
        rank: The index of this process.
        world: The number of processes that share each batch.

    Example:
        >>> streams = Streams(seed=0)
        >>> streams.normal("noise", 2, (3,)).shape
        torch.Size([2, 3])
    """

    def __init__(self, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        self.seed, self.rank, self.world = seed, rank, world
        self._generators: dict[str, torch.Generator] = {}

    def __call__(self, role: str, device: torch.device | str = "cpu") -> torch.Generator:
        r"""Returns the generator of a role on a device; made at the first call."""
        device = torch.device(device)
        key = f"{role}@{device.type}"
        if key not in self._generators:
            generator = torch.Generator(device)
            self._generators[key] = generator.manual_seed(_number(f"{self.seed}/{role}"))
        return self._generators[key]

    def own_rows(self, x: Tensor) -> Tensor:
        r"""Returns this process's rows of a global batch."""
        if self.world == 1:
            return x
        n = len(x) // self.world
        return x[self.rank * n : (self.rank + 1) * n]

    def normal(
        self,
        role: str,
        n: int,
        shape: Sequence[int],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        r"""Draws standard normal tensors, with shape `(n, *shape)`."""
        return self.own_rows(
            torch.randn(
                (n * self.world, *shape),
                generator=self(role, device),
                device=device,
                dtype=dtype,
            )
        )

    def uniform(
        self,
        role: str,
        n: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        shared: bool = False,
    ) -> Tensor:
        r"""Draws uniform numbers in [0, 1), `(n,)`; `shared` ones are those of all processes."""
        n = n if shared else n * self.world
        u = torch.rand(n, generator=self(role, device), device=device, dtype=dtype)
        return u if shared else self.own_rows(u)

    @contextlib.contextmanager
    def torch_seeded(self, role: str, device: torch.device | str = "cpu") -> Iterator[None]:
        r"""Makes torch's own generator part of a stream, for code that takes no generator.

        Distributions draw from torch's own; it is put back at the end.
        """
        draw = torch.randint(2**62, (), generator=self(role, "cpu")).item()
        devices = [device] if torch.device(device).type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(draw) + self.rank)
            yield

    @contextlib.contextmanager
    def own_draws(self, step: int, device: torch.device | str = "cpu") -> Iterator[None]:
        r"""Gives each of several processes its own draws of torch's generator in a step (those of
        dropout), and puts the generator back; a lone process goes on with what it has."""
        if self.world == 1:
            yield
            return
        devices = [device] if torch.device(device).type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(_number(f"{self.seed}/own/{step}/{self.rank}"))
            yield

    def over_parts(self, function: Callable[[P], R], parts: Sequence[P]) -> list[R]:
        r"""Calls a function of each part of this process's rows, on the draws of all of them.

        All parts start from the same state of the streams, each as one of `world * len(parts)`
        processes, and the last one leaves the state that the undivided rows would have left. With
        `torch_seeded`, as for processes, each part draws its own.

        Arguments:
            function: What draws; the same roles in the same order for each part.
            parts: Equal parts of the rows, in their order.
        """
        if len(parts) == 1:
            return [function(parts[0])]
        rank, world = self.rank, self.world
        start = {key: generator.get_state() for key, generator in self._generators.items()}
        results = []
        self.world = world * len(parts)
        try:
            for i, part in enumerate(parts):
                self._rewind(start)
                self.rank = rank * len(parts) + i
                results.append(function(part))
        finally:
            self.rank, self.world = rank, world
        return results

    def _rewind(self, states: Mapping[str, Tensor]) -> None:
        r"""Puts back the states of generators; those without one are made anew when asked for."""
        self._generators = {key: g for key, g in self._generators.items() if key in states}
        for key, generator in self._generators.items():
            generator.set_state(states[key])

    @contextlib.contextmanager
    def set_aside(self, role: str) -> Iterator[None]:
        r"""Puts all streams aside for fresh ones of this role, and back at the end.

        What is drawn meanwhile depends on the seed and the role only, and leaves no trace.
        """
        kept, self._generators = self._generators, {}
        seed, self.seed = self.seed, _number(f"{self.seed}/aside/{role}")
        try:
            yield
        finally:
            self.seed, self._generators = seed, kept

    def reset(self, seed: int) -> None:
        r"""Starts every stream anew from `seed`."""
        self.seed = seed
        self._generators.clear()

    def state_dict(self) -> dict[str, Any]:
        r"""Returns the seed and the state of each generator (tensors of bytes)."""
        states = {key: generator.get_state() for key, generator in self._generators.items()}
        return {"seed": self.seed, "generators": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        r"""Restores what `state_dict` returned."""
        self.reset(int(state["seed"]))
        for key, value in state["generators"].items():
            role, device = key.rsplit("@", 1)
            self(role, device).set_state(value.cpu())

    def __repr__(self) -> str:
        return f"Streams(seed={self.seed}, roles={sorted(self._generators)})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Streams:
        copy = Streams(self.seed, self.rank, self.world)
        copy.load_state_dict(self.state_dict())
        return copy


class StreamDraws:
    r"""Independent rows of a batch, from the stream of a role, see `vardiu.students.base.Draws`.

    Arguments:
        streams: The streams.
        role: The role.
        n: The number of rows of this process.
        like: A tensor of the type and device that the numbers have.
    """

    def __init__(self, streams: Streams, role: str, n: int, like: Tensor) -> None:
        self.streams, self.role, self.n = streams, role, n
        self.device, self.dtype = like.device, like.dtype

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        return self.streams.normal(self.role, self.n, shape, device=self.device, dtype=self.dtype)

    def uniform(self) -> Tensor:
        return self.streams.uniform(self.role, self.n, device=self.device, dtype=self.dtype)


class LatticeDraws(StreamDraws):
    r"""Rows of a randomly shifted lattice, or in many dimensions of a Latin hypercube: each
    distributed as an independent one, together spread evenly over the batch of all processes."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        k, total = math.prod(shape), self.n * self.streams.world
        shift = self._shift(k)
        if k <= LATTICE_DIMENSIONS:
            points = lattice_normal(shift, total)
        else:
            points = stratified_normal(self._shift(total * k).view(total, k), shift)
        return self.streams.own_rows(points).unflatten(1, shape)

    def uniform(self) -> Tensor:
        total = self.n * self.streams.world
        places = torch.arange(total, device=self.device, dtype=torch.float64) / total
        return self.streams.own_rows(((places + self._shift(1)) % 1.0).to(self.dtype))

    def _shift(self, k: int) -> Tensor:
        return self.streams.uniform(
            self.role, k, device=self.device, dtype=self.dtype, shared=True
        )
