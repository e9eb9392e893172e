r"""What restored images are worth beside those that they were."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..functional.perception import dists, high_frequency_energy, sobel
from ..nn.perceptual import PerceptualNet
from .frechet import frechet
from .metric import Metric, fingerprint
from .sets import FeatureSpace

__all__ = ["luminance", "restored_metrics"]


# The weights of red, green and blue in brightness, of ITU-R BT.601.
LUMINANCE = (0.299, 0.587, 0.114)


def luminance(x: Tensor) -> Tensor:
    r"""Returns the brightness of images, `(B, 1 or 3, H, W)`, as `(B, 1, H, W)`."""
    if x.shape[1] == 1:
        return x
    return (x * x.new_tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)


def restored_metrics(
    restored: Tensor, truth: Tensor, net: PerceptualNet, space: FeatureSpace
) -> list[Metric]:
    r"""Returns the metrics of restored images, row by row and as a set.

    ==================  =====================================================================
    psnr                the mean over images of :math:`10 \log_{10} (4 / \mathrm{MSE})`, of
                        brightness in [-1, 1]
    high_frequencies    the energy above 0.15 cycles a pixel over that of the true images
    edges               the mean strength of edges over that of the true images
    dists               the mean dissimilarity of structure and texture, see `dists`
    frechet             the Fréchet distance of features of the two sets
    ==================  =====================================================================

    Arguments:
        restored: Images in [-1, 1], with shape :math:`(N, C, H, W)`.
        truth: What they were.
        net: The network of `dists`, whose name is stated.
        space: The features of the distance.
    """
    if restored.shape != truth.shape:
        raise ValueError(
            f"restored images have shape {tuple(restored.shape)}, the true ones "
            f"{tuple(truth.shape)}; they must be equal"
        )
    a, b = luminance(restored.double()), luminance(truth.double())
    n, about = len(a), fingerprint(truth)
    error = (a - b).flatten(1).square().mean(1).clamp_min(1e-10)
    peak = 10 * (4 / error).log10()
    ratios = [
        shares(torch.stack([measure(row[None]) for row in x]), torch.stack(by))
        for measure, x, by in (
            (high_frequency_energy, a, [high_frequency_energy(row[None]) for row in b]),
            (lambda row: sobel(row).mean(), a, [sobel(row[None]).mean() for row in b]),
        )
    ]
    pairs = zip(restored.float().split(250), truth.float().split(250), strict=True)
    with torch.no_grad():
        unlike = [dists((x + 1) / 2, (y + 1) / 2, net, net.weights) for x, y in pairs]
    found = torch.cat(unlike).double()
    (high, high_error), (edges, edges_error) = ratios
    return [
        Metric("psnr", float(peak.mean()), standard(peak), n, True, "brightness", about),
        Metric("high_frequencies", high, high_error, n, None, "over the true images'", about),
        Metric("edges", edges, edges_error, n, None, "over the true images'", about),
        Metric("dists", float(found.mean()), standard(found), n, False, "", about, net.name),
        frechet(space(truth), space(restored), features=space.name),
    ]


def standard(values: Tensor) -> float:
    r"""Returns the standard error of a mean of independent values."""
    return float(values.std()) / math.sqrt(len(values))


def shares(a: Tensor, b: Tensor) -> tuple[float, float]:
    r"""Returns the mean of some values over that of others, and its standard error to first order;
    the values come in pairs."""
    ratio = float(a.mean() / b.mean())
    return ratio, standard(a - ratio * b) / float(b.mean())
