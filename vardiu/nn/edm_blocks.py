r"""The blocks of DDPM++, NCSN++ and ADM, and the embeddings of their noise level.

A block, with :math:`e` the embedding of level and class and :math:`s` a constant, is

.. math:: h &= \mathrm{conv}_1 \, \phi \big( \mathrm{norm}_1(\mathrm{conv}_0 \, \phi \,
        \mathrm{norm}_0(x)) \ \text{shifted, or scaled and shifted, by}\ A e \big) \\
    y &= s \, (\mathrm{skip}(x) + h), \qquad
    y \leftarrow s \, (y + \mathrm{proj} \, \mathrm{attend}(\mathrm{qkv} \, \mathrm{norm}_2(y)))

where :math:`\phi` is SiLU and the first convolution and the skip resample.

References:
    | Score-Based Generative Modeling through Stochastic Differential Equations
    | (Song et al., 2021), https://arxiv.org/abs/2011.13456, Appendix H
    | Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021)
    | https://arxiv.org/abs/2105.05233
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | https://arxiv.org/abs/2206.00364, Appendix F
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..functional.tensors import expand_like
from .layout import Mode, Place, attend, resample, taps_2d

__all__ = [
    "ADM",
    "SONG",
    "Block",
    "Conv",
    "Fourier",
    "Positional",
    "Style",
    "Unused",
    "blocks_of",
    "norm",
]


class Style(NamedTuple):
    r"""What differs between the blocks of the two families.

    Attributes:
        per_head: The number of channels of an attention head; none for one head of all.
        scaled: Whether the embedding scales the features besides shifting them.
        eps: The constant of the group normalisation.
        weight: The factor :math:`s` on a sum of two branches.
        project: Whether a resampling block has a convolution on its skip connection.
    """

    per_head: int | None
    scaled: bool
    eps: float
    weight: float
    project: bool


SONG = Style(None, scaled=False, eps=1e-6, weight=math.sqrt(0.5), project=True)


ADM = Style(64, scaled=True, eps=1e-5, weight=1.0, project=False)


def norm(channels: int, eps: float) -> nn.GroupNorm:
    r"""Returns a normalisation over at most 32 groups, of at least four channels each."""
    return nn.GroupNorm(min(32, max(1, channels // 4)), channels, eps)


class Conv(nn.Module):
    r"""A convolution that resamples as well; one of size zero only resamples.

    Doubling and halving come first, the convolution after; `fused` halves after it instead, as
    NCSN++ does in its residual branch.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    resample_filter: Tensor | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        mode: Mode = "keep",
        taps: Sequence[float] = (1, 1),
        *,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.mode, self.kernel, self.fused = mode, kernel, fused
        if kernel:
            self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))
            self.bias = nn.Parameter(torch.zeros(outputs))
            nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.register_buffer("resample_filter", None if mode == "keep" else taps_2d(taps))

    def forward(self, x: Tensor) -> Tensor:
        taps = self.resample_filter
        if self.fused and taps is not None:
            # No border between the two: the convolution's is wide enough for both.
            reach = self.kernel // 2 + (taps.shape[-1] - 1) // 2
            x = F.conv2d(x, self.weight, self.bias, padding=reach)
            return resample(x, taps, self.mode, 0)
        x = x if taps is None else resample(x, taps, self.mode)
        if not self.kernel:
            return x
        return F.conv2d(x, self.weight, self.bias, padding=self.kernel // 2)


class Block(nn.Module):
    r"""A residual block with a condition, and attention after it where its place has it."""

    def __init__(self, place: Place, embedding: int, style: Style, taps: Sequence[float]) -> None:
        super().__init__()
        _, _, inputs, outputs, mode, attention = place
        self.style = style
        self.norm0 = norm(inputs, style.eps)
        self.conv0 = Conv(inputs, outputs, 3, mode, taps)
        self.affine = nn.Linear(embedding, outputs * (2 if style.scaled else 1))
        self.norm1 = norm(outputs, style.eps)
        self.conv1 = Conv(outputs, outputs, 3)
        projects = inputs != outputs or (mode != "keep" and style.project)
        bare = not projects and mode == "keep"
        self.skip = (
            nn.Identity() if bare else Conv(inputs, outputs, 1 if projects else 0, mode, taps)
        )
        nn.init.zeros_(self.conv1.weight)
        # A block narrower than one head has no attention, in the published files too.
        self.heads = attention * (outputs // style.per_head if style.per_head else 1)
        if self.heads:
            self.norm2 = norm(outputs, style.eps)
            self.qkv = Conv(outputs, 3 * outputs, 1)
            self.proj = Conv(outputs, outputs, 1)
            nn.init.zeros_(self.proj.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        condition = expand_like(self.affine(embedding), h)
        if self.style.scaled:
            scale, shift = condition.chunk(2, dim=1)
            h = self.norm1(h) * (1 + scale) + shift
        else:
            h = self.norm1(h + condition)
        x = self.style.weight * (self.skip(x) + self.conv1(F.silu(h)))
        if self.heads:
            h = self.proj(attend(self.qkv(self.norm2(x)), self.heads))
            x = self.style.weight * (x + h)
        return x


class Positional(nn.Module):
    r"""Cosines and sines of :math:`c \, 10^{-4 i / n}`, `(B,) -> (B, 2n)`; up to :math:`10^{-4}`
    itself with `endpoint`."""

    def __init__(self, channels: int, *, endpoint: bool) -> None:
        super().__init__()
        self.count, self.last = channels // 2, channels // 2 - (1 if endpoint else 0)

    def forward(self, c_noise: Tensor) -> Tensor:
        index = torch.arange(self.count, device=c_noise.device, dtype=c_noise.dtype)
        angles = c_noise[:, None] * 1e-4 ** (index / self.last)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class Fourier(nn.Module):
    r"""Cosines and sines of :math:`2 \pi f c` at fixed random frequencies, `(B,) -> (B, 2n)`."""

    freqs: Tensor

    def __init__(self, channels: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", scale * torch.randn(channels // 2))

    def forward(self, c_noise: Tensor) -> Tensor:
        angles = c_noise[:, None] * (2 * math.pi * self.freqs)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class Unused(nn.Module):
    r"""The weight of the augmentation's labels: kept for the file, multiplied by zero always."""

    weight: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(outputs, inputs))


def blocks_of(
    places: Iterable[Place], embedding: int, style: Style, taps: Sequence[float] = (1, 1)
) -> nn.ModuleDict:
    r"""Returns the blocks of all places, by name."""
    return nn.ModuleDict({place.name: Block(place, embedding, style, taps) for place in places})
