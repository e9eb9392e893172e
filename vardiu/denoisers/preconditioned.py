r"""Networks with scaled input, output and skip connection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..functional.tensors import expand_like
from ..nn.taps import Features, Wrapper, ask_features
from .base import Denoiser

__all__ = ["PreconditionedDenoiser"]


class PreconditionedDenoiser(Wrapper, Denoiser):
    r"""A network :math:`F` with scaled input, output and skip connection.

    .. math:: D(x_t, \sigma) = m + c_\mathrm{skip} (x_t - m)
        + c_\mathrm{out} F \big( c_\mathrm{in} (x_t - m), \tfrac14 \log (\sigma / u) \big)

    with :math:`c_\mathrm{skip} = \sigma_d^2 / (\sigma^2 + \sigma_d^2)`, :math:`c_\mathrm{out} =
    \sigma \sigma_d / \sqrt{\sigma^2 + \sigma_d^2}` and :math:`c_\mathrm{in} = 1 / \sqrt{\sigma^2 +
    \sigma_d^2}`, so that the network's input and target have unit variance at every level.

    References:
        | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
        | https://arxiv.org/abs/2206.00364, Table 1

    Arguments:
        network: The module :math:`F(x, c_\mathrm{noise}, \ldots)`, of a tensor :math:`(B, *)` and
            of levels :math:`(B)`.
        shape: The shape of one sample.
        sigma_data: The standard deviation :math:`\sigma_d` of the data.
        sigma_min: The smallest noise level of the training.
        sigma_max: The largest one.
        mean: The mean :math:`m` of the data, a number or a tensor that broadcasts with a sample.
        conditions: The names of the network's conditions.
        unit: The length :math:`u` that the network is told levels in; the paper's is 1.

    Raises:
        ValueError: `sigma_min` is not below `sigma_max`, or `sigma_data` or `unit` not positive.
    """

    mean: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        shape: Sequence[int],
        sigma_data: float,
        sigma_min: float,
        sigma_max: float,
        mean: Tensor | float = 0.0,
        conditions: Sequence[str] = (),
        unit: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= sigma_min < sigma_max:
            raise ValueError(f"sigma_min must be below sigma_max, got {sigma_min}, {sigma_max}")
        if not (sigma_data > 0 and unit > 0):
            raise ValueError(f"sigma_data and unit must be positive, got {sigma_data} and {unit}")
        self.network = network
        self.shape = tuple(shape)
        self.sigma_data, self.sigma_min, self.sigma_max = sigma_data, sigma_min, sigma_max
        self.conditions, self.unit = tuple(conditions), unit
        self.arguments = {
            "shape": list(shape),
            "sigma_data": sigma_data,
            "sigma_min": sigma_min,
            "sigma_max": sigma_max,
            "mean": torch.as_tensor(mean).tolist(),
            "conditions": list(conditions),
            "unit": unit,
        }
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.get_default_dtype()))

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        scaled, c_noise, skipped, c_out = self._scaled(x_t, sigma)
        output = self.network(scaled, c_noise, **cond)
        return skipped + c_out * output.to(x_t.dtype)

    def features(
        self, x_t: Tensor, sigma: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> Features:
        scaled, c_noise, skipped, c_out = self._scaled(x_t, sigma)
        output, kept = ask_features(self.network, scaled, c_noise, at, cond)
        return skipped + c_out * output.to(x_t.dtype), kept

    def _scaled(self, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        r"""Returns the network's input and feature of the level, the part of the mean that skips
        it, and the scale of its output."""
        self.check(x_t, sigma)
        total = (sigma.square() + self.sigma_data**2).sqrt()
        c_in = expand_like(1 / total, x_t)
        c_out = expand_like(sigma * self.sigma_data / total, x_t)
        c_skip = expand_like((self.sigma_data / total).square(), x_t)
        centred = x_t - self.mean
        return c_in * centred, (sigma / self.unit).log() / 4, self.mean + c_skip * centred, c_out

    def extra_repr(self) -> str:
        return (
            f"shape={self.shape}, sigma_data={self.sigma_data:g}, "
            f"sigma_min={self.sigma_min:g}, sigma_max={self.sigma_max:g}"
        )
