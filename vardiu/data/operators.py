r"""What is measured of an image: operators, by the names of `deepinv.physics`.

An operator has `A(x)`, and `A_adjoint(y)` where it is linear; whatever has these is one, those of
deepinv included. Images are in [-1, 1], with shape :math:`(B, C, H, W)`.

==================  ==============================================================  ======
operator            :math:`A(x)`                                                    linear
==================  ==============================================================  ======
`Inpainting`        :math:`m \odot x`                                               yes
`Blur`              :math:`k * x`                                                   yes
`Downsampling`      means of blocks, or a bicubic reduction                         yes
`HDR`               :math:`\mathrm{clip}(f x, -1, 1)`                               no
`NonlinearBlur`     :math:`c(k * c^{-1}(x))`, a blur of light seen by a camera      no
`PhaseRetrieval`    :math:`|\mathcal{F} \, \mathrm{pad}((x + 1) / 2)|`              no
==================  ==============================================================  ======

References:
    | DeepInverse: A Python package for solving imaging inverse problems with deep learning
    | (Tachella et al., 2025), https://arxiv.org/abs/2505.20160
    | Diffusion Posterior Sampling for General Noisy Inverse Problems (Chung et al., 2023)
    | https://arxiv.org/abs/2209.14687
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "Blur",
    "Downsampling",
    "FunctionOperator",
    "HDR",
    "Inpainting",
    "LinearOperator",
    "NonlinearBlur",
    "PhaseRetrieval",
    "box_mask",
    "dense_matrix",
    "gaussian_kernel",
    "line_kernel",
    "random_mask",
]


PADDINGS = ("circular", "reflect", "replicate", "constant")


class LinearOperator(abc.ABC):
    r"""The interface of an operator with an adjoint, which is derived from `A`.

    Arguments:
        shape: The shape of an image, `(C, H, W)`.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)

    @abc.abstractmethod
    def A(self, x: Tensor) -> Tensor:
        r"""Returns the measurement without noise, of images `(B, C, H, W)`."""

    def A_adjoint(self, y: Tensor) -> Tensor:
        r"""Returns :math:`A^\top y`, which carries gradients to `y`."""
        with torch.enable_grad():
            x = y.new_zeros(len(y), *self.shape).requires_grad_()
            (found,) = torch.autograd.grad(self.A(x), x, y, create_graph=y.requires_grad)
        return found


class Inpainting(LinearOperator):
    r"""What a mask lets through; its own adjoint.

    Arguments:
        mask: One where a pixel is seen and zero where not, `(H, W)`, `(1, H, W)` or `(C, H, W)`.
        shape: The shape of an image.

    Raises:
        ValueError: The mask is of another size, has other values, or hides or shows everything.
    """

    def __init__(self, mask: Tensor, shape: Sequence[int]) -> None:
        super().__init__(shape)
        mask = mask[None] if mask.ndim == 2 else mask
        if mask.ndim != 3 or mask.shape[1:] != self.shape[1:] or len(mask) not in (1, shape[0]):
            raise ValueError(f"the mask has shape {tuple(mask.shape)}, the image {self.shape}")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError("a mask has ones where a pixel is seen and zeros where not")
        if bool((mask == mask.flatten()[0]).all()):
            raise ValueError("the mask hides every pixel, or none: there is nothing to restore")
        self.mask = mask.float().expand(self.shape)

    def A(self, x: Tensor) -> Tensor:
        return self.mask.to(x) * x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.mask.to(y) * y


