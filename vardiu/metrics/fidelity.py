r"""How near restored images are to the true ones, image by image.

References:
    | Image Quality Assessment: From Error Visibility to Structural Similarity (Wang et al., 2004)
    | https://doi.org/10.1109/TIP.2003.819861
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .metric import Metric

__all__ = ["mean_of", "psnr", "ssim"]


# The distance of white from black, in [-1, 1].
RANGE = 2.0


# Of the window: its side, and its standard deviation, in pixels.
WINDOW, STD = 11, 1.5


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    r"""Returns the peak signal-to-noise ratio of each image in decibels, `(B,)`.

    .. math:: 10 \log_{10} \frac{4}{\mathrm{mse}}

    of images in [-1, 1], `(B, C, H, W)`; infinite where they are equal.
    """
    mse = (x.double() - truth.double()).flatten(1).square().mean(1)
    return 10 * (RANGE**2 / mse).log10()


def ssim(x: Tensor, truth: Tensor) -> Tensor:
    r"""Returns the structural similarity of each image, `(B,)`; one where they are equal.

    Means of a Gaussian window of 11 pixels a side (the largest odd number that fits, of smaller
    images) that lies within the image, over windows and channels.

    Arguments:
        x: Images in [-1, 1], with shape :math:`(B, C, H, W)`.
        truth: The true ones.
    """
    side = min(WINDOW, *(s - 1 + s % 2 for s in x.shape[2:]))
    at = torch.arange(side, dtype=torch.float64) - side // 2
    line = (-at.square() / (2 * STD**2)).exp()
    window = line[:, None] * line[None]
    window = (window / window.sum())[None, None].to(x.device)

    def mean(image: Tensor) -> Tensor:
        flat = image.flatten(0, 1)[:, None]
        return functional.conv2d(flat, window).reshape(*image.shape[:2], -1)

    a, b = x.double(), truth.double()
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    both = mean(a * b) - mean_a * mean_b
    one, two = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    similar = (2 * mean_a * mean_b + one) * (2 * both + two)
    similar = similar / ((mean_a**2 + mean_b**2 + one) * (var_a + var_b + two))
    return similar.flatten(1).mean(1)


def mean_of(name: str, values: Tensor, higher_is_better: bool | None, note: str = "") -> Metric:
    r"""Returns the mean of a value an image, with its standard error over images; of one image
    there is none."""
    values = values.double()
    n = len(values)
    error = (values.var() / n).sqrt().item() if n > 1 else None
    if n == 1:
        note = f"{note}; one image has no error" if note else "one image has no error"
    return Metric(name, values.mean().item(), error, n, higher_is_better, note)
