r"""Encoders of noisy samples, and what a posterior is."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.distributions import Distribution

from ..functional.tensors import expand_like, sent
from ..nn.backbones import Interface

__all__ = ["Encoder", "Posterior", "RawScale", "Scale", "UnitScale"]


# softplus(UNIT) = 1: a head at zero starts at the linear student's spread.
UNIT = math.log(math.e - 1)


class Scale(abc.ABC):
    r"""How an encoder sees the noisy sample, and the unit of the head's spread."""

    @abc.abstractmethod
    def inputs(self, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns the scaled sample, `(B, *)`, and the level's feature, `(B,)`."""

    @abc.abstractmethod
    def unit_std(self, sigma: Tensor) -> Tensor:
        r"""Returns the unit of the standard deviation of z, `(B,)`."""


@dataclass(frozen=True)
class UnitScale(Scale):
    r"""The scaling above, for data of mean :math:`m` and standard deviation :math:`\sigma_d`; the
    network is told levels in a unit."""

    sigma_data: float
    mean: float | Tensor = 0.0
    unit: float = 1.0

    def __post_init__(self) -> None:
        if not (self.sigma_data > 0 and self.unit > 0):
            raise ValueError(
                f"sigma_data and unit must be positive, got {self.sigma_data} and {self.unit}"
            )

    def inputs(self, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.mean
        if isinstance(mean, Tensor):
            mean = sent(mean, x_t.device).to(x_t.dtype)
        total = (sigma.square() + self.sigma_data**2).sqrt()
        return (x_t - mean) / expand_like(total, x_t), (sigma / self.unit).log() / 4

    def unit_std(self, sigma: Tensor) -> Tensor:
        return sigma / (sigma.square() + self.sigma_data**2).sqrt()

    def linear(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        r"""Returns :math:`\mathbb{E}[z \mid x_t]` of the linear student, `(B, d)`.

        .. math:: g(z) = m + \sigma_d z, \qquad \mathbb{E}[z \mid x_t] =
            \frac{\sigma_d (x_t - m)}{\sigma^2 + \sigma_d^2}
        """
        scaled, _ = self.inputs(x_t, sigma)
        total = (sigma.square() + self.sigma_data**2).sqrt()
        return (scaled * expand_like(self.sigma_data / total, x_t)).flatten(1)


@dataclass(frozen=True)
class RawScale(Scale):
    r"""The published network's: :math:`(x_t, \sigma)` as they are, and a spread of :math:`\sigma`.

    References:
        | VarDiU (Wang et al., 2025), https://arxiv.org/abs/2508.20646
    """

    def inputs(self, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return x_t, sigma

    def unit_std(self, sigma: Tensor) -> Tensor:
        return sigma


class Encoder(Interface):
    r"""A backbone that turns a noisy sample into features, with its scaling.

    Arguments:
        backbone: The module :math:`(x, c, \ldots) \mapsto` features, with shape :math:`(B, F)`.
        features: The number :math:`F` of features.
        scale: The scaling of its input and of the head's spread.
    """

    def __init__(self, backbone: nn.Module, features: int, scale: Scale) -> None:
        super().__init__()
        self.backbone = backbone
        self.features = features
        self.scale = scale

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        return self.backbone(*self.scale.inputs(x_t, sigma), **cond).to(x_t.dtype)


class Posterior(Interface, abc.ABC):
    r"""The interface: `posterior(x_t, sigma, **cond)` returns :math:`r(z \mid x_t)`.

    Attributes:
        estimated: Whether its log-density is an estimate of a lower bound, which draws from
            torch's own generator.
    """

    estimated: bool = False

    if TYPE_CHECKING:  # nn.Module's own takes and returns anything

        def __call__(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Distribution: ...

    @abc.abstractmethod
    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Distribution:
        r"""Returns a distribution with batch shape `(B,)` and event shape `(k,)`."""

    def inner_modules(self) -> Iterator[nn.Module]:
        r"""Yields the encoders and posteriors inside: heads and flows are small."""
        return (part for part in self.children() if isinstance(part, Interface))
