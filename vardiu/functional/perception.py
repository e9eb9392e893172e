r"""Edges, and the similarity of structure and texture in features, with their gradients.

Maps have shape `(B, C, H, W)`. Every function is one of tensors: a network that makes features is
given by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .tensors import placed

__all__ = ["Features", "dists", "edge_aware_dists", "high_frequency_energy", "sobel"]


# From images `(B, C, H, W)` to maps of features, finest first.
Features = Callable[[Tensor], Sequence[Tensor]]


# Of DISTS: what keeps the ratios finite where a feature is constant or zero.
SMALL = 1e-6


# Inside of the root of an edge: its gradient is finite on flat areas.
FLAT = 1e-6


# The kernel of the gradient across an image.
ACROSS = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=torch.float64)


def sobel(x: Tensor) -> Tensor:
    r"""Returns the strength of edges, :math:`\sqrt{G_x(x)^2 + G_y(x)^2 + 10^{-6}}`, as `(B, C, H,
    W)`.

    .. math:: G_x = \begin{pmatrix} -1 & 0 & 1 \\ -2 & 0 & 2 \\ -1 & 0 & 1 \end{pmatrix}, \qquad
        G_y = G_x^\top

    in each channel. A ramp of slopes :math:`p, q` has :math:`8 \sqrt{p^2 + q^2}`, a unit step 4 in
    the two columns beside it, and white noise of deviation :math:`s` the mean
    :math:`s \sqrt{6 \pi}` = 4.342 s. Borders are replicated: zeros would draw edges there.

    References:
        | Unleashing the Power of One-Step Diffusion based Image Super-Resolution via a Large-Scale
        | Diffusion Discriminator (Li et al., 2025), https://arxiv.org/abs/2410.04224
    """
    kernel = placed(ACROSS, x)
    channels = x.shape[1]
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across, down = (
        F.conv2d(padded, k.expand(channels, 1, 3, 3), groups=channels) for k in (kernel, kernel.T)
    )
    return (across.square() + down.square() + FLAT).sqrt()


def dists(a: Tensor, b: Tensor, features: Features, weights: Sequence[Tensor] = ()) -> Tensor:
    r"""Returns the dissimilarity of structure and texture of each row, with shape `(B)`.

    .. math:: 1 - \sum_k \left( \alpha_k \frac{2 \mu_a \mu_b + c}{\mu_a^2 + \mu_b^2 + c} + \beta_k
        \frac{2 \sigma_{ab} + c}{\sigma_a^2 + \sigma_b^2 + c} \right), \qquad c = 10^{-6}

    over the channels :math:`k` of all maps, with means and covariances over places. It is zero for
    equal images; of :math:`b = k a` with one map, the image itself, and equal weights it is
    :math:`1 - 2 k / (1 + k^2)`.

    References:
        | Image Quality Assessment: Unifying Structure and Texture Similarity (Ding et al., 2020)
        | https://arxiv.org/abs/2004.07728

    Arguments:
        a: Images in [0, 1], with shape :math:`(B, C, H, W)`.
        b: Others.
        features: The maps of an image.
        weights: :math:`\alpha` and :math:`\beta`, each with one number a channel of all maps,
            which together are brought to the sum one; equal ones by default.
    """
    lightness, structure = [], []
    for x, y in zip(features(a), features(b), strict=True):
        x, y = x.flatten(2), y.flatten(2)
        mean_x, mean_y = x.mean(2), y.mean(2)
        x, y = x - mean_x[..., None], y - mean_y[..., None]
        spread = x.square().mean(2) + y.square().mean(2)
        lightness.append(
            (2 * mean_x * mean_y + SMALL) / (mean_x.square() + mean_y.square() + SMALL)
        )
        structure.append((2 * (x * y).mean(2) + SMALL) / (spread + SMALL))
    terms = torch.cat([*lightness, *structure], dim=1)
    if not weights:
        return 1 - terms.mean(1)
    joined = torch.cat([weight.flatten() for weight in weights]).to(terms)
    if len(joined) != terms.shape[1]:
        raise ValueError(
            f"weights must have {terms.shape[1]} numbers, two a channel, got {len(joined)}"
        )
    return 1 - terms @ (joined / joined.sum())


def edge_aware_dists(
    a: Tensor, b: Tensor, features: Features, weights: Sequence[Tensor] = ()
) -> Tensor:
    r"""Returns :math:`\mathrm{DISTS}(a, b) + \mathrm{DISTS}(S(a), S(b))` of each row, `(B)`, with
    the edges :math:`S` of `sobel`; see `dists`.

    Of images that differ by an offset the second term is zero.
    """
    return dists(a, b, features, weights) + dists(sobel(a), sobel(b), features, weights)


def high_frequency_energy(x: Tensor, above: float = 0.15) -> Tensor:
    r"""Returns the energy above a spatial frequency, a mean over rows, channels and places.

    Arguments:
        x: Images, with shape :math:`(B, C, H, W)`.
        above: The frequency, in cycles a pixel.
    """
    height, width = x.shape[2:]
    down, across = torch.fft.fftfreq(height), torch.fft.fftfreq(width)
    keep = (down[:, None].square() + across.square()).sqrt() > above
    spectrum = torch.fft.fft2(x).abs().square() / (height * width) ** 2
    return spectrum[..., keep.to(x.device)].sum(-1).mean()
