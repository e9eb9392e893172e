r"""Batches: endless iterators that know their place, so that a run resumes where it stopped."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, amount
from .batch import Batch, divided_rows

__all__ = ["Batches", "DataFree", "Shuffled", "Stream", "check"]


def check(x: Tensor, name: str = "data") -> Tensor:
    r"""Returns clean samples as they are, or says what is wrong with them.

    Raises:
        ValueError: They are empty, not of a floating-point type, or not finite.
    """
    if len(x) == 0:
        raise ValueError(f"{name} is empty")
    if not x.is_floating_point():
        raise ValueError(
            f"{name} must be of a floating-point type, got {x.dtype}; "
            "scale images of bytes to [-1, 1]: x.float() / 127.5 - 1"
        )
    bad = ~x.isfinite()
    if bool(bad.any()):
        first = tuple(bad.nonzero()[0].tolist())
        found = amount(int(bad.sum()), "value that is", "values that are")
        raise ValueError(f"{name} holds {found} not finite, the first at index {first}")
    return x


class Batches(abc.ABC):
    r"""The interface: `next(batches)` returns a `Batch`; the place is in `state_dict`.

    Attributes:
        rank: The index of this process, set by the trainer.
        world: The number of processes. Each gets its own rows of one global batch, which is the
            same whatever their number.
    """

    def __init__(self) -> None:
        self.count = 0
        self.rank, self.world = 0, 1

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = self.at(self.count)
        self.count += 1
        return batch

    @abc.abstractmethod
    def at(self, index: int) -> Batch:
        r"""Returns this process's rows of the batch of this index, which is asked for in order."""

    def own(self, size: int) -> slice:
        r"""Returns which rows of a global batch are this process's.

        Raises:
            ConfigError: The rows cannot be divided equally.
        """
        if size % self.world:
            raise ConfigError(
                f"a batch of {size:,} rows cannot be divided among {self.world} processes: give "
                "a batch that is a multiple of their number"
            )
        rows = size // self.world
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = int(state["count"])


class Shuffled(Batches):
    r"""Batches of a data set in memory, in a new random order each epoch.

    The order depends on the seed and the epoch only. What is left of an epoch and does not fill a
    batch is dropped.

    Arguments:
        x: The samples, with shape :math:`(N, *)`.
        cond: Their conditions, each with :math:`N` rows.
        batch_size: The number of samples of a batch.
        seed: The seed of the orders.

    Raises:
        ValueError: The data are empty, not finite, of another type, or fewer than a batch.
    """

    def __init__(
        self, x: Tensor, cond: Mapping[str, Tensor], batch_size: int, *, seed: int = 0
    ) -> None:
        super().__init__()
        check(x)
        if not 1 <= batch_size <= len(x):
            raise ValueError(
                f"batch_size must be within [1, {len(x)}], the number of samples, got {batch_size}"
            )
        for name, value in cond.items():
            if len(value) != len(x):
                raise ValueError(f"{name} must have {len(x)} rows, as the data, got {len(value)}")
        self.x, self.cond, self.batch_size, self.seed = x, dict(cond), batch_size, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def at(self, index: int) -> Batch:
        size = self.batch_size
        epoch, place = divmod(index, len(self.x) // size)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.x), generator=generator)
        rows = self._order[place * size : (place + 1) * size][self.own(size)]
        return Batch.of(self.x[rows], {name: value[rows] for name, value in self.cond.items()})


class DataFree(Batches):
    r"""Batches for methods without data: a number of rows, and random classes.

    Arguments:
        batch_size: The number of rows of a batch.
        classes: The number of classes; without it there is no `label`.
        seed: The seed of the classes.
        label: Classes, with shape :math:`(N)`, each of which is drawn as often as another; by
            default all classes are.
    """

    def __init__(
        self,
        batch_size: int,
        *,
        classes: int | None = None,
        seed: int = 0,
        label: Tensor | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size, self.classes, self.seed = batch_size, classes, seed
        self.label = label

    def at(self, index: int) -> Batch:
        own = self.own(self.batch_size)
        n = own.stop - own.start
        if self.classes is None:
            return Batch(n)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        among = self.classes if self.label is None else len(self.label)
        label = torch.randint(among, (self.batch_size,), generator=generator)
        label = label if self.label is None else self.label[label]
        return Batch(n, cond={"label": label[own]})


class Stream(Batches):
    r"""Batches of any iterable that can be made again; resumes by skipping what was seen.

    Arguments:
        make: Returns a fresh iterable of batches, the same each time. Called again at its end.
            Each of several processes keeps its own rows.
    """

    def __init__(self, make: Callable[[], Iterable[Batch]]) -> None:
        super().__init__()
        self.make = make
        self._rows: Iterator[Batch] = iter(())
        self._next = -1

    def at(self, index: int) -> Batch:
        if index != self._next:
            self._rows = itertools.islice(self._endless(), index, None)
        self._next = index + 1
        batch = next(self._rows)
        self.own(batch.rows)
        own: Batch = divided_rows(batch, self.world)[self.rank]
        return own

    def _endless(self) -> Iterator[Batch]:
        while True:
            empty = True
            for batch in self.make():
                empty = False
                check(batch.clean(), "a batch of the stream")
                yield batch
            if empty:
                raise ValueError("the stream is empty")
