r"""Prompts as classes: a denoiser that looks its text conditions up by an index.

A batch of a million integers is light, one of a million embeddings is not; and whatever can be
done with classes (drawing them, keeping them with pairs, saving them) can be done with prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Denoiser

__all__ = ["Captioned", "Captions", "LookedUp"]


class Captions:
    r"""Rows of conditions, one a prompt, shared by all denoisers that look them up.

    Arguments:
        rows: The conditions by name, each with as many rows as there are prompts.

    Attributes:
        names: The names of the conditions.

    Raises:
        ValueError: They have other numbers of rows, or none.
    """

    def __init__(self, rows: Mapping[str, Tensor]) -> None:
        lengths = {name: len(value) for name, value in rows.items()}
        if not lengths or len(set(lengths.values())) != 1 or min(lengths.values()) < 1:
            raise ValueError(f"every condition must have one row a prompt, got {lengths}")
        self.rows = dict(rows)
        self.names = tuple(rows)

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))

    def __call__(self, index: Tensor) -> dict[str, Tensor]:
        r"""Returns the conditions of prompts by their index, `(B,)`."""
        for name, value in self.rows.items():
            if value.device != index.device:
                self.rows[name] = value.to(index.device)
        return {name: value[index] for name, value in self.rows.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Captions:
        return self


class LookedUp(Captions):
    r"""Conditions that are not held in memory: each row is read, or encoded, when it is asked for.

    Teacher, fake and student ask for the same rows in turn: the latest few answers are kept.

    Arguments:
        count: The number of prompts.
        names: The names of the conditions.
        look_up: Returns the conditions of prompts by their index, on any device.
    """

    KEPT = 4

    def __init__(
        self,
        count: int,
        names: Sequence[str],
        look_up: Callable[[Tensor], Mapping[str, Tensor]],
    ) -> None:
        self.count, self.names, self.look_up = count, tuple(names), look_up
        self._latest: dict[tuple[Any, ...], dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return self.count

    def __call__(self, index: Tensor) -> dict[str, Tensor]:
        key = (index.device, *index.tolist())
        if key not in self._latest:
            with torch.no_grad():
                rows = self.look_up(index)
            placed = {name: value.to(index.device) for name, value in rows.items()}
            while len(self._latest) >= self.KEPT:
                del self._latest[next(iter(self._latest))]
            # Networks compute from single precision, whatever is kept.
            self._latest[key] = {
                name: value.float() if value.is_floating_point() else value
                for name, value in placed.items()
            }
        return dict(self._latest[key])


class Captioned(Denoiser):
    r"""A denoiser of texts that takes `label`, the index of a prompt.

    Arguments:
        denoiser: The denoiser, whose conditions the captions give; beside them it may take
            `guidance`, which is then taken here too.
        captions: The table of conditions; it is not saved with the denoiser.

    Raises:
        ValueError: The captions give other conditions than the denoiser takes.
    """

    def __init__(self, denoiser: Denoiser, captions: Captions) -> None:
        super().__init__()
        more = tuple(name for name in denoiser.conditions if name == "guidance")
        if {*captions.names, *more} != set(denoiser.conditions):
            raise ValueError(
                f"the denoiser takes {list(denoiser.conditions)}, the captions give "
                f"{sorted(captions.names)}"
            )
        self.denoiser, self.captions = denoiser, captions
        self.conditions = ("label", *more)
        self.shape, self.origin = denoiser.shape, denoiser.origin
        self.sigma_min, self.sigma_max = denoiser.sigma_min, denoiser.sigma_max
        self.terminal = denoiser.terminal

    @property
    def latent_sigma(self) -> float:
        return self.denoiser.latent_sigma

    @property
    def taps(self) -> tuple[str, ...]:
        return self.denoiser.taps

    @property
    def bottleneck(self) -> str:
        return self.denoiser.bottleneck

    def features(
        self, x_t: Tensor, sigma: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.denoiser.features(x_t, sigma, at, **self._looked_up(cond))

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return self.denoiser(x_t, sigma, **self._looked_up(cond))

    def generate(self, z: Tensor, sigma: float, **cond: Tensor) -> Tensor:
        return self.denoiser.generate(z, sigma, **self._looked_up(cond))

    def pure_noise(self, z: Tensor, sigma: float) -> Tensor:
        return self.denoiser.pure_noise(z, sigma)

    def _looked_up(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        r"""Returns the conditions of the prompts; what else the network is told stays."""
        more = {name: value for name, value in cond.items() if name != "label"}
        return {**self.captions(cond["label"]), **more}

    def trainable_copy(self) -> Denoiser:
        r"""Returns a trainable copy that looks up the same captions."""
        return Captioned(self.denoiser.trainable_copy(), self.captions).train()
