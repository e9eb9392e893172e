r"""Does a teacher denoise? A check of a few calls, before hours are spent on it.

At each noise level the teacher's squared error a dimension is compared with those of two linear
denoisers of the same data, which anybody can have: the best of all has no more. One scales every
value alike, and has the error :math:`v \sigma^2 / (v + \sigma^2)` for data of variance :math:`v`
a dimension. The other one is

.. math:: m + \Sigma (\Sigma + \sigma^2 I)^{-1} (x_t - m)

with mean and covariance of one half of the samples, shrunk as Ledoit and Wolf have it; its error
is that on the other half, the mean over both ways, or that of the first one where it is less.

=====  ============================================================================================
ok     the error is at most 1.1 times that of the second linear denoiser
weak   it is at most what is *allowed*: 1.5 times that of the first one, or a hundredth of
       :math:`v`; more a hundredth of the noise's variance where the network predicts noise
fails  it is more: the prediction type, the scaling or the weights are wrong. Or the second one is
       better than the first by a fifth at some levels, and the teacher at none of them by a
       twentieth: an untrained network behind a skip connection is the first one
=====  ============================================================================================

An error counts less three of its standard errors.

Whether the teacher is better than a linear denoiser is told on the same noisy samples, where most
of the chance is common to both: its error is less by a fiftieth and three standard errors of the
difference. The fiftieth is what the linear one loses by being fitted to half of the samples.

A network that predicts noise is judged by the error of that noise where the level is great: the
mean is the noisy sample less :math:`\sigma` times the prediction, so that an error of a hundredth
in the prediction, which no sampler minds, is one of 1.6 in the mean at :math:`\sigma = 157`, where
the linear schedule of DDPM ends. Such a level is weak: samplers come through it, and no student
should be asked there.

References:
    | A well-conditioned estimator for large-dimensional covariance matrices (Ledoit and Wolf,
    | 2004), https://doi.org/10.1016/S0047-259X(03)00096-4
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..denoisers.adapted import PREDICTIONS, AdaptedDenoiser
from ..denoisers.base import Denoiser, place_of
from ..errors import ConfigError, NotADenoiser, amount, shown
from ..functional.tensors import expand_like
from .origin import Origin

__all__ = [
    "FEWEST",
    "LEVELS",
    "LinearDenoiser",
    "PROBED",
    "Probe",
    "Rule",
    "check_gradient",
    "checked",
    "innermost",
    "measured",
    "probe",
    "refuse_unjudgeable",
    "verdict",
]


# The number of noise levels that a teacher is asked at.
LEVELS = 7


# The clean samples that a teacher is judged on, where there are as many.
PROBED = 512


# Fewer samples have no standard error that is one.
FEWEST = 8


class Rule(NamedTuple):
    r"""What is accepted.

    Arguments:
        factor: How many times the error of the linear denoiser that scales every value alike is
            still accepted.
        floor: The error that what the network predicts may have at any level, as a share of the
            data's variance, or of the noise's where it predicts noise: no network is exact.
        ok: How many times the linear denoiser's error is as good as it.
        errors: How many standard errors are taken off an error.
    """

    factor: float = 1.5
    floor: float = 0.01
    ok: float = 1.1
    errors: float = 3.0


class Probe(NamedTuple):
    r"""What was found at a level.

    Attributes:
        sigma: The level.
        error: The teacher's squared error, a mean over samples and dimensions.
        deviation: Its standard error.
        linear: The error of a linear denoiser.
        allowed: The error that is accepted.
        status: `"ok"`, `"weak"` or `"fails"`, see the module.
        better: Whether it is surely better than the linear denoiser on the same noisy samples.
    """

    sigma: float
    error: float
    deviation: float
    linear: float
    allowed: float
    status: str
    better: bool


@torch.no_grad()
def measured(
    teacher: Denoiser,
    x: Tensor,
    cond: Mapping[str, Tensor] | None = None,
    *,
    levels: int = LEVELS,
    rule: Rule | None = None,
    seed: int = 0,
) -> list[Probe]:
    r"""Measures the denoising error against the noise level.

    Arguments:
        teacher: The teacher.
        x: Clean samples of its data, with shape :math:`(B, *)`.
        cond: Their conditions.
        levels: The number of levels, log-spaced over the teacher's range.
        rule: What is accepted; `Rule()` by default.
        seed: The seed of the noise.

    Returns:
        One row for each level.

    Raises:
        NotADenoiser: An output is not finite, or has another shape.
        ConfigError: The samples cannot judge anybody: they are too few, or all the same.
        ValueError: The levels of the teacher are not a finite range.
    """
    low, high = teacher.sigma_min, teacher.sigma_max
    if not 0 < low < high < float("inf"):
        raise ValueError(
            f"the teacher must state 0 < sigma_min < sigma_max, got sigma_min={low:g}, "
            f"sigma_max={high:g}"
        )
    rule = rule or Rule()
    linear = LinearDenoiser(x)
    gain = innermost(teacher).noise_gain
    # Data drawn with a small seed of their own must not meet the same numbers again as noise.
    generator = torch.Generator(x.device).manual_seed(seed + 0x9E3779B9)
    rows = []
    first, last = torch.tensor([low, high]).log10().tolist()
    for sigma in torch.logspace(first, last, levels).tolist():
        errors, noisy = _errors(teacher, x, cond or {}, sigma, generator)
        error, deviation = errors.mean().item(), (errors.std() / len(x) ** 0.5).item()
        best = linear.error(sigma)
        allowed = max(rule.factor * linear.alike(sigma), rule.floor * linear.variance)
        allowed += rule.floor * gain(sigma) ** 2
        sure = error - rule.errors * deviation
        status = "ok" if sure <= rule.ok * best else "weak" if sure <= allowed else "fails"
        better = linear.is_beaten(errors, x, noisy, sigma, rule.errors)
        rows.append(Probe(sigma, error, deviation, best, allowed, status, better))
    return _unless_untrained(rows, linear, rule)


def _unless_untrained(rows: Sequence[Probe], linear: LinearDenoiser, rule: Rule) -> list[Probe]:
    r"""Returns the rows, with a failure where data have structure and the teacher knows none."""
    bounds = {row.sigma: 0.95 * linear.alike(row.sigma) for row in rows}
    telling = [row for row in rows if row.linear < 0.8 * linear.alike(row.sigma)]
    known = any(row.error - rule.errors * row.deviation < bounds[row.sigma] for row in telling)
    if known or not telling:
        return list(rows)
    return [
        row._replace(allowed=bounds[row.sigma], status="fails") if row in telling else row
        for row in rows
    ]


def probe(
    teacher: Denoiser,
    x: Tensor,
    cond: Mapping[str, Tensor] | None = None,
    *,
    levels: int = LEVELS,
    rule: Rule | None = None,
    seed: int = 0,
) -> list[Probe]:
    r"""Measures the denoising error, see `measured`, and refuses what does not denoise.

    Raises:
        NotADenoiser: The error is too large at a level; the error holds the rows. Or an output is
            not finite, or has another shape.
        ConfigError: The samples cannot judge anybody.
        ValueError: The levels of the teacher are not a finite range.
    """
    rows = measured(teacher, x, cond, levels=levels, rule=rule, seed=seed)
    failed = next((row for row in rows if row.status == "fails"), None)
    if failed is not None:
        raise NotADenoiser(
            f"the teacher does not denoise: at sigma={failed.sigma:.3g} its squared error is "
            f"{failed.error:.3g} a dimension, a linear denoiser reaches {failed.linear:.3g}, "
            f"allowed is {failed.allowed:.3g}. {_doubts(teacher)}",
            rows,
        )
    return rows


def refuse_unjudgeable(x: Tensor) -> float:
    r"""Returns the variance a dimension of clean samples, `(B, *)`.

    Raises:
        ConfigError: There are too few samples, or they are all the same, or not finite.
    """
    if len(x) < FEWEST:
        raise ConfigError(
            f"the teacher cannot be judged on {amount(len(x), 'clean sample')}: give at least "
            f"{FEWEST} (--data)"
        )
    flat = x.flatten(1).double()
    variance = (flat - flat.mean(0)).square().mean().item()
    same = bool((flat == flat[:1]).all())
    if same or not 0 < variance < float("inf"):
        what = "all the same" if same else "not all finite"
        raise ConfigError(
            f"the teacher cannot be judged: the {len(x)} clean samples are {what}; give samples "
            "that differ (--data)"
        )
    return variance


class LinearDenoiser:
    r"""The error of a linear denoiser, fitted to one half of samples and tried on the other.

    Arguments:
        x: Clean samples, with shape :math:`(B, *)`.

    Attributes:
        variance: The variance a dimension.

    Raises:
        ConfigError: There are too few samples, or they are all the same, or not finite.
    """

    def __init__(self, x: Tensor) -> None:
        self.variance = refuse_unjudgeable(x)
        flat = x.flatten(1).double()
        self.mean = flat.mean(0)
        halves = flat[0::2], flat[1::2]
        self._fits = [_fit(a, b) for a, b in (halves, halves[::-1])]

    def alike(self, sigma: float) -> float:
        r"""Returns the error of the linear denoiser that scales every value alike."""
        return self.variance * sigma**2 / (self.variance + sigma**2)

    def error(self, sigma: float) -> float:
        r"""Returns the squared error a dimension at a level."""
        return min(self.alike(sigma), self._fitted(sigma))

    def _fitted(self, sigma: float) -> float:
        r"""Returns the error of the linear denoiser with mean and covariance."""
        s = sigma**2
        errors = [
            ((1 - gain).square() * fit.along + s * gain.square()).mean()
            for fit in self._fits
            for gain in [fit.gain(sigma)]
        ]
        return torch.stack(errors).mean().item()

    def is_beaten(
        self, errors: Tensor, x: Tensor, noisy: Tensor, sigma: float, deviations: float
    ) -> bool:
        r"""Returns whether a teacher is surely better on the same noisy samples, see the module.

        Arguments:
            errors: The teacher's error of each row, with shape :math:`(B,)`.
            x: The clean samples.
            noisy: The noisy ones.
            sigma: The level.
            deviations: How many standard errors of the difference count against the teacher.
        """
        clean, y = x.flatten(1).double(), noisy.flatten(1).double()
        if self.alike(sigma) <= self._fitted(sigma):
            gain = self.variance / (self.variance + sigma**2)
            denoised = self.mean + gain * (y - self.mean)
        else:
            denoised = torch.empty_like(y)
            for i, fit in enumerate(self._fits):  # each on the half that it has not seen
                denoised[1 - i :: 2] = fit.denoised(y[1 - i :: 2], sigma)
        own = (denoised - clean).square().mean(1)
        less = own - errors.double()
        margin = 0.02 * own.mean() + deviations * less.std() / len(x) ** 0.5
        return bool(less.mean() > margin)


class _Fit(NamedTuple):
    r"""A linear denoiser of one half of samples.

    Attributes:
        mean: The mean, with shape `(D,)`.
        rotation: Directions, with shape `(K, D)`.
        eigenvalues: The shrunk eigenvalues, with shape `(D,)`; those after `K` are all the same.
        along: The mean square of the other half along each direction, with shape `(D,)`.
    """

    mean: Tensor
    rotation: Tensor
    eigenvalues: Tensor
    along: Tensor

    def gain(self, sigma: float) -> Tensor:
        return self.eigenvalues / (self.eigenvalues + sigma**2)

    def denoised(self, y: Tensor, sigma: float) -> Tensor:
        r"""Returns what it makes of noisy samples, with shape `(B, D)`."""
        gain, k = self.gain(sigma), len(self.rotation)
        y = y - self.mean
        rest = gain[-1] if len(gain) > k else gain.new_zeros(())
        return self.mean + rest * y + (y @ self.rotation.T) * (gain[:k] - rest) @ self.rotation


def _fit(a: Tensor, b: Tensor) -> _Fit:
    r"""Returns the linear denoiser of one half of samples, which the other half tries."""
    n, d = a.shape
    mean = a.mean(0)
    a, b = a - mean, b - mean
    _, root, rotation = torch.linalg.svd(a, full_matrices=False)
    eigenvalues = root.square() / n
    average = eigenvalues.sum() / d
    squares = eigenvalues.square().sum()
    spread = (a.square().sum(1).square().sum() / n - squares) / n
    distance = squares - d * average**2
    share = (spread / distance).clamp(0, 1) if distance > 0 else torch.ones(())
    eigenvalues = (1 - share) * eigenvalues + share * average
    along = (b @ rotation.T).square().mean(0)
    rest = d - len(eigenvalues)
    if rest > 0:
        left = (b.square().sum(1).mean() - along.sum()).clamp(min=0) / rest
        eigenvalues = torch.cat([eigenvalues, (share * average).expand(rest)])
        along = torch.cat([along, left.expand(rest)])
    return _Fit(mean, rotation, eigenvalues, along)


def _errors(
    teacher: Denoiser,
    x: Tensor,
    cond: Mapping[str, Tensor],
    sigma: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    r"""Returns the squared error of each row at a level, a mean over dimensions, `(B,)`, and the
    noisy samples.

    Raises:
        NotADenoiser: The output is not finite, or has another shape.
    """
    level = x.new_full((len(x),), sigma).clamp(teacher.sigma_min, teacher.sigma_max)
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    noisy = x + expand_like(level, x) * noise
    device = place_of(teacher, x.device)
    given = {name: value.to(device) for name, value in cond.items()}
    denoised = teacher(noisy.to(device), level.to(device), **given).to(x.device)
    if denoised.shape != x.shape:
        raise NotADenoiser(
            f"the teacher must return the shape of its input, {tuple(x.shape)}, "
            f"got {tuple(denoised.shape)}"
        )
    if not bool(denoised.isfinite().all()):
        bad = amount(int((~denoised.isfinite()).sum()), "value that is", "values that are")
        raise NotADenoiser(
            f"the teacher returned {bad} not finite, at sigma={sigma:g}. "
            "Check its weights, and its precision: float16 overflows at large levels"
        )
    return (denoised - x).square().flatten(1).mean(1), noisy


def innermost(teacher: Denoiser) -> Denoiser:
    r"""Returns the denoiser that guidance, prompts and the like are made of."""
    inner = getattr(teacher, "denoiser", None)
    while isinstance(inner, Denoiser):
        teacher, inner = inner, getattr(inner, "denoiser", None)
    return teacher


# ---------------------------------------------------------------- in words


def verdict(rows: Sequence[Probe]) -> str:
    r"""Returns one sentence of a teacher that was not refused: where it denoises, and how well."""
    weak = [row for row in rows if row.status == "weak"]
    better = any(row.better for row in rows)
    if not weak and better:
        return "it denoises."
    parts = []
    if weak:
        worst = max(weak, key=lambda row: row.error / row.linear)
        levels = ", ".join(f"{row.sigma:.3g}" for row in weak)
        parts.append(
            f"it is weak at sigma={levels}: at {worst.sigma:.3g} its error is {worst.error:.3g}, "
            f"a linear denoiser's {worst.linear:.3g}. Train and ask students at other levels "
            "(--levels.sigma-min, --levels.sigma-max, --sigma)."
        )
    if not better:
        parts.append(
            "At no level is it better than a linear denoiser: it is barely trained, or its data "
            "are Gaussian."
        )
    return " ".join(parts)


def _read_from(teacher: Denoiser) -> str | None:
    r"""Returns the path or the id that a teacher was read from, of which files state what it
    predicts and its levels; `None` where code of the user's own made it."""
    origin = teacher.origin
    own = teacher.own_code is not None or innermost(teacher).own_code is not None
    if own or not isinstance(origin, Origin) or origin.kind == "function":
        return None
    return origin.source


