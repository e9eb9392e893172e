r"""Teachers that are functions: of `(x_t, sigma)`, of azula's shape, or velocities of a flow.

.. math:: D(x_t, \sigma) = x_t + \sigma^2 \, \nabla \log p_\sigma(x_t)

turns a score into a denoiser (Tweedie's formula). azula's denoisers return a posterior whose mean
is meant, at a time :math:`t` with a schedule :math:`(\alpha_t, \sigma_t)`; ours is the time
where :math:`\sigma_t / \alpha_t = \sigma`, found by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from ..nn.taps import Features, ask_features
from ..storage.code import CODE_ERRORS, OwnCode, is_source, load_code
from .origin import Origin

__all__ = ["AzulaDenoiser", "FunctionDenoiser", "ddpm", "flow", "load", "matches", "of_code"]


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
        return self._mean(self.network(y, level, **cond), y, level)

    def _mean(self, output: Tensor, y: Tensor, level: Tensor) -> Tensor:
        read = READINGS[self.returns](output.to(y.dtype), y, expand_like(level, y))
        return self.map.back(read)

    @property
    def taps(self) -> tuple[str, ...]:
        return getattr(self.network, "taps", ())

    @property
    def bottleneck(self) -> str:
        return getattr(self.network, "bottleneck", "")

    def features(
        self, x_t: Tensor, sigma: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> Features:
        if not isinstance(self.network, nn.Module):
            return super().features(x_t, sigma, at, **cond)
        self.check(x_t, sigma)
        y, level = self.map.there(x_t), self.map.scale * sigma
        output, kept = ask_features(self.network, y, level, at, cond)
        return self._mean(output, y, level), kept


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
    return is_source(source)


def load(source: str) -> Denoiser:
    r"""Returns the denoiser that a name in the user's own code stands for, or makes.

    Raises:
        ConfigError: There is no such file or name, or it is no denoiser.
    """
    return of_code(load_code(source))


def of_code(code: OwnCode) -> Denoiser:
    r"""Returns the denoiser that own code stands for, or makes, in evaluation mode.

    It is called once, with two rows at its smallest and its largest level: what fails there would
    fail in a training. An origin that the code gave it is kept.

    Raises:
        ConfigError: It is no denoiser; calling it, or its decoder, fails; or what it returns has
            another shape, is not finite, or needs conditions that no command gives.
    """
    found = code.made()
    if not isinstance(found, Denoiser):
        raise ConfigError(
            f"{code.source} must be a vardiu.Denoiser or a function without arguments that "
            f"returns one, got {type(found).__name__}: wrap a network in vardiu.FunctionDenoiser, "
            "or in vardiu.teachers.ddpm or flow"
        )
    if found.origin is None:
        found.origin = Origin(code.source, "function")
    elif isinstance(found.origin, Origin) and not found.origin.source:
        found.origin = replace(found.origin, source=code.source)
    found.own_code = code
    found.eval()
    check_conditions(found, code)
    rehearse(found, code)
    return found


def check_conditions(denoiser: Denoiser, code: OwnCode) -> None:
    r"""Raises a `ConfigError` where a denoiser takes what no command gives."""
    origin = denoiser.origin
    texts = origin.encode is not None
    unknown = [name for name in denoiser.conditions if name != "label"]
    if unknown and not texts:
        raise ConfigError(
            f"{code.source} takes the conditions {list(denoiser.conditions)}, and a command gives "
            "label alone: bind the others in a function of your own"
        )
    if "label" in denoiser.conditions and not origin.classes:
        raise ConfigError(
            f"{code.source} takes a label, and does not say of how many classes: give it classes, "
            "for instance classes=10"
        )


@torch.no_grad()
def rehearse(denoiser: Denoiser, code: OwnCode) -> None:
    r"""Raises a `ConfigError` where a call of own code fails, or returns something else."""
    origin = denoiser.origin
    x = torch.randn(2, *denoiser.shape, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([denoiser.sigma_min, denoiser.sigma_max])
    if any(name != "label" for name in denoiser.conditions) or not bool(sigma.isfinite().all()):
        return  # prompts are encoded later; a level that is none is refused by the probe
    labels = [0, origin.classes - 1 if origin.null is None else origin.null]
    cond = {"label": torch.tensor(labels)} if denoiser.conditions else {}
    twin = denoiser.float()
    try:
        output = twin(x * expand_like(sigma, x), sigma, **cond)
    except CODE_ERRORS as error:
        raise code.failure(error, f"its call with x {tuple(x.shape)} and two levels") from error
    check_output(output, x.shape, f"{code.source}: the denoiser")
    if origin.decode is not None:
        rehearse_codec(origin, x, code)


def rehearse_codec(origin: Origin, x: Tensor, code: OwnCode) -> None:
    r"""Raises a `ConfigError` where own code makes no images of latents `x`, or no latents of
    images."""
    assert origin.decode is not None
    try:
        images = origin.decode(x)
    except CODE_ERRORS as error:
        raise code.failure(error, f"its decode of latents {tuple(x.shape)}") from error
    shape = tuple(images.shape) if isinstance(images, Tensor) else ()
    if len(shape) != 4 or shape[0] != 2 or shape[1] not in (1, 3):
        raise ConfigError(
            f"{code.source}: decode makes images (2, channels, height, width) of two latents, "
            f"with one channel or three, got {shape or type(images).__name__}"
        )
    if origin.compress is None:
        return
    try:
        latents = origin.compress(images.clamp(-1, 1))
    except CODE_ERRORS as error:
        raise code.failure(error, f"its compress of images {shape}") from error
    found = tuple(latents.shape) if isinstance(latents, Tensor) else ()
    if found != tuple(x.shape):
        raise ConfigError(
            f"{code.source}: compress makes latents {tuple(x.shape)} of two images {shape}, got "
            f"{found or type(latents).__name__}"
        )


def check_output(output: object, shape: torch.Size, what: str) -> None:
    r"""Raises a `ConfigError` where an output is no finite tensor of a shape."""
    if not isinstance(output, Tensor) or output.shape != shape:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f"{what} must return the shape of its input, {tuple(shape)}, got {found}"
        )
    if not bool(output.isfinite().all()):
        raise ConfigError(
            f"{what} returns values that are not finite at its smallest or its largest level: "
            "check its weights, and sigma_min and sigma_max"
        )
