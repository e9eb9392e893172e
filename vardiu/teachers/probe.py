r"""Does a teacher denoise? A check of a few calls, before hours are spent on it.

On data of variance :math:`v` a dimension, the best *linear* denoiser has the error

.. math:: \frac{v \sigma^2}{v + \sigma^2}

at each noise level, and the best of all has less. A network whose error is much above that does
not denoise: its prediction type, its scaling or its weights are wrong.

A network that predicts noise is judged by the error of that noise where the level is great: the
mean is the noisy sample less :math:`\sigma` times the prediction, so that an error of a hundredth
in the prediction, which no sampler minds, is one of 1.6 in the mean at :math:`\sigma = 157`, where
the linear schedule of DDPM ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..denoisers.adapted import PREDICTIONS, AdaptedDenoiser
from ..denoisers.base import Denoiser
from ..errors import NotADenoiser
from ..functional.tensors import expand_like

__all__ = ["Probe", "checked", "probe"]


class Probe(NamedTuple):
    r"""The denoising error at a level, its standard error, and the best linear denoiser's."""

    sigma: float
    error: float
    deviation: float
    linear: float


@torch.no_grad()
def probe(
    teacher: Denoiser,
    x: Tensor,
    cond: Mapping[str, Tensor] | None = None,
    *,
    levels: int = 7,
    factor: float = 1.5,
    floor: float = 0.01,
    seed: int = 0,
) -> list[Probe]:
    r"""Measures the denoising error against the noise level, and refuses what does not denoise.

    Arguments:
        teacher: The teacher.
        x: Clean samples of its data, with shape :math:`(B, *)`.
        cond: Their conditions.
        levels: The number of levels, log-spaced over the teacher's range.
        factor: How much worse than the best linear denoiser is still accepted.
        floor: The error that what the network predicts may have at any level, as a share of the
            data's variance, or of the noise's where it predicts noise: no network is exact.
        seed: The seed of the noise.

    Returns:
        One row for each level: errors are means over dimensions of squared differences.

    Raises:
        NotADenoiser: An output is not finite, has another shape, or the error is too large.
        ValueError: The levels of the teacher are not a finite range.
    """
    low, high = teacher.sigma_min, teacher.sigma_max
    if not 0 < low < high < float("inf"):
        raise ValueError(
            f"the teacher must state 0 < sigma_min < sigma_max, got sigma_min={low:g}, "
            f"sigma_max={high:g}"
        )
    variance = (x - x.mean(0)).square().mean().item()
    # Data drawn with a small seed of their own must not meet the same numbers again as noise.
    generator = torch.Generator(x.device).manual_seed(seed + 0x9E3779B9)
    rows = []
    first, last = torch.tensor([low, high]).log10().tolist()
    for sigma in torch.logspace(first, last, levels).tolist():
        errors = _errors(teacher, x, cond or {}, sigma, generator)
        deviation = (errors.std() / len(x) ** 0.5).item()
        linear = variance * sigma**2 / (variance + sigma**2)
        rows.append(Probe(sigma, errors.mean().item(), deviation, linear))
    network = _innermost(teacher)
    for row in rows:
        allowed = max(factor * row.linear, floor * variance)
        allowed += floor * network.noise_gain(row.sigma) ** 2
        if row.error - 3 * row.deviation > allowed:
            raise NotADenoiser(
                f"the teacher does not denoise: at sigma={row.sigma:.3g} its squared error is "
                f"{row.error:.3g} a dimension, a linear denoiser reaches {row.linear:.3g}. Is it "
                "a prediction of noise or velocity, taken for one of the clean sample? Are its "
                "weights loaded, and the data scaled as in its training?"
            )
    return rows


def _errors(
    teacher: Denoiser,
    x: Tensor,
    cond: Mapping[str, Tensor],
    sigma: float,
    generator: torch.Generator,
) -> Tensor:
    r"""Returns the squared error of each row at a level, a mean over dimensions, `(B,)`.

    Raises:
        NotADenoiser: The output is not finite, or has another shape.
    """
    level = x.new_full((len(x),), sigma).clamp(teacher.sigma_min, teacher.sigma_max)
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    denoised = teacher(x + expand_like(level, x) * noise, level, **cond)
    if denoised.shape != x.shape:
        raise NotADenoiser(
            f"the teacher must return the shape of its input, {tuple(x.shape)}, "
            f"got {tuple(denoised.shape)}"
        )
    if not bool(denoised.isfinite().all()):
        count = int((~denoised.isfinite()).sum())
        raise NotADenoiser(
            f"the teacher returned {count} values that are not finite, at sigma={sigma:g}. "
            "Check its weights, and its precision: float16 overflows at large levels"
        )
    return (denoised - x).square().flatten(1).mean(1)


def _innermost(teacher: Denoiser) -> Denoiser:
    inner = getattr(teacher, "denoiser", None)
    while isinstance(inner, Denoiser):
        teacher, inner = inner, getattr(inner, "denoiser", None)
    return teacher


def _readings(
    teacher: Denoiser, x: Tensor, draw: Callable[[], Tensor] | None
) -> Generator[tuple[str, Denoiser, Tensor]]:
    r"""Yields what may have been meant instead, with the denoiser and the data of it."""
    inner = _innermost(teacher)
    if isinstance(inner, AdaptedDenoiser):
        told = inner.prediction
        try:
            for name in PREDICTIONS:
                inner.prediction = name
                if name != told:
                    data = x if draw is None else draw()
                    yield f"its output is taken for {name!r}, not {told!r}", teacher, data
        finally:
            inner.prediction = told
    yield "the data are scaled to [0, 1], not [-1, 1]", teacher, (x + 1) / 2
    yield "the data are scaled to [-2, 2]", teacher, 2 * x
    yield "the data have unit variance and no mean", teacher, (x - x.mean()) / x.std()
    parts = {} if teacher.origin is None else teacher.origin.parts
    factor = None if "vae" not in parts else parts["vae"].config.scaling_factor
    if factor is not None:
        yield f"latents are not scaled by {factor:g}", teacher, x / factor


def checked(
    teacher: Denoiser,
    x: Tensor,
    cond: Mapping[str, Tensor] | None = None,
    draw: Callable[[], Tensor] | None = None,
) -> list[Probe]:
    r"""Probes a teacher; one that is refused is tried under other readings, to name the cause.

    Arguments:
        teacher: The teacher.
        x: Clean samples, or the teacher's own where there are no data.
        cond: Their conditions.
        draw: Where they are its own, draws them anew under another reading.

    Raises:
        NotADenoiser: It does not denoise; the message says which other reading of it would, if
            one does.
    """
    try:
        return probe(teacher, x, cond)
    except NotADenoiser as error:
        with contextlib.closing(_readings(teacher, x, draw)) as readings:
            for words, other, data in readings:
                try:
                    probe(other, data, cond)
                except NotADenoiser:
                    continue
                raise NotADenoiser(f"{error} It would denoise if {words}.") from error
        raise NotADenoiser(
            f"{error} No other reading of its output or its data denoises either: most likely the "
            "weights are not those of a trained network, or are not of this architecture."
        ) from error
