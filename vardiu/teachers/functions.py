r"""Teachers that are functions: of `(x_t, sigma)`, of azula's shape, or velocities of a flow.

.. math:: D(x_t, \sigma) = x_t + \sigma^2 \, \nabla \log p_\sigma(x_t)

turns a score into a denoiser (Tweedie's formula). azula's denoisers return a posterior whose mean
is meant, at a time :math:`t` with a schedule :math:`(\alpha_t, \sigma_t)`; ours is the time
where :math:`\sigma_t / \alpha_t = \sigma`, found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ..denoisers.adapted import AdaptedDenoiser
from ..denoisers.base import Denoiser
from ..denoisers.schedules import Flow
from ..errors import ConfigError
from ..functional.tensors import expand_like
from ..storage.code import OwnCode, is_source, load_code
from .origin import Origin

__all__ = ["AzulaDenoiser", "FunctionDenoiser", "flow", "load", "matches", "of_code"]


READINGS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "denoised": lambda o, x_t, sigma: o,
    "epsilon": lambda o, x_t, sigma: x_t - sigma * o,
    "score": lambda o, x_t, sigma: x_t + sigma.square() * o,
}


class FunctionDenoiser(Denoiser):
    r"""Any callable `(x_t, sigma, **cond)` as a denoiser.

    Arguments:
        function: The callable; if it is a module, its weights are those of the denoiser.
        shape: The shape of one sample.
        sigma_min: The smallest level.
        sigma_max: The largest level.
        returns: What it returns: `denoised`, `score` or `epsilon`.
        conditions: The names of its conditions.

    Raises:
        ValueError: `returns` is unknown, or the levels are no range.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        *,
        shape: Sequence[int],
        sigma_min: float,
        sigma_max: float,
        returns: str = "denoised",
        conditions: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if returns not in READINGS:
            raise ValueError(f"returns must be one of {', '.join(READINGS)}, got {returns!r}")
        if not 0 <= sigma_min < sigma_max:
            raise ValueError(f"sigma_min must be below sigma_max, got {sigma_min}, {sigma_max}")
        self.function, self.returns = function, returns
        self.shape, self.conditions = tuple(shape), tuple(conditions)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        self.check(x_t, sigma)
        output = self.function(x_t, sigma, **cond).to(x_t.dtype)
        return READINGS[self.returns](output, x_t, expand_like(sigma, x_t))


class Posterior(Protocol):
    r"""What azula's denoisers return, of which the mean is read."""

    mean: Tensor


class Azula(Protocol):
    r"""The interface of azula's denoisers."""

    @property
    def schedule(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]: ...

    def __call__(self, x_t: Tensor, t: Tensor, **cond: Tensor) -> Posterior: ...


class AzulaDenoiser(Denoiser):
    r"""A denoiser of azula's shape: `denoiser(x, t, **cond)` returns something with a `mean`.

    Its `schedule(t)` returns :math:`\alpha_t` and :math:`\sigma_t`, for :math:`t` in [0, 1].

    References:
        | https://github.com/probabilists/azula

    Arguments:
        denoiser: The denoiser, with an attribute `schedule`.
        shape: The shape of one sample.
        conditions: The names of its conditions.

    Raises:
        ValueError: The ratio of noise to signal does not grow with the time.
    """

    def __init__(
        self, denoiser: Azula, *, shape: Sequence[int], conditions: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.shape, self.conditions = tuple(shape), tuple(conditions)
        times = torch.linspace(0, 1, 257, dtype=torch.float64)
        levels = self.level(times)
        if bool((levels.diff() <= 0).any()):
            raise ValueError("the schedule's sigma_t / alpha_t must grow from t = 0 to t = 1")
        self.sigma_min, self.sigma_max = levels[0].item(), levels[-1].item()

    def level(self, time: Tensor) -> Tensor:
        r"""Returns :math:`\sigma_t / \alpha_t`."""
        alpha, sigma = self.denoiser.schedule(time)
        return sigma / alpha

    @torch.no_grad()
    def time(self, sigma: Tensor) -> Tensor:
        r"""Returns the time of a level, to the last bit that bisection can tell."""
        wanted = sigma.double()
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(60):
            middle = (low + high) / 2
            above = self.level(middle) > wanted
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return ((low + high) / 2).to(sigma.dtype)

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        self.check(x_t, sigma)
        time = self.time(sigma)
        alpha, _ = self.denoiser.schedule(time)
        return self.denoiser(expand_like(alpha, x_t) * x_t, time, **cond).mean


def flow(
    network: nn.Module,
    *,
    shape: Sequence[int],
    conditions: Sequence[str] = (),
    to_data: bool = True,
    noise_first: bool = True,
    scale: float = 1.0,
) -> AdaptedDenoiser:
    r"""Returns the denoiser of a flow-matching velocity network `(x, t, **cond)`.

    Arguments:
        network: The network, on the line between data and noise.
        shape: The shape of one sample.
        conditions: The names of its conditions.
        to_data: Whether its velocity points from noise to data.
        noise_first: Whether its time is zero at noise and one at data.
        scale: What its time is multiplied by.
    """
    return AdaptedDenoiser(
        network,
        Flow(scale, noise_first=noise_first),
        prediction="flow_to_data" if to_data else "flow",
        shape=shape,
        conditions=conditions,
    )


# ---------------------------------------------------------------- sources


def matches(source: str) -> bool:
    r"""Whether a source names a Python object: `FILE.py:NAME` or `MODULE:NAME`."""
    return is_source(source)


def load(source: str) -> Denoiser:
    r"""Returns the denoiser that a name in the user's own code stands for, or makes.

    Raises:
        ConfigError: There is no such file or name, or it is no denoiser.
    """
    return of_code(load_code(source))


def of_code(code: OwnCode) -> Denoiser:
    r"""Returns the denoiser that own code stands for, or makes.

    Raises:
        ConfigError: It is no denoiser.
    """
    found = code.made()
    if not isinstance(found, Denoiser):
        raise ConfigError(
            f"{code.source} must be a vardiu.Denoiser or a function without arguments that "
            f"returns one, got {type(found).__name__}; FunctionDenoiser makes one of any callable"
        )
    found.origin = Origin(code.source, "function")
    found.own_code = code
    return found