class Blur(LinearOperator):
    r"""A correlation with one kernel, of every channel; the size stays.

    Arguments:
        kernel: With shape :math:`(h, w)`, of odd sides.
        shape: The shape of an image.
        padding: What is beyond the edges: `circular`, `reflect`, `replicate` or `constant` (0).

    Raises:
        ValueError: The kernel is no such, or is too large for the image.
    """

    def __init__(self, kernel: Tensor, shape: Sequence[int], padding: str = "circular") -> None:
        super().__init__(shape)
        if kernel.ndim != 2 or not all(side % 2 for side in kernel.shape):
            raise ValueError(f"a kernel is (h, w) of odd sides, got {tuple(kernel.shape)}")
        if not bool(kernel.isfinite().all()) or abs(float(kernel.sum()) - 1) > 1e-3:
            raise ValueError(f"a kernel's numbers sum to one, got {float(kernel.sum()):g}")
        if padding not in PADDINGS:
            raise ValueError(f"padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
        self.reach = tuple(side // 2 for side in kernel.shape)
        if any(reach >= side for reach, side in zip(self.reach, shape[1:], strict=True)):
            raise ValueError(
                f"the image, {shape[1]}x{shape[2]}, is too small for a kernel of "
                f"{kernel.shape[0]}x{kernel.shape[1]}: give a smaller one"
            )
        self.kernel, self.padding = kernel.float(), padding

    def A(self, x: Tensor) -> Tensor:
        h, w = self.reach
        padded = functional.pad(x, (w, w, h, h), mode=self.padding)
        weight = self.kernel.to(x).expand(x.shape[1], 1, -1, -1)
        return functional.conv2d(padded, weight, groups=x.shape[1])


class Downsampling(LinearOperator):
    r"""A reduction by a whole factor.

    Arguments:
        factor: The factor.
        shape: The shape of an image, whose sides it divides.
        filter: `box`, means of blocks, or `bicubic`, that of a picture editor.

    Raises:
        ValueError: It does not divide the sides, or the filter is unknown.
    """

    def __init__(self, factor: int, shape: Sequence[int], filter: str = "box") -> None:
        super().__init__(shape)
        if factor < 2 or any(side % factor for side in shape[1:]):
            raise ValueError(
                f"factor must be at least 2 and divide the image's sides {shape[1]} and "
                f"{shape[2]}, got {factor}"
            )
        if filter not in ("box", "bicubic"):
            raise ValueError(f"filter must be box or bicubic, got {filter!r}")
        self.factor, self.filter = factor, filter

    def A(self, x: Tensor) -> Tensor:
        if self.filter == "box":
            return functional.avg_pool2d(x, self.factor)
        size = [side // self.factor for side in x.shape[2:]]
        return functional.interpolate(x, size=size, mode="bicubic", antialias=True)


class HDR:
    r"""A picture that is exposed too long: what is beyond the range is clipped.

    Arguments:
        exposure: The factor :math:`f`.

    Raises:
        ValueError: The factor is at most one: nothing would be clipped.
    """

    def __init__(self, exposure: float = 2.0) -> None:
        if not exposure > 1:
            raise ValueError(f"exposure must be above 1, got {exposure:g}")
        self.exposure = exposure

    def A(self, x: Tensor) -> Tensor:
        return (self.exposure * x).clamp(-1, 1)


class NonlinearBlur:
    r"""A blur of light, of which a camera makes numbers by a power.

    .. math:: A(x) = 2 \Big( k * \Big( \frac{x + 1}{2} \Big)^\gamma \Big)^{1 / \gamma} - 1

    Arguments:
        blur: The blur :math:`k`.
        gamma: The power :math:`\gamma`.

    Raises:
        ValueError: The power is not above zero.
    """

    # The derivative of a root has no end at zero.
    LEAST = 1e-3

    def __init__(self, blur: Blur, gamma: float = 2.2) -> None:
        if not gamma > 0:
            raise ValueError(f"gamma must be positive, got {gamma:g}")
        self.blur, self.gamma = blur, gamma

    def A(self, x: Tensor) -> Tensor:
        light = ((x + 1) / 2).clamp_min(self.LEAST) ** self.gamma
        return 2 * self.blur.A(light).clamp_min(self.LEAST**self.gamma) ** (1 / self.gamma) - 1


class PhaseRetrieval:
    r"""The absolute values of the Fourier transform of the image between dark edges.

    The image and its mirror about the centre have the same measurement.

    Arguments:
        oversample: How much more is measured than there are pixels on a side: the sides are padded
            by an eighth of it at either end.

    Raises:
        ValueError: It is negative.
    """

    def __init__(self, oversample: float = 2.0) -> None:
        if not 0 <= oversample <= 64:
            raise ValueError(f"oversample must be within 0 and 64, got {oversample:g}")
        self.oversample = oversample

    def A(self, x: Tensor) -> Tensor:
        h, w = (int(self.oversample / 8 * side) for side in x.shape[2:])
        padded = functional.pad((x + 1) / 2, (w, w, h, h))
        return torch.fft.fft2(padded, norm="ortho").abs()


class FunctionOperator:
    r"""A function of the user's own, of images `(B, C, H, W)`; nothing is known of an adjoint.

    Arguments:
        function: The function.
    """

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        self.function = function

    def A(self, x: Tensor) -> Any:  # noqa: ANN401 (what the user's code makes)
        return self.function(x)


def box_mask(side: int, shape: Sequence[int]) -> Tensor:
    r"""Returns a mask that hides a square in the middle, `(1, H, W)`.

    Raises:
        ValueError: The square is not smaller than the image.
    """
    h, w = shape[1:]
    if not 0 < side < min(h, w):
        raise ValueError(f"a box must be within 1 and {min(h, w) - 1} pixels, got {side}")
    top, left = (h - side) // 2, (w - side) // 2
    mask = torch.ones(1, h, w)
    mask[:, top : top + side, left : left + side] = 0
    return mask


def random_mask(share: float, shape: Sequence[int], seed: int = 0) -> Tensor:
    r"""Returns a mask that hides a share of the pixels, at random, `(1, H, W)`.

    Raises:
        ValueError: The share is not between zero and one, or hides all or none of this image.
    """
    h, w = shape[1:]
    hidden = round(share * h * w) if math.isfinite(share) else 0
    if not 0 < hidden < h * w:
        raise ValueError(f"the hidden share must be between 0 and 1, got {share:g}")
    order = torch.randperm(h * w, generator=torch.Generator().manual_seed(seed))
    return (order >= hidden).float().reshape(1, h, w)


def gaussian_kernel(std: float, most: int) -> Tensor:
    r"""Returns a normalised Gaussian of three standard deviations to either side, `(k, k)`, and
    of at most `most` pixels a side.

    Raises:
        ValueError: The standard deviation is not above zero.
    """
    if not 0 < std < math.inf:
        raise ValueError(f"a blur's standard deviation must be positive, got {std:g}")
    reach = min(math.ceil(3 * std), (most - 1) // 2)
    at = torch.arange(-reach, reach + 1, dtype=torch.float64)
    line = (-at.square() / (2 * std**2)).exp()
    kernel = line[:, None] * line[None]
    return (kernel / kernel.sum()).float()


def line_kernel(length: int, angle: float = 0.0) -> Tensor:
    r"""Returns the kernel of a camera that moved evenly along a line, `(k, k)`.

    Arguments:
        length: How far, in pixels.
        angle: The direction, in degrees, against the clock from the right.

    Raises:
        ValueError: The length is below two.
    """
    if length < 2:
        raise ValueError(f"a motion's length must be at least 2 pixels, got {length}")
    side = length + 1 - length % 2
    at = torch.arange(side, dtype=torch.float64) - side // 2
    rows, columns = torch.meshgrid(at, at, indexing="ij")
    turn = math.radians(angle)
    along = columns * math.cos(turn) - rows * math.sin(turn)
    across = columns * math.sin(turn) + rows * math.cos(turn)
    kernel = (1 - across.abs()).clamp_min(0) * (along.abs() <= length / 2)
    return (kernel / kernel.sum()).float()


def dense_matrix(operator: Any, shape: Sequence[int]) -> Tensor:  # noqa: ANN401 (any with A)
    r"""Returns the matrix of a linear operator on flattened images, `(m, d)`, in float64: small
    ones only."""
    d = math.prod(shape)
    images = torch.eye(d, dtype=torch.float64).reshape(d, *shape)
    columns: Tensor = operator.A(images)
    return columns.reshape(d, -1).mT
