r"""Teachers that are functions: of `(x_t, sigma)`, of azula's shape, or velocities of a flow.

.. math:: D(x_t, \sigma) = x_t + \sigma^2 \, \nabla \log p_\sigma(x_t)

turns a score into a denoiser (Tweedie's formula). azula's denoisers return a posterior whose mean
is meant, at a time :math:`t` with a schedule :math:`(\alpha_t, \sigma_t)`; ours is the time
where :math:`\sigma_t / \alpha_t = \sigma`, found by bisection.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, TypedDict, TypeVar, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from ..denoisers.adapted import AdaptedDenoiser
from ..denoisers.base import Denoiser
from ..denoisers.rescaled import OURS, Affine, rescaled
from ..denoisers.schedules import Flow, VariancePreserving
from ..errors import ConfigError
from ..functional.tensors import expand_like
from ..nn.own import OwnNetwork
from .origin import Origin

__all__ = ["AzulaDenoiser", "FunctionDenoiser", "ddpm", "flow", "load", "matches"]


# A table of numbers, with shape `(T,)`.
Table: TypeAlias = Tensor | np.ndarray | Sequence[float]


READINGS: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "denoised": lambda o, x_t, sigma: o,
    "epsilon": lambda o, x_t, sigma: x_t - sigma * o,
    "score": lambda o, x_t, sigma: x_t + sigma.square() * o,
}


class About(TypedDict, total=False):
    r"""What a user knows of a teacher beside its denoiser; see `Origin` for each.

    With `classes` a teacher takes the condition `label`, integers with shape :math:`(B)`.
    """

    classes: int
    null: int | None
    names: Sequence[str]
    decode: Callable[[Tensor], Tensor] | None
    compress: Callable[[Tensor], Tensor] | None
    licence: str | None


D = TypeVar("D", bound=Denoiser)


def described(denoiser: D, about: About) -> D:
    r"""Returns a denoiser with what its user says of it.

    Raises:
        ValueError: Numbers and names of classes do not fit each other or the conditions.
    """
    classes, null, names = about.get("classes", 0), about.get("null"), about.get("names", ())
    if type(classes) is not int or classes < 0:
        raise ValueError(f"classes must be a whole number, at least 0, got {classes!r}")
    if classes and "label" not in denoiser.conditions:
        raise ValueError(
            f"classes is {classes}, and conditions are {list(denoiser.conditions)}: a network "
            "with classes takes the condition 'label'"
        )
    if null is not None and not (classes and 0 <= null):
        raise ValueError(f"null, the class that stands for none, is {null}: give classes as well")
    if names and len(names) != classes:
        raise ValueError(f"names must be {classes}, one a class, got {len(names)}")
    if about:
        fields: dict[str, Any] = {**about, "names": tuple(names)}
        denoiser.origin = Origin("", "function", **fields)
    return denoiser


def conditions_of(conditions: Sequence[str], about: About) -> tuple[str, ...]:
    r"""Returns the names of conditions: with classes and without a name it is `label`."""
    return tuple(conditions) or (("label",) if about.get("classes") else ())


class FunctionDenoiser(Denoiser):
    r"""Any callable `(x_t, sigma, **cond)` as a denoiser.

    Arguments:
        function: The callable; if it is a module, its weights are those of the denoiser, and it
            stays in evaluation mode.
        shape: The shape of one sample.
        sigma_min: The smallest level, in units of its own data.
        sigma_max: The largest level.
        returns: What it returns: `denoised`, `score` or `epsilon`.
        conditions: The names of its conditions; `label` where `classes` are given.
        data_range: The range of its data, [-1, 1] here.
        about: What else is known of it, see `About`.

    Raises:
        ValueError: `returns` is unknown, the levels are no range, or what is known of it does not
            fit.
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
        data_range: Sequence[float] = OURS,
        **about: Unpack[About],
    ) -> None:
        super().__init__()
        if returns not in READINGS:
            raise ValueError(f"returns must be one of {', '.join(READINGS)}, got {returns!r}")
        if not 0 <= sigma_min < sigma_max:
            raise ValueError(f"sigma_min must be below sigma_max, got {sigma_min}, {sigma_max}")
        self.network = OwnNetwork(function) if isinstance(function, nn.Module) else function
        self.returns, self.map = returns, Affine.onto(data_range)
        self.shape, self.conditions = tuple(shape), conditions_of(conditions, about)
        self.sigma_min, self.sigma_max = sigma_min / self.map.scale, sigma_max / self.map.scale
        described(self, about)

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        self.check(x_t, sigma)
        y, level = self.map.there(x_t), self.map.scale * sigma
        output = self.network(y, level, **cond).to(x_t.dtype)
        return self.map.back(READINGS[self.returns](output, y, expand_like(level, x_t)))


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
        conditions: The names of its conditions; `label` where `classes` are given.
        about: What else is known of it, see `About`.

    Raises:
        ValueError: The ratio of noise to signal does not grow with the time, or what is known of
            it does not fit.
    """

    def __init__(
        self,
        denoiser: Azula,
        *,
        shape: Sequence[int],
        conditions: Sequence[str] = (),
        **about: Unpack[About],
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.shape, self.conditions = tuple(shape), conditions_of(conditions, about)
        times = torch.linspace(0, 1, 257, dtype=torch.float64)
        levels = self.level(times)
        if bool((levels.diff() <= 0).any()):
            raise ValueError("the schedule's sigma_t / alpha_t must grow from t = 0 to t = 1")
        self.sigma_min, self.sigma_max = levels[0].item(), levels[-1].item()
        described(self, about)

    def train(self, mode: bool = True) -> Self:
        r"""Sets the mode of this module, and leaves the user's in evaluation mode."""
        super().train(mode)
        for child in self.children():
            child.eval()
        return self

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
    data_range: Sequence[float] = OURS,
    **about: Unpack[About],
) -> Denoiser:
    r"""Returns the denoiser of a flow-matching velocity network `(x, t, **cond)`.

    Arguments:
        network: The network, on the line between data and noise. It stays in evaluation mode.
        shape: The shape of one sample.
        conditions: The names of its conditions; `label` where `classes` are given.
        to_data: Whether its velocity points from noise to data.
        noise_first: Whether its time is zero at noise and one at data.
        scale: What its time is multiplied by.
        data_range: The range of its data, [-1, 1] here.
        about: What else is known of it, see `About`.

    Raises:
        ValueError: What is known of it does not fit.
    """
    denoiser = AdaptedDenoiser(
        OwnNetwork(network),
        Flow(scale, noise_first=noise_first),
        prediction="flow_to_data" if to_data else "flow",
        shape=shape,
        conditions=conditions_of(conditions, about),
    )
    return described(rescaled(denoiser, data_range), about)


