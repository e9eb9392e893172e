r"""Memory: what an objective keeps from step to step and does not train.

Target networks, queues of features and replay buffers are attributes of the objective. The
trainer moves each of them once a step, after the phases; the objective's `prepare` only reads
them; a checkpoint has them; an instrument that ran the losses puts them back.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..functional.tensors import sent
from ..nn.backbones import Interface

if TYPE_CHECKING:
    from ..data.batch import Batch
    from .objective import Objective

__all__ = ["Count", "Held", "History", "Memory", "Queue", "Target"]


class Count(nn.Module):
    r"""A number that is saved with the module that has it, and lies on the host wherever that is:
    to look at a buffer on an accelerator is to wait until all before it is computed.

    Attributes:
        value: The number; zero at first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.value = 0

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.value)

    def set_extra_state(self, state: Tensor) -> None:
        self.value = int(state)


class Memory(nn.Module, abc.ABC):
    r"""The interface of what is kept. All of its state is in buffers, counts and frozen weights.

    Attributes:
        row_coupling: Why rows that are read from it depend on others of a batch; empty where they
            do not, see `Objective.row_coupling`.
    """

    row_coupling: str = ""

    @abc.abstractmethod
    def follow(self, objective: Objective, drawn: list[Any], step: int) -> None:
        r"""Moves the memory, after the phases of a step, under `no_grad`.

        Arguments:
            objective: Its owner.
            drawn: What `prepare` returned, of each part of the batch.
            step: The step.
        """

    def diagnostics(self, objective: Objective, batch: Batch, step: int) -> dict[str, Tensor]:
        r"""Returns values worth a report, see `Objective.diagnostics`."""
        return {}


class Target(Memory, Interface):
    r"""A lagging copy of a network.

    .. math:: \theta^- \leftarrow \mu \, \theta^- + (1 - \mu) \, \theta

    after each step; :math:`\mu = 0` copies the weights. Buffers are copied. With
    :math:`\mu = 0` what the losses of a step see is the network as it is, without a gradient.
    Losses ask the copy itself, by whichever of its functions: its backbones are those of it.

    References:
        | Consistency Models (Song et al., 2023), https://arxiv.org/abs/2303.01469, Equation 8

    Arguments:
        source: The name of the network that is followed.
        network: That network.
        decay: The rate :math:`\mu`, in [0, 1), or that of each step.

    Raises:
        ValueError: The rate is out of its range.
    """

    def __init__(
        self, source: str, network: nn.Module, decay: float | Callable[[int], float]
    ) -> None:
        super().__init__()
        if not callable(decay) and not 0 <= decay < 1:
            raise ValueError(f"the decay of a target must be within [0, 1), got {decay}")
        self.source, self.decay = source, decay
        self.network = copy.deepcopy(network).requires_grad_(False).eval()

    def forward(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401 (as the network)
        return self.network(*arguments, **named)

    def follow(self, objective: Objective, drawn: list[Any], step: int) -> None:
        decay = self.decay(step) if callable(self.decay) else self.decay
        self.move(objective.network(self.source), 1 - decay)

    def move(self, network: nn.Module, share: float) -> None:
        r"""Moves the copy by a share of the way to a network, its buffers all the way."""
        pairs = zip(self.network.parameters(), network.parameters(), strict=True)
        for mine, its in pairs:
            mine.lerp_(its.to(mine.dtype), share)
        for held, current in zip(self.network.buffers(), network.buffers(), strict=True):
            held.copy_(current)

    def train(self, mode: bool = True) -> Target:
        return super().train(False)


class Held(Target):
    r"""A copy of a network as it was when the copy was made; it follows nothing.

    Arguments:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__("", network, 0.0)

    def follow(self, objective: Objective, drawn: list[Any], step: int) -> None:
        pass


class Queue(Memory):
    r"""The latest rows of something: a ring buffer, whose oldest rows are overwritten first.

    Arguments:
        size: The number of rows that are kept.
        shape: The shape of a row.
        key: The attribute of what `prepare` returned that holds the rows to keep, `(B, *)`.
        dtype: The type of a row; torch's own for numbers by default.

    Raises:
        ValueError: The size is not positive.
    """

    rows: Tensor

    def __init__(
        self, size: int, shape: tuple[int, ...], key: str, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"the size of a queue must be at least 1, got {size}")
        self.key = key
        self.register_buffer("rows", torch.zeros(size, *shape, dtype=dtype))
        self.written = Count()

    @property
    def filled(self) -> Tensor:
        r"""The rows that were written, `(N, *)`, in no order."""
        return self.rows[: min(self.written.value, len(self.rows))]

    def follow(self, objective: Objective, drawn: list[Any], step: int) -> None:
        for part in drawn:
            self.push(getattr(part, self.key))

    def push(self, rows: Tensor) -> None:
        r"""Writes rows over the oldest ones; of more rows than there is room for, the last."""
        size = len(self.rows)
        skipped = max(0, len(rows) - size)
        start = self.written.value + skipped
        places = torch.arange(start, start + len(rows) - skipped, device=self.rows.device) % size
        self.rows[places] = rows[skipped:].detach().to(self.rows)
        self.written.value += len(rows)

    def spread(self, count: int, coming: Tensor) -> Tensor:
        r"""Returns rows at evenly spaced places, `(K, *)`, as they are once others have come.

        Places that are empty even then are left out; the buffer itself is not changed.

        Arguments:
            count: The number of places.
            coming: The rows that are to be written next, `(N, *)`, fewer than there is room for.
        """
        size, start = len(self.rows), self.written.value
        # Found on the host: how many there are is known without waiting for an accelerator.
        places = torch.linspace(0, size - 1, min(count, size)).round().long()
        places = places[places < start + len(coming)]
        since = (places - start) % size  # how many rows are written before one comes here
        new = (since < len(coming)).nonzero().flatten()
        device = self.rows.device
        kept = self.rows[sent(places, device)].to(coming)
        kept[sent(new, device)] = coming[sent(since[new], coming.device)]
        return kept


class History(Memory):
    r"""The latest numbers of each of several kinds, say the rewards of each class.

    Arguments:
        kinds: The number of kinds.
        size: How many numbers of each are kept.
        key: The attribute of what `prepare` returned that holds the numbers, `(B,)`.
        kind: The attribute that holds their kinds, integers `(B,)`.

    Raises:
        ValueError: A number is not positive.
    """

    rows: Tensor
    written: Tensor

    def __init__(self, kinds: int, size: int, key: str, kind: str) -> None:
        super().__init__()
        if kinds < 1 or size < 1:
            raise ValueError(f"kinds and size must be at least 1, got {kinds} and {size}")
        self.key, self.kind = key, kind
        self.register_buffer("rows", torch.zeros(kinds, size))
        self.register_buffer("written", torch.zeros(kinds, dtype=torch.long))

    def with_new(self, kind: int, values: Tensor) -> Tensor:
        r"""Returns the latest numbers of a kind as they will be once `values` are written."""
        size = self.rows.shape[1]
        kept = self.rows[kind, max(0, size - int(self.written[kind])) :]
        return torch.cat([kept, values.to(kept)])[-size:]

    def follow(self, objective: Objective, drawn: list[Any], step: int) -> None:
        for part in drawn:
            values, kinds = getattr(part, self.key), getattr(part, self.kind)
            for kind in kinds.unique().tolist():
                own = values[kinds == kind]
                latest = self.with_new(kind, own)
                self.rows[kind, self.rows.shape[1] - len(latest) :] = latest
                self.written[kind] += len(own)
