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
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .denoise import Denoiser
from .functional import expand_like

__all__ = [
    "AdaptedDenoiser",
    "Coordinates",
    "Flow",
    "PREDICTIONS",
    "VarianceExploding",
    "VariancePreserving",
]


class Coordinates(nn.Module, abc.ABC):
    r"""What a network calls a noise level.

    Attributes:
        sigma_min: The smallest level of its training, in our coordinate.
        sigma_max: The largest finite one.
        terminal: Whether there is a time of noise alone, where :math:`\sigma` is infinite.
        exploding: Whether the network's input grows with the level; else noise alone is shown to
            it with unit variance.
    """

    sigma_min: float
    sigma_max: float
    terminal: bool = False
    exploding: bool = False

    @abc.abstractmethod
    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns :math:`\alpha` and :math:`s` at :math:`\sigma = s / \alpha`."""

    @abc.abstractmethod
    def time(self, sigma: Tensor) -> Tensor:
        r"""Returns what the network is told, of :math:`\sigma`."""

    def whole(self, sigma: float) -> float:
        r"""Returns the nearest level that has a time of its own; any has, of continuous times."""
        return sigma

    def at(self, sigma: float) -> tuple[float, float, float]:
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
    def of(cls, alphas_cumprod: Tensor) -> VariancePreserving:
        r"""Returns the coordinates of a table of :math:`\bar\alpha_t = \alpha_t^2`."""
        squares = alphas_cumprod.double()
        return cls((((1 - squares) / squares) ** 0.5).tolist())

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        alpha = (1 + sigma.square()).rsqrt()
        return alpha, torch.where(sigma.isinf(), 1.0, sigma * alpha)

    def at(self, sigma: float) -> tuple[float, float, float]:
        r"""The scales are the roots of single-precision squares, as in every scheduler: at great
        noise a prediction of it is divided by a small scale, and the last bit counts."""
        square = np.float32(1 / (1 + sigma**2))
        return self.place(sigma), float(np.sqrt(square)), float(np.sqrt(1 - square))


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


# From the network's output and input, alpha and s (which broadcast) to the mean.
Reading = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

PREDICTIONS: Mapping[str, Reading] = {
    "epsilon": lambda o, x_s, alpha, s: (x_s - s * o) / alpha,
    "negative_epsilon": lambda o, x_s, alpha, s: (x_s + s * o) / alpha,
    "sample": lambda o, x_s, alpha, s: o,
    "v": lambda o, x_s, alpha, s: (alpha * x_s - s * o) / (alpha.square() + s.square()),
    "flow": lambda o, x_s, alpha, s: (x_s - s * o) / (alpha + s),
    "flow_to_data": lambda o, x_s, alpha, s: (x_s + s * o) / (alpha + s),
    "score": lambda o, x_s, alpha, s: (x_s + s.square() * o) / alpha,
}
# Those of noise, or of noise over a negative scale.
NOISE = ("epsilon", "negative_epsilon", "score")
# Where a student of a prediction of noise starts: see `AdaptedDenoiser.latent_sigma`.
LATENT_SIGMA = 2.5
# Those that say something where there is no signal at all.
TERMINAL = ("sample", "v", "flow", "flow_to_data")


class AdaptedDenoiser(Denoiser):
    r"""A network of other coordinates as a denoiser of ours.

    Arguments:
        network: The module, of :math:`x_s` with shape :math:`(B, *)`, times :math:`(B)` and
            conditions.
        coordinates: What its times mean.
        prediction: What it predicts, one of `PREDICTIONS`.
        shape: The shape of one sample.
        conditions: The names of its conditions.

    Raises:
        ValueError: The prediction is unknown.
    """

    def __init__(
        self,
        network: nn.Module,
        coordinates: Coordinates,
        *,
        prediction: str,
        shape: Sequence[int],
        conditions: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(
                f"unknown prediction {prediction!r}; one of: {', '.join(sorted(PREDICTIONS))}"
            )
        self.network, self.coordinates = network, coordinates
        self.prediction, self.shape = prediction, tuple(shape)
        self.conditions = tuple(conditions)
        self.sigma_min, self.sigma_max = coordinates.sigma_min, coordinates.sigma_max
        self.terminal = coordinates.terminal and prediction in TERMINAL
        self.arguments = {
            "prediction": prediction,
            "shape": list(shape),
            "conditions": list(conditions),
        }

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        self.check(x_t, sigma)
        alpha, s = (expand_like(scale, x_t) for scale in self.coordinates.scales(sigma))
        return self.read(alpha * x_t, self.coordinates.time(sigma), alpha, s, **cond)

    @property
    def latent_sigma(self) -> float:
        r"""The largest level; about 2.5 where noise is predicted, as SiD has it.

        There the error of the prediction is multiplied by the level: a student that is asked for
        noise at 157, the end of DDPM's linear schedule, would have to be right to a part in a
        thousand before its images were images.

        References:
            | Score identity Distillation (Zhou et al., 2024), https://arxiv.org/abs/2404.04057
        """
        if self.prediction not in NOISE:
            return self.sigma_max
        return self.coordinates.whole(min(LATENT_SIGMA, self.sigma_max))

    def noise_gain(self, sigma: float) -> float:
        return sigma if self.prediction in NOISE else 0.0

    def generate(self, z: Tensor, sigma: float, **cond: Tensor) -> Tensor:
        r"""The latent is the network's own input at this level, which may be infinite."""
        time, *scales = self.coordinates.at(sigma)
        alpha, s = (z.new_full((), scale) for scale in scales)
        x_s = s * z if self.coordinates.exploding else z
        return self.read(x_s, z.new_full((z.shape[0],), time), alpha, s, **cond)

    def read(self, x_s: Tensor, time: Tensor, alpha: Tensor, s: Tensor, **cond: Tensor) -> Tensor:
        r"""Returns the mean, of what the network itself is shown and told."""
        # What a network predicts beside the mean, a variance, follows in further channels.
        output = self.network(x_s, time, **cond)[:, : x_s.shape[1]].to(x_s.dtype)
        return PREDICTIONS[self.prediction](output, x_s, alpha, s)

    def extra_repr(self) -> str:
        return f"prediction={self.prediction}, shape={self.shape}, conditions={self.conditions}"
