r"""Other coordinates of diffusion, and denoisers of networks that were trained in them.

A network sees :math:`x_s = \alpha x + s \varepsilon` and a time; ours is :math:`x_t = x + \sigma
\varepsilon`. With :math:`\sigma = s / \alpha` the two are the same up to scale, :math:`x_s =
\alpha x_t`, and whatever the network predicts is the mean of the clean sample in disguise:

================  ==============================  ============================================
prediction        target                          :math:`D(x_t, \sigma)`
================  ==============================  ============================================
``epsilon``       :math:`\varepsilon`             :math:`(x_s - s o) / \alpha`
``sample``        :math:`x`                       :math:`o`
``v``             :math:`\alpha\varepsilon - s x`  :math:`(\alpha x_s - s o) / (\alpha^2 + s^2)`
``flow``          :math:`\varepsilon - x`         :math:`(x_s - s o) / (\alpha + s)`
``flow_to_data``  :math:`x - \varepsilon`         :math:`(x_s + s o) / (\alpha + s)`
``score``         :math:`\nabla \log p(x_s)`      :math:`(x_s + s^2 o) / \alpha`
================  ==============================  ============================================

References:
    | Denoising Diffusion Probabilistic Models (Ho et al., 2020), https://arxiv.org/abs/2006.11239
    | Progressive Distillation (Salimans and Ho, 2022), https://arxiv.org/abs/2202.00512, for v
    | Flow Matching (Lipman et al., 2023), https://arxiv.org/abs/2210.02747
"""

from __future__ import annotations

import abc
import bisect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Coordinates", "Flow", "Logarithmic", "VarianceExploding", "VariancePreserving"]


