r"""Networks that are held and not trained: teachers, classifiers, autoencoders, rewards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..nn import offload
from ..nn.taps import Features, GivesFeatures
from ..storage import processes

__all__ = ["Frozen"]


M = TypeVar("M", bound=nn.Module)


class Frozen(nn.Module, Generic[M]):
    r"""Holds a module outside of the parameters and the state, and counts its use.

    The module is in evaluation mode whatever `train` is called with, moves with its owner, needs
    no gradient of its own parameters, and is shared (not copied) by `copy.deepcopy`.

    Arguments:
        module: Any module; its first argument has one row a sample.

    Attributes:
        module: That module.
        calls: The number of evaluations so far.
        samples: The number of rows evaluated so far, in all processes.
    """

    module: M

    def __init__(self, module: M) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"a module can be held frozen, got {type(module).__name__}")
        # In __dict__ a module escapes nn.Module's registration.
        self.__dict__["module"] = module.eval().requires_grad_(False)
        self.calls = 0
        self.samples = 0
        self.offloaded = False

    def forward(self, x: Tensor, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        self.calls += 1
        self.samples += len(x) * processes.count()
        return self.uncounted(x, *arguments, **named)

    def uncounted(self, x: Tensor, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        r"""Returns what the module says, without counting it: for instruments."""
        if self.offloaded:
            return offload.call(self.module, x.device, x, *arguments, **named)
        return self.module(x, *arguments, **named)

    def features(self, x: Tensor, /, *arguments: Any, **named: Any) -> Features:  # noqa: ANN401
        r"""Returns the module's output and its features, counted as one evaluation.

        Raises:
            TypeError: The module gives no features.
        """
        if not isinstance(self.module, GivesFeatures):
            raise TypeError(f"a {type(self.module).__name__} gives no features")
        self.calls += 1
        self.samples += len(x) * processes.count()
        if self.offloaded:
            asked = offload.Method(self.module, "features")
            return offload.call(asked, x.device, x, *arguments, **named)
        return self.module.features(x, *arguments, **named)

    def offload(self) -> None:
        r"""Makes the module wait in host memory, on the device for its calls only.

        Raises:
            ValueError: It has no weights: there is nothing to move.
        """
        if next(self.module.parameters(), None) is None:
            raise ValueError(f"a {type(self.module).__name__} has no weights to offload")
        self.offloaded = True
        offload.move_to_host(self.module)

    def get_extra_state(self) -> Tensor:
        r"""The counters: all that a checkpoint keeps of a module that is held."""
        return torch.tensor([self.calls, self.samples])

    def set_extra_state(self, state: Tensor) -> None:
        self.calls, self.samples = (int(value) for value in state)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen[M]:
        self.module._apply(offload.returning_to_host(fn) if self.offloaded else fn, recurse)
        super()._apply(fn, recurse)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen[M]:
        copy = Frozen(self.module)
        copy.calls, copy.samples = self.calls, self.samples
        copy.offloaded = self.offloaded
        return copy

    def extra_repr(self) -> str:
        return f"module={type(self.module).__name__}, calls={self.calls}"
