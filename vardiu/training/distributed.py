r"""What the processes of one run tell each other of a step; nothing in a lone process.

Which numbers are whose, for any number of processes:

- Every stream of `Streams` and the order of the data are *global*: each process draws the numbers
  of the whole batch and keeps its own rows. What torch's own generator gives in a step (dropout,
  particles) is each process's *own*, a function of seed, step and rank.
- Every process has equally many rows. Gradients, losses and what phases and diagnostics tell are
  means over rows: their plain mean over processes is that of the whole batch. Norms, clipping and
  the scale of a loss are computed from averaged gradients, alike in all processes.
- Networks, optimisers, averages and memories are the same in all processes, bit for bit, and so
  is a checkpoint: it does not know how many processes there were.
- A loss that couples the rows of a batch is not a mean over rows, and is refused, see
  `Objective.row_coupling`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..storage import processes
from ..storage.shards import is_divided

__all__ = ["averaged", "share_gradients", "standard_error"]


# The numbers of a message of gradients: 64 MiB in float32, enough for any network to be busy.
BUCKET = 2**24


def averaged(value: Tensor) -> Tensor:
    r"""Returns the mean over processes, without a gradient: what is not finite in one of them is
    so in all, and none waits for ever."""
    value = value.detach().clone()
    if processes.count() > 1:
        with processes.talking():
            torch.distributed.all_reduce(value)
        value /= processes.count()
    return value


def standard_error(values: Tensor) -> Tensor:
    r"""Returns the standard error of the mean of independent numbers, one a row, `(B,)`: of the
    rows of all processes."""
    world, n = processes.count(), len(values)
    if world == 1:
        return values.std() / math.sqrt(n)
    wide = values.double()
    mean, square = averaged(torch.stack([wide.mean(), wide.square().mean()]))
    variance = (square - mean.square()).clamp_min(0.0) * (n * world) / (n * world - 1)
    return (variance / (n * world)).sqrt().to(values.dtype)


def share_gradients(parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
    r"""Averages gradients over processes, and returns the mean of a loss, in the same message.

    Arguments:
        parameters: Those that have gradients, the same in all processes.
        loss: A scalar.
    """
    world, mean = processes.count(), loss.detach().clone().reshape(1)
    if world == 1:
        return mean[0]
    messages = []
    with processes.talking():
        # What is divided among the processes has been averaged on its way there.
        found = (p.grad for p in parameters if p.grad is not None and not is_divided(p.grad))
        for bucket in buckets([mean, *found]):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            messages.append((bucket, flat, torch.distributed.all_reduce(flat, async_op=True)))
        for bucket, flat, message in messages:
            message.wait()
            flat /= world
            sizes = [tensor.numel() for tensor in bucket]
            for tensor, part in zip(bucket, flat.split(sizes), strict=True):
                tensor.copy_(part.view_as(tensor))
    return mean[0]


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    r"""Yields the tensors in groups, each of one type and of so many numbers that one message is
    worth it."""
    group: list[Tensor] = []
    for tensor in tensors:
        size = sum(other.numel() for other in group)
        if group and (size + tensor.numel() > BUCKET or tensor.dtype != group[-1].dtype):
            yield group
            group = []
        group.append(tensor)
    if group:
        yield group
