r"""The processes that share one run: which of them writes, and who waits for whom.

`torchrun` starts them, names each of them in its environment, ends them together and starts them
again. Every process carries out the whole run, on its own rows of each batch; the *writer*, the
first of them, is the only one that writes into the run's folder and prints. A lone process is its
own writer and waits for nobody.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from ..errors import ProcessLost
from .launch import are_launched, following_parent, meeting

__all__ = [
    "agreed",
    "by_writer",
    "count",
    "from_writer",
    "is_writer",
    "joined",
    "rank",
    "talking",
    "wait",
]


T = TypeVar("T")


# Of one message. A process that has died is noticed at once, by its closed connection; one that
# waits for another's measurement, or for the disk, is to wait for long.
LONGEST = datetime.timedelta(days=1)


# In which all processes must have found each other: they import the same libraries meanwhile.
START = datetime.timedelta(minutes=15)


# ---------------------------------------------------------------- one run of all


@contextlib.contextmanager
def joined() -> Iterator[None]:
    r"""Has this process take part in the run that `torchrun` started it for; a lone one does
    what it would.

    Messages go by gloo, and those about tensors of CUDA by nccl. All but the writer are silent:
    what they say, the writer says. They stop when `torchrun` has died.
    """
    if not are_launched():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with following_parent():
        with talking():
            store, index, world = meeting(START)
            torch.distributed.init_process_group(
                backend, store=store, rank=index, world_size=world, timeout=START
            )
            all_of_them = torch.distributed.group.WORLD
            assert all_of_them is not None
            all_of_them.set_timeout(LONGEST)
        if is_writer():
            yield
        else:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    yield
        wait()  # until the writer has finished; after an error nobody is waited for
    torch.distributed.destroy_process_group()
    sys.stdout.flush()


# ---------------------------------------------------------------- who is who


def count() -> int:
    r"""Returns the number of processes that share the run."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank() -> int:
    r"""Returns the index of this process among them."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def is_writer() -> bool:
    r"""Whether this process is the one that writes and prints."""
    return rank() == 0


# ---------------------------------------------------------------- messages


@contextlib.contextmanager
def talking() -> Iterator[None]:
    r"""Says in one line that a message could not be sent, or did not come.

    Raises:
        ProcessLost: Another process has ended.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ProcessLost(
            "another process of this run has ended, and this one ends with it. What was saved is "
            "kept; torchrun's --max-restarts starts all of them again"
        ) from error


def agreed(*wishes: bool) -> tuple[bool, ...]:
    r"""Returns for each wish whether some process has it."""
    if count() == 1:
        return wishes
    votes = torch.tensor([float(wish) for wish in wishes])
    with talking():
        torch.distributed.all_reduce(votes)
    return tuple(vote > 0 for vote in votes.tolist())


def wait() -> None:
    r"""Waits until all processes have come here."""
    agreed(False)


def from_writer(value: T) -> T:
    r"""Returns the writer's value."""
    if count() == 1:
        return value
    values: list[T] = [value]
    with talking():
        torch.distributed.broadcast_object_list(values, device=torch.device("cpu"))
    return values[0]


def by_writer(work: Callable[[], object]) -> None:
    r"""Has the writer do something; all go on when it is done."""
    if is_writer():
        work()
    wait()
