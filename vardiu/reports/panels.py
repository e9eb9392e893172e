r"""Samples on a page: points as inline SVG, images as small PNGs inside the page."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence

import numpy as np

__all__ = ["embedded", "sample_panels"]


# Columns of a grid of images, and half the side of a square of points.
COLUMNS, HALF = 6, 100.0


def sample_panels(samples: Sequence[tuple[str, str, np.ndarray]]) -> list[str]:
    r"""Returns a figure for each titled set of samples; they share one scale.

    Arguments:
        samples: Titles, names of CSS variables for the colour of points, and samples: images
            `(N, C, H, W)` in [-1, 1], or points `(N, d)`, of which the first two coordinates are
            drawn.
    """
    if samples[0][2].ndim == 4:
        return [_figure(title, _images(title, x)) for title, _, x in samples]
    flat = [(title, colour, x.reshape(len(x), -1)) for title, colour, x in samples]
    known = flat[0][2][:, :2]
    finite = np.abs(known[np.isfinite(known)])
    reach = 1.15 * float(np.quantile(finite, 0.995)) if finite.size else 1.0
    return [_figure(*_points(title, colour, x, reach or 1.0)) for title, colour, x in flat]


def _figure(title: str, body: str) -> str:
    return f"<figure class='card'><figcaption>{html.escape(title)}</figcaption>{body}</figure>"


def _points(title: str, colour: str, x: np.ndarray, reach: float) -> tuple[str, str]:
    second = x[:, 1] if x.shape[1] > 1 else np.zeros(len(x))
    places = np.stack([x[:, 0], -second], axis=1) * (HALF / reach)
    inside = (np.abs(places) <= HALF).all(axis=1)
    outside = int((~inside).sum())
    route = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in places[inside])
    words = html.escape(f"{title}: {len(x):,} samples")
    body = (
        f"<svg class='points' viewBox='{-HALF} {-HALF} {2 * HALF} {2 * HALF}' role='img' "
        f"aria-label='{words}' style='--c:var(--{colour})'><path d='{route}'/></svg>"
    )
    return (f"{title} ({outside:,} of {len(x):,} outside)" if outside else title), body


def _images(title: str, images: np.ndarray) -> str:
    n, channels, height, width = images.shape
    rows = math.ceil(n / COLUMNS)
    full = np.zeros((rows * COLUMNS, height + 1, width + 1, 4))
    pixels = (np.clip(images, -1, 1).transpose(0, 2, 3, 1) + 1) / 2
    full[:n, :height, :width, :3] = pixels if channels == 3 else pixels[..., :1]
    full[:n, :height, :width, 3] = 1  # between images, and after the last, the page shows
    grid = full.reshape(rows, COLUMNS, height + 1, width + 1, 4).transpose(0, 2, 1, 3, 4)
    import matplotlib.image

    buffer = io.BytesIO()
    picture = grid.reshape(rows * (height + 1), COLUMNS * (width + 1), 4)
    matplotlib.image.imsave(buffer, picture, format="png")
    return embedded(buffer.getvalue(), title, "pixels" if width < 100 else "")


def embedded(data: bytes, title: str, kind: str = "") -> str:
    r"""Returns a PNG as an image inside the page."""
    text = base64.b64encode(data).decode()
    return f"<img class='{kind}' alt='{html.escape(title)}' src='data:image/png;base64,{text}'>"