def ddpm(
    network: nn.Module,
    *,
    shape: Sequence[int],
    betas: Table | None = None,
    alphas_cumprod: Table | None = None,
    prediction: str = "epsilon",
    whole_times: bool = True,
    conditions: Sequence[str] = (),
    data_range: Sequence[float] = OURS,
    **about: Unpack[About],
) -> Denoiser:
    r"""Returns the denoiser of a network `(x_s, t, **cond)` of discrete times 0, 1, ..., T - 1.

    .. math:: x_s = \sqrt{\bar\alpha_t} \, x + \sqrt{1 - \bar\alpha_t} \, \varepsilon, \qquad
        \bar\alpha_t = \prod_{i \leq t} (1 - \beta_i)

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020)
        | https://arxiv.org/abs/2006.11239

    Arguments:
        network: The network, of :math:`x_s` and :math:`t`. It stays in evaluation mode.
        shape: The shape of one sample.
        betas: The variances :math:`\beta_t`, with shape :math:`(T)`.
        alphas_cumprod: The products :math:`\bar\alpha_t`, in place of `betas`.
        prediction: What it predicts: `epsilon`, `v` or `sample`.
        whole_times: Whether it takes its times as whole numbers, `torch.long`, as in its training;
            without, a level between two times is told as a fraction.
        conditions: The names of its conditions; `label` where `classes` are given.
        data_range: The range of its data, [-1, 1] here.
        about: What else is known of it, see `About`.

    Raises:
        ValueError: The schedule is missing, given twice, or none; the prediction is unknown; or
            what is known of the network does not fit.
    """
    denoiser = AdaptedDenoiser(
        OwnNetwork(network, whole_times=whole_times),
        VariancePreserving.from_alphas_cumprod(products(betas, alphas_cumprod)),
        prediction=prediction,
        shape=shape,
        conditions=conditions_of(conditions, about),
    )
    return described(rescaled(denoiser, data_range), about)


def products(betas: Table | None, alphas_cumprod: Table | None) -> Tensor:
    r"""Returns :math:`\bar\alpha_t`, `(T,)`, of the one table that is given.

    Raises:
        ValueError: None or both are given, or the one that is given is no schedule.
    """
    if (betas is None) == (alphas_cumprod is None):
        raise ValueError("give the schedule of the network's training: betas or alphas_cumprod")
    name, given = ("betas", betas) if betas is not None else ("alphas_cumprod", alphas_cumprod)
    table = torch.as_tensor(given, dtype=torch.float64).cpu()
    inside = bool(((table >= 0) & (table <= 1)).all())
    if table.ndim != 1 or len(table) < 2 or not inside:
        raise ValueError(
            f"{name} must be at least two numbers within [0, 1], got shape {tuple(table.shape)}"
            + ("" if inside else " and values outside")
        )
    return (1 - table).cumprod(0) if betas is not None else table


# ---------------------------------------------------------------- sources


def matches(source: str) -> bool:
    r"""Whether a source names a Python object: `FILE.py:NAME` or `MODULE:NAME`."""
    return re.fullmatch(r"(.+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*", source) is not None


def load(source: str) -> Denoiser:
    r"""Returns the denoiser that a name in the user's own code stands for, or makes.

    Raises:
        ConfigError: There is no such file or name, or it is no denoiser.
    """
    where, _, name = source.rpartition(":")
    module = _file(Path(where)) if where.endswith(".py") else _module(where)
    if not hasattr(module, name):
        raise ConfigError(f"{where} has no {name!r}")
    found = getattr(module, name)
    if not isinstance(found, Denoiser) and callable(found):
        found = _called(found, source)
    if not isinstance(found, Denoiser):
        raise ConfigError(
            f"{source} must be a vardiu.Denoiser or a function without arguments that returns "
            f"one, got {type(found).__name__}; FunctionDenoiser makes one of any callable"
        )
    found.origin = Origin(source, "function")
    return found


def _called(function: Callable[[], Any], source: str) -> Any:  # noqa: ANN401
    needed = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if needed:
        raise ConfigError(
            f"{source} takes {', '.join(needed)}: name a function without arguments that returns "
            "a denoiser, for instance vardiu.FunctionDenoiser(f, shape=..., sigma_min=..., "
            "sigma_max=...)"
        )
    return function()


def _file(path: Path) -> Any:  # noqa: ANN401 (a module)
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _module(name: str) -> Any:  # noqa: ANN401
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"there is no module {name!r}: {error}") from error
