r"""Networks of the user's own, as they are called here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from .taps import Features, Wrapper, ask_features

__all__ = ["OwnNetwork"]


class OwnNetwork(Wrapper):
    r"""A network of the user's own, which stays in evaluation mode.

    A student that starts from it is trained as it is evaluated: without dropout, and with the
    statistics that batch normalisation has gathered.

    Arguments:
        network: The module, of a tensor, its times and conditions.
        whole_times: Whether it takes times as whole numbers, `torch.long`, as they are rounded
            to: an index of a table of embeddings is one.
    """

    def __init__(self, network: nn.Module, *, whole_times: bool = False) -> None:
        super().__init__()
        self.network, self.whole_times = network.eval(), whole_times
        self.arguments = {"whole_times": whole_times}

    def forward(self, x: Tensor, time: Tensor, **cond: Tensor) -> Tensor:
        return self.network(x, self._told(time), **cond)

    def features(
        self, x: Tensor, c_noise: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> Features:
        r"""Returns the output of a plain call, and the network's features."""
        return ask_features(self.network, x, self._told(c_noise), at, cond)

    def train(self, mode: bool = True) -> Self:
        r"""Sets the mode of this module, and leaves the network in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def _told(self, time: Tensor) -> Tensor:
        return time.round().long() if self.whole_times else time

    def extra_repr(self) -> str:
        return "whole_times" if self.whole_times else ""
