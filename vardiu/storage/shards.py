r"""Tensors whose parts lie in several processes, on disk: safetensors, by torch's distributed
checkpoints, with no pickle among them. Those parts of torch are imported where they are used: they
take long, and a lone process has no use for them.

Every process writes its own part. Whoever reads, any number of processes, gets whole tensors.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, shown
from . import processes

__all__ = ["is_divided", "read_shards", "write_shards"]


def is_divided(value: object) -> bool:
    r"""Whether something is a tensor of which each process has a part."""
    if processes.count() == 1 or not isinstance(value, Tensor):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    r"""Writes this process's parts into a folder that is there; all processes do so at once.

    Raises:
        CheckpointError: One of them could not write its part; each process raises it.
        ProcessLost: One of them has ended.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import hf_storage
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with quiet(), processes.talking():
            writer = hf_storage.HuggingFaceStorageWriter(str(folder), save_distributed=True)
            dcp.save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        rank, (reason, _) = min(error.failures.items())
        raise CheckpointError(f"process {rank}: {shown(str(reason))}") from error
    processes.wait()


def read_shards(folder: Path, names: Sequence[str]) -> dict[str, Tensor]:
    r"""Returns whole tensors whose parts lie in a folder, which have been verified.

    Raises:
        CheckpointError: They are not what `write_shards` wrote.
    """
    if not names:
        return {}
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import hf_storage
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    whole: dict[str, Tensor] = {}
    try:
        with quiet():
            reader = hf_storage.HuggingFaceStorageReader(str(folder))
            about = reader.read_metadata().state_dict_metadata
            for name in names:
                row = about[name]
                assert isinstance(row, TensorStorageMetadata)
                whole[name] = torch.empty(row.size, dtype=row.properties.dtype)
            dcp.load(
                whole,
                storage_reader=hf_storage.HuggingFaceStorageReader(str(folder)),
                no_dist=True,
            )
    except (CheckpointException, KeyError, OSError, ValueError) as error:
        raise CheckpointError(f"{shown(folder)} holds no shards: {shown(str(error))}") from error
    return whole


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    r"""Leaves out torch's warning that one process reads what several wrote: it is meant so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
