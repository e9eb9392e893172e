r"""Components that stand around a network, each read when it is asked for, and let go of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

__all__ = ["Parts"]


class Parts(Mapping[str, Any]):
    r"""The components of a pipeline by their names, each read when it is first asked for.

    A training whose embeddings and latents are on disk asks for no encoder, and none is built.

    Arguments:
        readers: What reads each component.
    """

    def __init__(self, readers: Mapping[str, Callable[[], Any]]) -> None:
        self._readers = dict(readers)
        self._read: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 (a model)
        if name not in self._read:
            self._read[name] = self._readers[name]()
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._readers  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    @property
    def in_memory(self) -> tuple[str, ...]:
        r"""The names of the components that have been read."""
        return tuple(self._read)

    def place(self, prefix: str, device: torch.device) -> None:
        r"""Moves the components whose names begin so to a device, read now if they were not."""
        for name in self:
            if name.startswith(prefix):
                self[name].to(device)

    def release(self, prefix: str) -> None:
        r"""Lets go of the components whose names begin so; they are read again if asked for."""
        for name in [name for name in self._read if name.startswith(prefix)]:
            del self._read[name]