def _doubts(teacher: Denoiser) -> str:
    r"""Returns what may be wrong with a teacher that does not denoise."""
    if _read_from(teacher) is not None:
        return "Was it trained for long enough, and on such data, scaled as they are here?"
    return (
        "Is it a prediction of noise or velocity, taken for one of the clean sample? Are its "
        "weights loaded, and the data scaled as in its training?"
    )


def _within(teacher: Denoiser, low: str, high: str) -> str:
    r"""Returns the cure of a teacher that denoises between two levels alone."""
    source = _read_from(teacher)
    if source is None:
        return f"where the teacher is made, state sigma_min={low} and sigma_max={high}"
    return (
        "train it longer, or give --teacher FILE.py:teacher, where FILE.py of your own has the "
        f"lines teacher = vardiu.teachers.load({shown(source)!r}) and teacher.sigma_min, "
        f"teacher.sigma_max = {low}, {high}"
    )


def _range(rows: Sequence[Probe], spread: float) -> tuple[Probe, Probe] | None:
    r"""Returns the ends of the longest row of levels that pass, if it shows a denoiser.

    Below the spread of the data whoever does nothing passes, and far above it whoever gives the
    mean: one that denoises passes on both sides of it.
    """
    runs: list[list[Probe]] = [[]]
    for row in rows:
        if row.status == "fails":
            runs.append([])
        else:
            runs[-1].append(row)
    longest = max(runs, key=len)
    if not longest or not longest[0].sigma < spread < longest[-1].sigma:
        return None
    return longest[0], longest[-1]


