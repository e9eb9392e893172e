r"""Networks that are held and not trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..denoisers.base import Denoiser
from ..denoisers.exact import ExactDenoiser
from ..nn import offload

__all__ = ["Frozen"]


class Frozen(Denoiser):
    r"""Holds a teacher outside of the parameters and the state, and counts its use.

    The teacher is in evaluation mode whatever `train` is called with, moves with the module, needs
    no gradient of its own parameters, and is shared (not copied) by `copy.deepcopy`.

    Attributes:
        calls: The number of evaluations so far.
        samples: The number of rows evaluated so far.
    """

    def __init__(self, teacher: Denoiser) -> None:
        super().__init__()
        if not isinstance(teacher, Denoiser):
            raise TypeError(f"teacher must be a vardiu.Denoiser, got {type(teacher).__name__}")
        # A tuple in __dict__ escapes nn.Module's registration.
        self.__dict__["_held"] = (teacher.eval().requires_grad_(False),)
        self.shape, self.conditions = teacher.shape, teacher.conditions
        self.sigma_min, self.sigma_max = teacher.sigma_min, teacher.sigma_max
        self.calls = 0
        self.samples = 0
        self.offloaded = False

    @property
    def teacher(self) -> Denoiser:
        return self.__dict__["_held"][0]

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        self.calls += 1
        self.samples += len(x_t)
        return self.ask(x_t, sigma, **cond)

    def ask(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        r"""Returns what the teacher says, without counting it: for instruments."""
        if self.offloaded:
            return offload.call(self.teacher, x_t.device, x_t, sigma, **cond)
        return self.teacher(x_t, sigma, **cond)

    @property
    def taps(self) -> tuple[str, ...]:
        return self.teacher.taps

    @property
    def bottleneck(self) -> str:
        return self.teacher.bottleneck

    def features(
        self, x_t: Tensor, sigma: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += 1
        self.samples += len(x_t)
        if self.offloaded:
            asked = offload.Method(self.teacher, "features")
            return offload.call(asked, x_t.device, x_t, sigma, at, **cond)
        return self.teacher.features(x_t, sigma, at, **cond)

    def offload(self) -> None:
        r"""Makes the teacher wait in host memory, on the device for its calls only.

        Raises:
            ValueError: The teacher is exact: there are no weights to speak of, and its density is
                asked for beside its calls.
        """
        if isinstance(self.teacher, ExactDenoiser):
            raise ValueError(
                f"an exact teacher ({type(self.teacher).__name__}) has no weights to offload"
            )
        self.offloaded = True
        offload.keep(self.teacher)

    def get_extra_state(self) -> Tensor:
        r"""The counters: all that a checkpoint keeps of a teacher."""
        return torch.tensor([self.calls, self.samples])

    def set_extra_state(self, state: Tensor) -> None:
        self.calls, self.samples = (int(value) for value in state)

    def _apply(self, fn: Callable, recurse: bool = True) -> Frozen:
        self.teacher._apply(offload.staying(fn) if self.offloaded else fn, recurse)
        return super()._apply(fn, recurse)

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        copy = Frozen(self.teacher)
        copy.calls, copy.samples = self.calls, self.samples
        copy.offloaded = self.offloaded
        return copy

    def extra_repr(self) -> str:
        return f"teacher={type(self.teacher).__name__}, calls={self.calls}"
