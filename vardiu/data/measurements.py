r"""Measurements: their noise, by the names of `deepinv.physics`, and what must be true of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import ConfigError, amount, shown
from ..storage.code import CODE_ERRORS

__all__ = ["GaussianNoise", "Noise", "PoissonNoise", "check_measurement", "check_operator"]


class Noise(Protocol):
    r"""A model of noise, with the standard deviation that a solver takes it for."""

    sigma: float

    def __call__(self, y: Tensor, generator: torch.Generator) -> Tensor:
        r"""Returns a measurement with noise of a source."""
        ...

    def weight(self, y: Tensor) -> Tensor:
        r"""Returns the factor of the misfit of each row, `(B,)`."""
        ...


class GaussianNoise:
    r""":math:`y + s \, n`, on the measurement's own scale.

    Arguments:
        sigma: The standard deviation :math:`s`.

    Raises:
        ValueError: It is negative or not finite.
    """

    def __init__(self, sigma: float) -> None:
        if not 0 <= sigma < math.inf:
            raise ValueError(f"the noise must be at least 0 and finite, got {sigma:g}")
        self.sigma = sigma

    def __call__(self, y: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.randn(y.shape, generator=generator, dtype=y.dtype)
        return y + self.sigma * drawn.to(y.device)

    def weight(self, y: Tensor) -> Tensor:
        return torch.ones_like(y.flatten(1)[:, 0])


class PoissonNoise:
    r"""Counts of light: :math:`u' = g \, \mathrm{Poisson}(u / g)` with :math:`u = (y + 1) / 2`.

    A misfit is divided by the light, averaged over its inverse, as DPS does.

    Arguments:
        gain: The light :math:`g` of one count.

    Raises:
        ValueError: It is not above zero.
    """

    def __init__(self, gain: float) -> None:
        if not 0 < gain < math.inf:
            raise ValueError(f"the gain must be positive and finite, got {gain:g}")
        self.gain = gain
        self.sigma = 2 * math.sqrt(gain / 2)  # at half the light, on the scale of y

    def __call__(self, y: Tensor, generator: torch.Generator) -> Tensor:
        light = ((y + 1) / 2).clamp_min(0).cpu()
        counts = torch.poisson(light / self.gain, generator=generator)
        return (2 * self.gain * counts - 1).to(y)

    def weight(self, y: Tensor) -> Tensor:
        light = ((y + 1) / 2).clamp_min(self.gain)
        return (1 / light).flatten(1).mean(1)


# Of one in single precision: what two sides of an identity may differ by.
EXACT = 1e-3


def check_operator(operator: Any, shape: tuple[int, ...], name: str) -> tuple[int, ...]:  # noqa: ANN401
    r"""Returns the shape of a measurement; refuses what is no operator, or is not as declared.

    It is called with two images. Of what has an adjoint, linearity and the adjoint are tested.

    Arguments:
        operator: What has `A`, and perhaps `A_adjoint`.
        shape: The shape of an image.
        name: What it is called in messages.

    Raises:
        ConfigError: A call fails, returns no finite tensor with a row an image, or carries no
            gradient; or the operator is declared linear and is not, or its adjoint is another's.
    """
    source = torch.Generator().manual_seed(0)
    x = 0.5 * torch.randn(2, *shape, generator=source)
    y = _called(operator.A, x.requires_grad_(), f"{name}: A")
    if not y.requires_grad:
        raise ConfigError(
            f"{name}: its measurement carries no gradient to the image: write it with torch's "
            "functions, without detach() or numpy"
        )
    x, y = x.detach(), y.detach()
    if not callable(getattr(operator, "A_adjoint", None)):
        return tuple(y.shape[1:])
    other = torch.randn(x.shape, generator=source)
    with torch.no_grad():
        sum_of = _called(operator.A, 2 * x + other, f"{name}: A")
        gap = (sum_of - (2 * y + _called(operator.A, other, f"{name}: A"))).norm()
        if not bool(gap <= EXACT * (1 + sum_of.norm())):
            raise ConfigError(
                f"{name} has an adjoint and is not linear: A(2 a + b) differs from 2 A(a) + A(b) "
                f"by {gap:.2g}: mend A, or leave A_adjoint out"
            )
        back = torch.randn(y.shape, generator=source)
        turned = _called(operator.A_adjoint, back, f"{name}: A_adjoint")
        if turned.shape != x.shape:
            raise ConfigError(
                f"{name}: A_adjoint returns {tuple(turned.shape)} of a measurement, and images "
                f"are {tuple(x.shape)}"
            )
        left, right = (y * back).sum(), (x * turned).sum()
        if not bool((left - right).abs() <= EXACT * (y.norm() * back.norm() + 1)):
            raise ConfigError(
                f"{name}: A_adjoint is not the adjoint of A: <A x, y> is {left:.4g} and "
                f"<x, A' y> is {right:.4g}"
            )
    return tuple(y.shape[1:])


def _called(function: Any, x: Tensor, what: str) -> Tensor:  # noqa: ANN401 (the user's code)
    try:
        found = function(x)
    except CODE_ERRORS as error:
        raise ConfigError(
            f"{what} fails on a tensor {tuple(x.shape)}: {type(error).__name__}: "
            f"{shown(' '.join(str(error).split()))}"
        ) from error
    if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(x):
        made = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(f"{what} must return a tensor with {len(x)} rows, got {made}")
    if not found.is_floating_point() or not bool(found.isfinite().all()):
        raise ConfigError(f"{what} returns values that are no finite floating-point numbers")
    return found


def check_measurement(
    y: Tensor, expected: tuple[int, ...], names: Sequence[str], limit: float
) -> None:
    r"""Refuses measurements that an operator cannot have made.

    Arguments:
        y: The measurements, with shape :math:`(N, *)`.
        expected: The shape of one.
        names: What each is called.
        limit: The greatest absolute value that one may have.

    Raises:
        ConfigError: They have another shape, a value that is not finite, or one out of range.
    """
    if tuple(y.shape[1:]) != expected:
        raise ConfigError(
            f"the measurement {shown(names[0])} has shape {tuple(y.shape[1:])}, and the operator "
            f"makes {expected} of the teacher's images"
        )
    for name, row in zip(names, y, strict=True):
        bad = int((~row.isfinite()).sum())
        if bad:
            raise ConfigError(
                f"the measurement {shown(name)} has "
                f"{amount(bad, 'value that is', 'values that are')} not finite (NaN or "
                "infinite): mask them (--operator inpaint), or mend the file"
            )
        peak = row.abs().max().item()
        if not peak <= limit:
            raise ConfigError(
                f"the measurement {shown(name)} reaches {peak:.4g}, and the operator makes at "
                f"most {limit:.4g} of images in [-1, 1]: is it on the scale of 0 to 255?"
            )
