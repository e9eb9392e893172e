r"""Charts as inline SVG: they follow the colours of the page, in the dark too, and its width.

Colours are names of CSS variables, see `vardiu.reports.html`; nothing here needs a script.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..errors import with_error
from .colours import shape_of

__all__ = ["Line", "Point", "Target", "chart", "is_finite", "number", "spans_orders"]


# Of the picture, in its own units; the page scales it to the width of its card.
WIDTH, HEIGHT = 310, 212
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 10, 40


class Point(NamedTuple):
    r"""A measured value: where, what, and its standard error."""

    x: float
    y: float
    error: float = 0.0


class Line(NamedTuple):
    r"""A line with marks.

    Arguments:
        label: What it is, for readers; empty where the title of the chart says it.
        points: Its points in order; they are finite.
        colour: The name of a CSS variable, for instance `vardiu`.
        series: Which of the colour's series it is: dashes and marks differ.
        fade: How much paler than the first of a family, in [0, 1).
    """

    label: str
    points: Sequence[Point]
    colour: str = "accent"
    series: int = 0
    fade: float = 0.0


class Target(NamedTuple):
    r"""A line across the chart that is to be reached, and the error band about it."""

    value: float
    error: float
    label: str


class Scale(NamedTuple):
    r"""A map from values to a straight axis, and where its ticks are."""

    forward: Callable[[float], float]
    ticks: tuple[float, ...]


def number(value: float) -> str:
    r"""Returns a number as an axis has it: short, `20k` for 20,000."""
    size = abs(value)
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def is_finite(value: Any) -> bool:  # noqa: ANN401 (what JSON has)
    r"""Whether what a log holds is a number that can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def linear(low: float, high: float) -> Scale:
    r"""Returns a linear axis with some four round ticks."""
    span = high - low or abs(high) or 1.0
    unit = 10 ** math.floor(math.log10(span / 4))
    step = next(unit * k for k in (1, 2, 5, 10) if span / (unit * k) <= 5)
    first = math.ceil(low / step - 1e-9)
    ticks = [step * i for i in range(first, first + 12) if step * i <= high + 1e-9 * span]
    return Scale(lambda value: value, tuple(ticks))