class Coordinates(nn.Module, abc.ABC):
    r"""What a network calls a noise level.

    Attributes:
        sigma_min: The smallest level of its training, in our coordinate.
        sigma_max: The largest finite one.
        terminal: Whether there is a time of noise alone, where :math:`\sigma` is infinite.
        exploding: Whether the network's input grows with the level; else noise alone is shown to
            it with unit variance.
        arguments: What it was made with, as JSON.
    """

    sigma_min: float
    sigma_max: float
    terminal: bool = False
    exploding: bool = False
    arguments: dict[str, Any]

    @abc.abstractmethod
    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns :math:`\alpha` and :math:`s` at :math:`\sigma = s / \alpha`."""

    @abc.abstractmethod
    def time(self, sigma: Tensor) -> Tensor:
        r"""Returns what the network is told, of :math:`\sigma`."""

    def whole(self, sigma: float) -> float:
        r"""Returns the nearest level that has a time of its own; any has, of continuous times."""
        return sigma

    def time_and_scales(self, sigma: float) -> tuple[float, float, float]:
        r"""Returns time, :math:`\alpha` and :math:`s` of one level, in double precision."""
        level = torch.tensor([sigma], dtype=torch.float64)
        alpha, s = self.scales(level)
        return self.time(level).item(), alpha.item(), s.item()


def increasing(values: Sequence[float], what: str) -> list[float]:
    r"""Returns finite levels that increase.

    Raises:
        ValueError: They do not increase, or are not positive; names the first place.
    """
    values = [float(value) for value in values]
    for i, (a, b) in enumerate(zip(values, values[1:], strict=False)):
        if not 0 < a < b < math.inf:
            raise ValueError(
                f"{what} must increase from above zero, got {a:g} and {b:g} at times {i} and "
                f"{i + 1}: is the schedule reversed, or of another kind?"
            )
    if len(values) < 2:
        raise ValueError(f"{what} must have at least two levels, got {values}")
    return values


class Discrete(Coordinates):
    r"""Times 0, 1, ... with a table of levels; between them the logarithm is interpolated.

    A level within a five-hundredth of a time is that time: networks of whole times are asked at
    whole times, whatever single precision makes of a logarithm.

    Arguments:
        sigmas: The levels, which increase. The last one may be infinite: zero terminal
            signal-to-noise ratio.
        terminal: Whether an infinite level follows the last one.

    Raises:
        ValueError: The levels do not increase.
    """

    log_sigmas: Tensor

    def __init__(self, sigmas: Sequence[float], *, terminal: bool = False) -> None:
        super().__init__()
        terminal = terminal or math.isinf(sigmas[-1])
        finite = sigmas[:-1] if math.isinf(sigmas[-1]) else sigmas
        values = increasing(finite, "the levels of a schedule")
        self.sigma_min, self.sigma_max, self.terminal = values[0], values[-1], terminal
        self.arguments = {"sigmas": values, "terminal": terminal}
        self.register_buffer("log_sigmas", torch.tensor(values).log(), persistent=False)

    def time(self, sigma: Tensor) -> Tensor:
        wanted, table = sigma.log(), self.log_sigmas.to(sigma.dtype)
        # A comparison with all, for what a graph of ONNX knows; the table is short.
        upper = (table < wanted[..., None]).sum(-1).clamp(1, len(table) - 1)
        low, high = table[upper - 1], table[upper]
        time = upper - 1 + (wanted - low) / (high - low)
        near = time.round()
        time = torch.where((time - near).abs() < 2e-3, near, time)
        time = time.clamp(0, len(table) - 1)
        return time.masked_fill(sigma.isinf(), len(table)) if self.terminal else time

    def place(self, sigma: float) -> float:
        r"""Returns the time of one level, in double precision and without a tensor."""
        table = self.arguments["sigmas"]
        if math.isinf(sigma):
            return float(len(table))
        upper = min(max(bisect.bisect_left(table, sigma), 1), len(table) - 1)
        low, high = math.log(table[upper - 1]), math.log(table[upper])
        time = upper - 1 + (math.log(sigma) - low) / (high - low)
        return float(round(time)) if abs(time - round(time)) < 2e-3 else time

    def whole(self, sigma: float) -> float:
        return min(self.arguments["sigmas"], key=lambda level: abs(math.log(level / sigma)))

    def extra_repr(self) -> str:
        return f"times={len(self.log_sigmas)}, sigma={self.sigma_min:.4g}..{self.sigma_max:.4g}"


class VariancePreserving(Discrete):
    r"""Discrete times with :math:`\alpha^2 + s^2 = 1`, the schedules of DDPM and its kin."""

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor) -> VariancePreserving:
        r"""Returns the coordinates of a table of :math:`\bar\alpha_t = \alpha_t^2`."""
        squares = alphas_cumprod.double()
        return cls((((1 - squares) / squares) ** 0.5).tolist())

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        alpha = (1 + sigma.square()).rsqrt()
        return alpha, torch.where(sigma.isinf(), 1.0, sigma * alpha)

    def time_and_scales(self, sigma: float) -> tuple[float, float, float]:
        r"""The scales are the roots of single-precision squares, as in every scheduler: at great
        noise a prediction of it is divided by a small scale, and the last bit counts."""
        square = np.float32(1 / (1 + sigma**2))
        return self.place(sigma), float(np.sqrt(square)), float(np.sqrt(1 - square))


class Logarithmic(Coordinates):
    r"""Variance-preserving scales, and a network that is told :math:`\tfrac14 \log \sigma`.

    With a prediction of the velocity it is EDM's preconditioning for data of unit variance. Stable
    Video Diffusion and its kin are trained so.

    Arguments:
        sigma_min: The smallest level of the training.
        sigma_max: The largest one.

    Raises:
        ValueError: They do not increase from above zero.

    References:
        | Stable Video Diffusion (Blattmann et al., 2023), https://arxiv.org/abs/2311.15127,
        | Appendix D
    """

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        self.sigma_min, self.sigma_max = increasing([sigma_min, sigma_max], "the range of levels")
        self.arguments = {"sigma_min": sigma_min, "sigma_max": sigma_max}

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        alpha = (1 + sigma.square()).rsqrt()
        return alpha, sigma * alpha

    def time(self, sigma: Tensor) -> Tensor:
        return sigma.log() / 4


class VarianceExploding(Coordinates):
    r"""No scale, and a network that is told the level itself.

    Arguments:
        sigma_min: The smallest level.
        sigma_max: The largest level.
    """

    exploding = True

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        increasing([sigma_min, sigma_max], "the range of levels")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.arguments = {"sigma_min": sigma_min, "sigma_max": sigma_max}

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(sigma), sigma

    def time(self, sigma: Tensor) -> Tensor:
        return sigma


class Flow(Coordinates):
    r"""A straight line from data to noise, :math:`x_s = (1 - t) x + t \varepsilon`.

    Arguments:
        scale: What the network is told is `scale` times :math:`t`; 1,000 in diffusers.
        noise_first: Whether the network's time runs from noise at zero to data at one; it is then
            told `scale` times :math:`1 - t`.
        t_min: The smallest :math:`t` that is trusted.
        t_max: The largest one; at one itself :math:`\sigma` is infinite.
        terminal: Whether a student is asked at one itself.
    """

    def __init__(
        self,
        scale: float = 1.0,
        *,
        noise_first: bool = False,
        t_min: float = 1e-3,
        t_max: float = 1 - 1e-3,
        terminal: bool = False,
    ) -> None:
        super().__init__()
        self.terminal = terminal
        if not 0 < t_min < t_max < 1:
            raise ValueError(f"t_min and t_max must be within (0, 1), got {t_min} and {t_max}")
        self.scale, self.noise_first = scale, noise_first
        self.sigma_min, self.sigma_max = t_min / (1 - t_min), t_max / (1 - t_max)
        self.arguments = {
            "scale": scale,
            "noise_first": noise_first,
            "t_min": t_min,
            "t_max": t_max,
            "terminal": terminal,
        }

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        alpha = 1 / (1 + sigma)
        return alpha, torch.where(sigma.isinf(), 1.0, sigma * alpha)

    def time(self, sigma: Tensor) -> Tensor:
        alpha, s = self.scales(sigma)
        return self.scale * (alpha if self.noise_first else s)
