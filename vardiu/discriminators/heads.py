r"""Heads: small networks from a feature to a logit.

A head is chosen by the rank of its feature: a vector, tokens or a map. Each computes in the type
of its weights with autocast off, so that a logit is never of fewer bits than they are, whatever
the precision around it. No head mixes rows.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["ConvHead", "Head", "MLPHead", "PositionHead", "TokenHead", "head_for", "position_head"]


class Head(nn.Module, abc.ABC):
    r"""A network from a feature, `(B, *)`, to a logit, `(B,)`, or to one a place."""

    @abc.abstractmethod
    def logit(self, feature: Tensor) -> Tensor:
        r"""Returns the logit of a feature that has the type of the weights."""

    @abc.abstractmethod
    def fits(self, shape: Sequence[int]) -> bool:
        r"""Whether it takes features of this shape, without the batch."""

    def forward(self, feature: Tensor) -> Tensor:
        if not self.fits(feature.shape[1:]):
            raise ValueError(
                f"{self} does not take a feature of shape {tuple(feature.shape)}; make a head by "
                "head_for(feature)"
            )
        with torch.autocast(feature.device.type, enabled=False):
            return self.logit(feature.to(next(self.parameters()).dtype))


class MLPHead(Head):
    r"""A multi-layer perceptron on vectors, `(B, F) -> (B,)`.

    Arguments:
        features: The length :math:`F` of a vector.
        width: The width of each hidden layer.
        depth: The number of hidden layers; with zero the head is linear.
    """

    def __init__(self, features: int, *, width: int = 256, depth: int = 2) -> None:
        super().__init__()
        if min(features, width) < 1 or depth < 0:
            raise ValueError(
                "features and width must be at least 1 and depth at least 0, got "
                f"{features}, {width}, {depth}"
            )
        self.arguments = {"features": features, "width": width, "depth": depth}
        widths = [features] + [width] * depth
        self.hidden = nn.ModuleList(nn.Linear(a, width) for a in widths[:-1])
        self.last = nn.Linear(widths[-1], 1)

    def fits(self, shape: Sequence[int]) -> bool:
        return tuple(shape) == (self.arguments["features"],)

    def logit(self, feature: Tensor) -> Tensor:
        for layer in self.hidden:
            feature = nn.functional.silu(layer(feature))
        return self.last(feature)[:, 0]

    def extra_repr(self) -> str:
        return f"features={self.arguments['features']}"


class ConvHead(Head):
    r"""Strided convolutions down to one pixel, `(B, C, H, W) -> (B,)`.

    Convolutions of kernel 4 and stride 2, each followed by a group normalisation and SiLU, halve
    the map until no side is above four; one whose kernel is what is left makes it one pixel, and a
    convolution of one pixel the logit. For 8 x 8 maps of 768 channels it is the head of DMD2.

    References:
        | Improved Distribution Matching Distillation for Fast Image Synthesis (Yin et al., 2024)
        | https://arxiv.org/abs/2405.14867, Section 4.2 and the released code

    Arguments:
        channels: The number :math:`C` of channels of a map.
        size: The sides :math:`H, W`, in pixels.
        width: The number of channels of each convolution, at least eight; by default that of a
            map, or 32 where it has fewer.
    """

    def __init__(self, channels: int, size: Sequence[int], *, width: int | None = None) -> None:
        super().__init__()
        width = max(channels, 32) if width is None else width
        if channels < 1 or len(size) != 2 or min(size) < 1 or width < 8:
            raise ValueError(
                "channels and the two sides of size must be at least 1 and width at least 8, got "
                f"{channels}, {tuple(size)}, {width}"
            )
        self.arguments = {"channels": channels, "size": list(size), "width": width}
        self.channels, self.size = channels, list(size)
        layers: list[nn.Module] = []
        (h, w), inputs = size, channels
        while max(h, w) > 4:
            # A side of one pixel stays as it is.
            a, b = 2 if h > 1 else 1, 2 if w > 1 else 1
            kernel = 4 if a == 2 else 1, 4 if b == 2 else 1
            layers += block(nn.Conv2d(inputs, width, kernel, (a, b), (a - 1, b - 1)))
            (h, w), inputs = (h // a, w // b), width
        layers += block(nn.Conv2d(inputs, width, (h, w)))
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 1))

    def fits(self, shape: Sequence[int]) -> bool:
        return list(shape) == [self.channels, *self.size]

    def logit(self, feature: Tensor) -> Tensor:
        return self.layers(feature)[:, 0, 0, 0]

    def extra_repr(self) -> str:
        return f"channels={self.channels}, size={self.size}"


class PositionHead(Head):
    r"""A perceptron on each place of a map by itself, `(B, C, H, W) -> (B, H, W)`.

    A vector `(B, F)` is a map of one place, `(B, F) -> (B, 1, 1)`.

    References:
        | Unleashing the Power of One-Step Diffusion based Image Super-Resolution via a Large-Scale
        | Diffusion Discriminator (Li et al., 2025), https://arxiv.org/abs/2410.04224, Section 3.2

    Arguments:
        channels: The number :math:`C` of channels.
        width: The width of the hidden layers.
        depth: Their number.
    """

    def __init__(self, channels: int, *, width: int = 128, depth: int = 1) -> None:
        super().__init__()
        if min(channels, width) < 1 or depth < 0:
            raise ValueError(
                "channels and width must be at least 1 and depth at least 0, got "
                f"{channels}, {width}, {depth}"
            )
        self.arguments = {"channels": channels, "width": width, "depth": depth}
        widths = [channels] + [width] * depth
        self.hidden = nn.ModuleList(nn.Conv2d(a, width, 1) for a in widths[:-1])
        self.last = nn.Conv2d(widths[-1], 1, 1)

    def fits(self, shape: Sequence[int]) -> bool:
        return len(shape) in (1, 3) and shape[0] == self.arguments["channels"]

    def logit(self, feature: Tensor) -> Tensor:
        if feature.ndim == 2:
            feature = feature[:, :, None, None]
        for layer in self.hidden:
            feature = nn.functional.silu(layer(feature))
        return self.last(feature)[:, 0]

    def extra_repr(self) -> str:
        return f"channels={self.arguments['channels']}"


class TokenHead(Head):
    r"""A perceptron on each token, the mean of all, and a linear layer, `(B, T, C) -> (B,)`.

    There is no attention, and any number of tokens is taken.

    Arguments:
        channels: The number :math:`C` of channels of a token.
        width: The width of the hidden layers.
    """

    def __init__(self, channels: int, *, width: int = 256) -> None:
        super().__init__()
        if min(channels, width) < 1:
            raise ValueError(f"channels and width must be at least 1, got {channels}, {width}")
        self.arguments = {"channels": channels, "width": width}
        self.norm = nn.LayerNorm(channels)
        self.each, self.pooled = nn.Linear(channels, width), nn.Linear(width, width)
        self.last = nn.Linear(width, 1)

    def fits(self, shape: Sequence[int]) -> bool:
        return len(shape) == 2 and shape[0] > 0 and shape[1] == self.arguments["channels"]

    def logit(self, feature: Tensor) -> Tensor:
        h = nn.functional.silu(self.each(self.norm(feature))).mean(dim=1)
        return self.last(nn.functional.silu(self.pooled(h)))[:, 0]

    def extra_repr(self) -> str:
        return f"channels={self.arguments['channels']}"


def block(convolution: nn.Conv2d) -> list[nn.Module]:
    r"""Returns a convolution with its normalisation and activation.

    Of one pixel a group of one channel would be normalised to zero: there are at least four
    channels a group, and at most 32 groups.
    """
    channels = convolution.out_channels
    largest = max(1, min(32, channels // 4))
    groups = next(g for g in range(largest, 0, -1) if channels % g == 0)
    return [convolution, nn.GroupNorm(groups, channels), nn.SiLU()]


# By the number of dimensions of one row's feature.
HEADS: Mapping[int, Callable[[Sequence[int]], Head]] = {
    1: lambda shape: MLPHead(shape[0]),
    2: lambda shape: TokenHead(shape[1]),
    3: lambda shape: ConvHead(shape[0], shape[1:]),
}


def head_for(feature: Tensor) -> Head:
    r"""Returns a fresh head for features like an example, on its device.

    A vector `(B, F)` has a `MLPHead`, tokens `(B, T, C)` have a `TokenHead`, and a map
    `(B, C, H, W)` has a `ConvHead`. The weights are of the default type.

    Raises:
        ValueError: The feature is of another rank.
    """
    shape = tuple(feature.shape[1:])
    if len(shape) not in HEADS or not math.prod(shape):
        raise ValueError(
            "a feature must have shape (B, F), (B, T, C) or (B, C, H, W), got "
            f"{tuple(feature.shape)}"
        )
    return HEADS[len(shape)](shape).to(feature.device)


def position_head(feature: Tensor) -> Head:
    r"""Returns a fresh head with a logit a place for features like an example, on its device.

    Raises:
        ValueError: The feature is neither a vector nor a map.
    """
    if feature.ndim not in (2, 4):
        raise ValueError(
            "a head with a logit a place takes features of shape (B, F) or (B, C, H, W), got "
            f"{tuple(feature.shape)}"
        )
    return PositionHead(feature.shape[1]).to(feature.device)
