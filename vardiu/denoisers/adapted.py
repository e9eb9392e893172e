r"""Networks that were trained in other coordinates, as denoisers of ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from ..functional.tensors import expand_like
from ..nn.taps import Features, Wrapper, ask_features
from .base import Denoiser
from .schedules import Coordinates

__all__ = ["AdaptedDenoiser", "PREDICTIONS"]


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


class AdaptedDenoiser(Wrapper, Denoiser):
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

    def features(
        self, x_t: Tensor, sigma: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> Features:
        self.check(x_t, sigma)
        alpha, s = (expand_like(scale, x_t) for scale in self.coordinates.scales(sigma))
        x_s, time = alpha * x_t, self.coordinates.time(sigma)
        output, kept = ask_features(self.network, x_s, time, at, cond)
        return self._mean(output, x_s, alpha, s), kept

    def whole(self, sigma: float) -> float:
        return self.coordinates.whole(sigma) if math.isfinite(sigma) else sigma

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
        nearest = self.coordinates.whole(min(LATENT_SIGMA, self.sigma_max))
        return min(nearest, self.sigma_max)  # which may be stated to be less than the schedule's

    def noise_gain(self, sigma: float) -> float:
        return sigma if self.prediction in NOISE else 0.0

    def generate(self, z: Tensor, sigma: float, **cond: Tensor) -> Tensor:
        r"""The latent is the network's own input at this level, which may be infinite."""
        time, *scales = self.coordinates.time_and_scales(sigma)
        alpha, s = (z.new_full((), scale) for scale in scales)
        x_s = s * z if self.coordinates.exploding else z
        return self.read(x_s, z.new_full((z.shape[0],), time), alpha, s, **cond)

    def pure_noise(self, z: Tensor, sigma: float) -> Tensor:
        r"""The latent is the network's own input: in our coordinate :math:`z / \alpha`, or
        :math:`\sigma z` where that input grows with the level."""
        _, alpha, s = self.coordinates.time_and_scales(sigma)
        return (s if self.coordinates.exploding else 1.0) / alpha * z

    def read(self, x_s: Tensor, time: Tensor, alpha: Tensor, s: Tensor, **cond: Tensor) -> Tensor:
        r"""Returns the mean that the network gives of its own input at its own time."""
        return self._mean(self.network(x_s, time, **cond), x_s, alpha, s)

    def _mean(self, output: Tensor, x_s: Tensor, alpha: Tensor, s: Tensor) -> Tensor:
        # What a network predicts beside the mean, a variance, follows in further channels.
        output = output[:, : x_s.shape[1]].to(x_s.dtype)
        return PREDICTIONS[self.prediction](output, x_s, alpha, s)

    def extra_repr(self) -> str:
        return f"prediction={self.prediction}, shape={self.shape}, conditions={self.conditions}"