def logarithmic(low: float, high: float) -> Scale:
    r"""Returns a logarithmic axis of positive values, with powers of ten for ticks."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / 5))
    ticks = [10.0**i for i in range(first, last + 1, every) if low <= 10.0**i <= high]
    if len(ticks) < 2:
        fine = [k * 10.0**i for i in range(first, last + 1) for k in (1, 2, 5)]
        ticks = [value for value in fine if low <= value <= high]
    return Scale(math.log10, tuple(ticks))


def signed(low: float, high: float, unit: float) -> Scale:
    r"""Returns an axis that is linear within `unit` of zero, and logarithmic beyond."""

    def forward(value: float) -> float:
        return math.copysign(math.log10(1 + abs(value) / unit), value)

    top = math.floor(math.log10(max(abs(low), abs(high))))
    bottom = max(math.floor(math.log10(unit)), top - 4)
    sizes = [10.0**i for i in range(bottom, top + 1, max(1, (top - bottom) // 3 or 1))]
    ticks = [-s for s in sizes[::-1]] + [0.0, *sizes]
    return Scale(forward, tuple(t for t in ticks if low <= t <= high))


def spans_orders(low: float, high: float) -> bool:
    r"""Returns whether positive values differ by more than an order of size."""
    return low > 0 and high > 20 * low


def scale_of(values: Sequence[float]) -> Scale:
    r"""Returns the axis that shows values best: linear, or logarithmic over orders of size."""
    low, high = min(values), max(values)
    if spans_orders(low, high):
        return logarithmic(low / 1.2, high * 1.2)
    sizes = sorted(abs(value) for value in values if value)
    if sizes and low <= 0 and sizes[-1] > 50 * sizes[len(sizes) // 2]:
        return signed(low, high, sizes[len(sizes) // 4])
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return linear(low - margin, high + margin)


def chart(
    title: str, lines: Sequence[Line], x_label: str, target: Target | None = None, note: str = ""
) -> str:
    r"""Returns a figure with a chart, or one that says that nothing was measured.

    Arguments:
        title: Its heading.
        lines: What is drawn.
        x_label: What the axis below is.
        target: What is to be reached.
        note: A line below.
    """
    drawn = [line for line in lines if line.points]
    head = f"<figure class='card chart'><figcaption>{html.escape(title)}</figcaption>"
    if not drawn:
        return f"{head}<p class='soft'>not measured in this run</p></figure>"
    points = [point for line in drawn for point in line.points]
    values = [p.y for p in points] + ([] if target is None else [target.value])
    scale = scale_of(values)
    ends = [scale.forward(v) for v in values]
    low, high = min(ends), max(ends)
    margin = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - margin, high + margin
    left, right = min(p.x for p in points), max(p.x for p in points)
    left = min(left, 0.0) if left < 0.3 * right else left

    def at_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - left) / (right - left or 1.0)

    def at_y(y: float) -> float:
        place = (_clamped(scale, y, low, high) - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * place

    parts = [
        *_axes(scale, at_x, at_y, (left, right), (low, high), x_label),
        *([] if target is None else _target(target, at_y)),
        *(part for line in drawn for part in _line(line, at_x, at_y)),
    ]
    picture = (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{html.escape(title)}'>"
        + "".join(parts)
        + "</svg>"
    )
    below = f"<p class='soft'>{html.escape(note)}</p>" if note else ""
    return f"{head}{picture}{_legend(drawn, target)}{below}</figure>"


def _clamped(scale: Scale, value: float, low: float, high: float) -> float:
    # The end of an error bar may be where a logarithm has none.
    try:
        place = scale.forward(value)
    except ValueError:
        return low
    return min(high, max(low, place))


def _axes(
    scale: Scale,
    at_x: Callable[[float], float],
    at_y: Callable[[float], float],
    across: tuple[float, float],
    along: tuple[float, float],
    x_label: str,
) -> list[str]:
    parts = []
    for tick in scale.ticks:
        if not along[0] <= scale.forward(tick) <= along[1]:
            continue
        y = at_y(tick)
        parts.append(f"<path class='grid' d='M{LEFT} {y:.1f}H{WIDTH - RIGHT}'/>")
        parts.append(f"<text x='{LEFT - 6}' y='{y + 4:.1f}' class='end'>{number(tick)}</text>")
    bottom = HEIGHT - BOTTOM
    for tick in linear(*across).ticks:
        x = at_x(tick)
        parts.append(f"<path class='grid' d='M{x:.1f} {bottom}v4'/>")
        parts.append(f"<text x='{x:.1f}' y='{bottom + 17}' class='mid'>{number(tick)}</text>")
    parts.append(f"<path class='axis' d='M{LEFT} {bottom}H{WIDTH - RIGHT}'/>")
    middle = (LEFT + WIDTH - RIGHT) / 2
    name = html.escape(x_label)
    return [*parts, f"<text x='{middle}' y='{HEIGHT - 6}' class='mid soft'>{name}</text>"]


def _target(target: Target, at_y: Callable[[float], float]) -> list[str]:
    y, width = at_y(target.value), WIDTH - LEFT - RIGHT
    top, bottom = (at_y(target.value + sign * target.error) for sign in (1, -1))
    about = html.escape(f"{target.label}: {with_error(target.value, target.error)}")
    band = f"<rect class='band' x='{LEFT}' y='{top:.1f}' width='{width}' height='{{}}'/>"
    return [
        band.format(f"{max(bottom - top, 0):.1f}"),
        f"<path class='target' d='M{LEFT} {y:.1f}h{width}'><title>{about}</title></path>",
    ]


def _line(line: Line, at_x: Callable[[float], float], at_y: Callable[[float], float]) -> list[str]:
    places = [(at_x(p.x), at_y(p.y)) for p in line.points]
    colour = f"style='--c:var(--{line.colour});opacity:{1 - line.fade:.2f}'"
    route = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    shape = shape_of(line.series)
    parts = [f"<g class='line' {colour}>"]
    if any(p.error for p in line.points) and len(places) > 1:
        above = [f"{at_x(p.x):.1f} {at_y(p.y + p.error):.1f}" for p in line.points]
        below = [f"{at_x(p.x):.1f} {at_y(p.y - p.error):.1f}" for p in reversed(line.points)]
        parts.append(f"<path class='error' d='M{'L'.join([*above, *below])}Z'/>")
    parts.append(f"<path d='M{route}' stroke-dasharray='{shape.svg_dashes}'/>")
    for (x, y), p in zip(places, line.points, strict=True):
        value = with_error(p.y, p.error or None)
        words = html.escape(f"{line.label}{': ' * bool(line.label)}{value}")
        where = f"transform='translate({x:.1f} {y:.1f})'"
        mark = f"<path class='mark' {where} d='{shape.svg_mark}'>"
        parts.append(f"{mark}<title>{words} at {number(p.x)}</title></path>")
    return [*parts, "</g>"]


def _legend(lines: Sequence[Line], target: Target | None) -> str:
    items = [
        f"<li style='--c:var(--{line.colour})'>{_swatch(line)}{html.escape(line.label)}</li>"
        for line in lines
        if line.label
    ]
    if target is not None:
        words = html.escape(f"{target.label} {target.value:.3g}")
        items.append(f"<li style='--c:var(--target)'>{SWATCH.format(AIM)}{words}</li>")
    return f"<ul class='legend'>{''.join(items)}</ul>" if items else ""


SWATCH = "<svg class='swatch' viewBox='0 0 26 12'><g class='line'>{}</g></svg>"
AIM = "<path d='M0 6H26' stroke-dasharray='7 4'/>"


def _swatch(line: Line) -> str:
    shape = shape_of(line.series)
    route = f"<path d='M0 6H26' stroke-dasharray='{shape.svg_dashes}'/>"
    mark = f"<path class='mark' transform='translate(13 6)' d='{shape.svg_mark}'/>"
    drawn = f"{route if len(line.points) > 1 else ''}{mark}"
    return SWATCH.format(f"<g opacity='{1 - line.fade:.2f}'>{drawn}</g>")