def _readings(
    teacher: Denoiser, x: Tensor, draw: Callable[[], Tensor] | None
) -> Generator[tuple[str, Denoiser, Tensor]]:
    r"""Yields what may have been meant instead, with the denoiser and the data of it."""
    inner = innermost(teacher)
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
    factor = None if teacher.origin is None else teacher.origin.about.get("codec_scale")
    if factor is not None:
        yield f"latents are not scaled by {factor:g}", teacher, x / factor


def check_gradient(teacher: Denoiser, x: Tensor, cond: Mapping[str, Tensor], method: str) -> None:
    r"""Refuses a teacher that cannot be differentiated, for a method that has to.

    A part of the gradient that is cut off inside of the teacher is not noticed.

    Arguments:
        teacher: The teacher.
        x: Clean samples, of which two are looked at, with shape :math:`(B, *)`.
        cond: Their conditions.
        method: The name of the method.

    Raises:
        ConfigError: Its output carries no gradient to its input, or one that is not finite.
    """
    wanted = f"{method} needs the gradient of the teacher"
    if teacher.origin is not None:
        wanted += f" {shown(teacher.origin.source)}"
    place = place_of(teacher, x.device)
    clean, low, high = x[:2].to(place), max(teacher.sigma_min, 1e-3), teacher.sigma_max
    sigma = clean.new_full((len(clean),), (low * min(high, 1e3)) ** 0.5)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
    with torch.enable_grad():
        x_t = (clean + expand_like(sigma, clean) * noise).requires_grad_(True)
        there = {name: value[:2].to(place) for name, value in cond.items()}
        output = teacher(x_t, sigma, **there)
        found = (
            torch.autograd.grad(output.sum(), x_t, allow_unused=True)[0]
            if output.requires_grad
            else None
        )
    if found is None:
        raise ConfigError(
            f"{wanted}, and its output carries none to its input: take torch.no_grad, "
            "inference_mode, detach and numpy out of its forward, or give another --method "
            "(diff_instruct needs no gradient)"
        )
    if not bool(found.isfinite().all()):
        raise ConfigError(
            f"{wanted}, and at sigma={sigma[0].item():.3g} it is not finite: mend its forward "
            "(the root of zero has no gradient), or give another --method (diff_instruct needs "
            "no gradient)"
        )


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
            one does, or at which levels it does.
        ConfigError: The samples cannot judge anybody.
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
                again = f"{error} It would denoise if {words}."
                raise NotADenoiser(again, error.rows) from error
        ends = _range(error.rows, LinearDenoiser(x).variance ** 0.5)
        if ends is not None:
            low, high = (f"{row.sigma:.3g}" for row in ends)
            raise NotADenoiser(
                f"{error} It denoises from sigma={low} to {high}, and not beyond: "
                f"{_within(teacher, low, high)}.",
                error.rows,
            ) from error
        raise NotADenoiser(
            f"{error} No other reading of its output or its data denoises either: most likely the "
            "weights are not those of a trained network, or are not of this architecture.",
            error.rows,
        ) from error
