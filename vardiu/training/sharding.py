r"""Networks whose weights are divided among the processes, by torch's FSDP2.

Each process keeps its part of every weight, and the whole of a block for as long as the block is
at work. Gradients of a divided network are averaged as they are divided. What is divided are
backbones, the networks inside of denoisers and students. FSDP2 is imported where it is used: a
lone process has no use for it.

References:
    | PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel (Zhao et al., 2023)
    | https://arxiv.org/abs/2304.11277
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..nn.backbones import backbones
from ..nn.taps import GivesFeatures
from ..storage import processes
from ..storage.shards import is_divided
from .frozen import Frozen
from .memory import Target
from .objective import Objective

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Division", "Shard", "chosen_shard", "divided_as", "state_divided_as", "whole"]


Shard = Literal["auto", "none", "full"]


# Blocks with fewer weights are sent with the network around them: a message costs more.
LEAST = 2**16


def chosen_shard(objective: Objective, shard: Shard, device: torch.device) -> Shard:
    r"""Returns what `auto` stands for: to divide where half of a card could not hold it whole.

    A trained network is counted five times: weights, gradients, two moments and an average.
    """
    if processes.count() == 1 or (shard == "auto" and device.type != "cuda"):
        return "none"
    if shard != "auto":
        return shard
    held = [m.module for m in objective.children() if isinstance(m, Frozen)]
    trained = [objective.network(name) for name in objective.trained]
    size = sum(bytes_of(m) for m in held) + 5 * sum(bytes_of(m) for m in trained)
    return "full" if 2 * size > torch.cuda.mem_get_info(device)[1] else "none"


def bytes_of(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


class Division:
    r"""The weights of an objective's networks, of their lagging copies and of its student's
    average, divided. Optimisers are made afterwards, for the parts.

    What is held frozen is divided once and stays so; the others are whole again after `undo`.

    Arguments:
        objective: The objective.
        average: The average of its student.

    Raises:
        ConfigError: A network that is trained cannot be divided.
    """

    def __init__(self, objective: Objective, average: nn.Module) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        self.mesh = init_device_mesh(objective.like.device.type, (processes.count(),))
        self.places: list[tuple[nn.Module, str, nn.Module]] = []
        for held in objective.children():
            if isinstance(held, Frozen):
                for network in backbones(held.module):
                    divide(network, self.mesh)
        copies = [m.network for m in objective.children() if isinstance(m, Target)]
        for module in (*copies, *(objective.network(n) for n in objective.trained), average):
            for network in backbones(module):
                found = list(holders((objective, average), network))
                if found and not any(is_divided(p) for p in network.parameters()):
                    blank = without_weights(network)
                    self.places += [(parent, name, blank) for parent, name in found]
                    divide(network, self.mesh)
            bare = [n for n, p in module.named_parameters() if not is_divided(p)]
            if bare:
                raise ConfigError(
                    f"--shard full cannot divide a {type(module).__name__}: its weight {bare[0]} "
                    "is in no network of its own. Take --shard none"
                )

    def undo(self) -> None:
        r"""Puts whole networks in the place of divided ones, in all processes at once."""
        filled: set[int] = set()
        for parent, name, blank in self.places:
            divided = parent.get_submodule(name)
            if id(blank) not in filled:
                state = {key: whole(value) for key, value in divided.state_dict().items()}
                blank.load_state_dict(state, assign=True)
                filled.add(id(blank))
            setattr(parent, name, blank.train(divided.training))
        self.places = []


def divide(network: nn.Module, mesh: DeviceMesh) -> None:
    r"""Divides the weights of a network, block by block; nothing where that has been done."""
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    if isinstance(network, FSDPModule):
        return
    for block in list(blocks(network)):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    if isinstance(network, GivesFeatures):
        register_fsdp_forward_method(network, "features")


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    r"""Yields the members of a network's lists of modules that are worth a message each."""
    for module in network.modules():
        for block in module if isinstance(module, nn.ModuleList) else ():
            inner = any(isinstance(m, nn.ModuleList) for m in block.modules())
            if not inner and sum(p.numel() for p in block.parameters()) >= LEAST:
                yield block


def holders(roots: tuple[nn.Module, ...], network: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    r"""Yields the modules that hold a network, and the name that it has there."""
    for root in roots:
        for parent in root.modules():
            yield from ((parent, n) for n, child in parent.named_children() if child is network)


def without_weights(network: nn.Module) -> nn.Module:
    r"""Returns a copy of a network whose weights take no memory: they are still to come."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in network.parameters()
    }
    return copy.deepcopy(network, memo)


# ---------------------------------------------------------------- tensors


def whole(tensor: Tensor) -> Tensor:
    r"""Returns a tensor whose parts all processes have; all of them ask for it."""
    if not is_divided(tensor):
        return tensor
    with processes.talking():
        full: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]  # a DTensor
    return full


def divided_as(like: Tensor, value: Tensor) -> Tensor:
    r"""Returns this process's part of a whole tensor, divided as another one is; the tensor itself
    where that one is whole or of another shape."""
    if not is_divided(like) or is_divided(value) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    moved = value.to(like.device)
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)


def state_divided_as(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    r"""Returns a module's state with its tensors divided as the module's are."""
    there = module.state_dict()
    return {k: divided_as(there[k], v) if k in there else v for k, v in state.items()}
