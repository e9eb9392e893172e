r"""How much memory the networks of an objective ask for, counted and not guessed.

Weights, gradients and the optimiser's moments are sums over tensors. Activations are what autograd
keeps from the forward pass for the backward pass: every tensor that it packs away is seen by
`torch.autograd.graph.saved_tensors_hooks`. Several saved tensors may be views of one storage, and
some are the weights themselves: each storage counts once, and those of weights and buffers do not.
What an operation needs for an instant is not counted; the peak of a probe shows it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batch import Batch
from ..nn.quantised import inner_tensors
from ..training.objective import Objective, networks, only

__all__ = ["activations", "size", "weights"]


def tensors(value: Any) -> Iterator[Tensor]:  # noqa: ANN401 (any nest)
    r"""Yields the tensors in a nest of dictionaries, lists and tuples."""
    if isinstance(value, Tensor):
        yield from inner_tensors(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def size(value: Any) -> int:  # noqa: ANN401 (any nest)
    r"""Returns the bytes of the tensors in a nest; each storage counts once.

    Example:
        >>> x = torch.zeros(3, dtype=torch.float64)
        >>> size({"x": x, "view": [x[1:]]})
        24
    """
    storages = {storage_of(t): t.untyped_storage() for t in tensors(value)}
    return sum(storage.nbytes() for storage in storages.values())


def storage_of(tensor: Tensor) -> int:
    r"""Returns a number that tells storages apart; those without memory, of the `meta` device, by
    the object that stands for them."""
    storage = tensor.untyped_storage()
    return storage.data_ptr() or storage._cdata


def weights(module: nn.Module) -> list[Tensor]:
    r"""Returns the parameters and buffers of a module."""
    return [*module.parameters(), *module.buffers()]


class Count:
    r"""Counts what autograd saves, by the network in whose call it does.

    Attributes:
        found: The bytes by network; "" stands for what is saved outside of all.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        self.seen = {storage_of(part) for t in known for part in inner_tensors(t)}
        self.kept: list[Tensor] = []
        self.inside = [""]
        self.found: dict[str, int] = {}

    def pack(self, tensor: Tensor) -> None:
        # Kept here, so that no other storage takes its address, and without its graph: a graph
        # that holds its own outputs is never freed. Nothing is kept for a backward pass.
        self.kept.append(tensor.detach())
        for part in inner_tensors(tensor):
            if storage_of(part) not in self.seen:
                self.seen.add(storage_of(part))
                name, size = self.inside[-1], part.untyped_storage().nbytes()
                self.found[name] = self.found.get(name, 0) + size

    def unpack(self, packed: None) -> Tensor:
        raise RuntimeError("a forward pass that was counted has no backward pass")

    @contextlib.contextmanager
    def counting(self, modules: Mapping[str, nn.Module]) -> Iterator[None]:
        r"""Counts what is saved while the context is open."""
        handles = []
        for name, module in modules.items():
            enter = module.register_forward_pre_hook(lambda m, a, n=name: self.inside.append(n))
            leave = module.register_forward_hook(
                lambda m, a, o: self.inside.pop() and None, always_call=True
            )
            handles += [enter, leave]
        try:
            with torch.autograd.graph.saved_tensors_hooks(self.pack, self.unpack):
                yield
        finally:
            self.kept.clear()
            for handle in handles:
                handle.remove()


def activations(objective: Objective, batch: Batch, step: int = 0) -> dict[str, dict[str, int]]:
    r"""Returns the bytes that autograd keeps for each phase of a batch, by network.

    Nothing is trained; streams, counters and buffers are put back.

    Arguments:
        objective: The objective.
        batch: The batch, or the part of one that is visited at a time.
        step: The step.
    """
    found = {}
    modules = networks(objective)
    known = [t for module in modules.values() for t in weights(module)]
    with objective.undisturbed("footprint"):
        with torch.no_grad():
            drawn = objective.prepare(batch, step)
        for phase in objective.phases:
            count = Count(known)
            with only(objective, phase.updates), count.counting(modules):
                loss = phase.loss(drawn, step)
            found[phase.name] = count.found
            del loss
    return found
