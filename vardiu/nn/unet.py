r"""A small U-Net of two resolutions, for images of a few pixels a side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .attention import attention
from .numbers import Numbered
from .recompute import Recomputed
from .taps import Tap, Tapped, required_level

__all__ = ["UNet"]


def fourier(c_noise: Tensor, width: int) -> Tensor:
    r"""Returns cosines and sines of a level's feature, `(B,)`, as `(B, width)`."""
    ends = math.log(0.5), math.log(32.0)
    frequencies = torch.linspace(*ends, width // 2, device=c_noise.device).exp()
    angles = c_noise.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1).to(c_noise.dtype)


class ResidualBlock(nn.Module):
    r"""Two normalised convolutions; the second normalisation is scaled and shifted by the
    condition.

    The last convolution starts at zero, so that the block starts as its skip connection.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int = 8) -> None:
        super().__init__()
        self.norm_1 = nn.GroupNorm(groups, inputs)
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.affine = nn.Linear(embedding, 2 * outputs)
        self.norm_2 = nn.GroupNorm(groups, outputs)
        self.conv_2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        for parameter in self.conv_2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv_1(nn.functional.silu(self.norm_1(x)))
        scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv_2(nn.functional.silu(self.norm_2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class Attention(nn.Module):
    r"""Self-attention over the pixels, as a residual that starts at zero."""

    def __init__(self, channels: int, heads: int = 4, groups: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w)
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        y = attention(q, k, v)
        return x + self.out(y.transpose(-1, -2).reshape(b, c, h, w))


class UNet(Numbered, Recomputed, Tapped):
    r"""A U-Net with `widths[0]` channels at full size and `widths[1]` at half size.

    Its taps are the outputs of its residual blocks: `down.0` at full size, `middle.0`,
    `middle.1`, ... at half size, and `up.0` at full size again where the image is returned. Its
    bottleneck is the block in the middle of those at half size, after its attention.

    Arguments:
        channels: The number of channels of an image; its sides must be even.
        widths: The channels at full and at half resolution, multiples of eight.
        depth: The number of residual blocks at half resolution.
        classes: The number of classes. The label `classes` stands for none of them. With 0, no
            label is taken.
        embedding: The width of the embedding of level and class.
        final: Whether the image is returned. Without it, the half-resolution features are, pooled
            and flattened, with shape `(B, features)`: the trunk of a posterior or a critic.
        ends: Whether it is told where the map that it stands for ends, see `vardiu.nn.numbers`.
        guided: Whether it is told a scale of guidance.
    """

    def __init__(
        self,
        channels: int = 1,
        *,
        widths: Sequence[int] = (32, 96),
        depth: int = 4,
        classes: int = 0,
        embedding: int = 128,
        final: bool = True,
        ends: bool = False,
        guided: bool = False,
    ) -> None:
        super().__init__()
        full, half = widths
        self.arguments = {
            "channels": channels,
            "widths": list(widths),
            "depth": depth,
            "classes": classes,
            "embedding": embedding,
            "final": final,
            "ends": ends,
            "guided": guided,
        }
        self.width, self.classes = embedding, classes
        self.level = nn.Sequential(
            nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.label = nn.Embedding(classes + 1, embedding) if classes else None
        self.make_room(embedding, end=ends, guidance=guided)
        self.stem = nn.Conv2d(channels, full, 3, padding=1)
        self.enter = ResidualBlock(full, full, embedding)
        self.down = nn.Conv2d(full, half, 2, stride=2)
        self.trunk = nn.ModuleList(ResidualBlock(half, half, embedding) for _ in range(depth))
        self.attention = Attention(half)
        self.final = final
        self.taps = ("down.0", *(f"middle.{i}" for i in range(depth)), *(["up.0"] * final))
        self.bottleneck = f"middle.{max(depth // 2 - 1, 0)}" if depth else "down.0"
        if final:
            self.up = nn.ConvTranspose2d(half, full, 2, stride=2)
            self.exit = ResidualBlock(2 * full, full, embedding)
            self.norm = nn.GroupNorm(8, full)
            self.head = nn.Conv2d(full, channels, 3, padding=1)
            for parameter in self.head.parameters():
                nn.init.zeros_(parameter)

    def run_layers(
        self,
        tap: Tap,
        x: Tensor,
        c_noise: Tensor | None = None,
        label: Tensor | None = None,
        end: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        if (label is not None) != (self.label is not None):
            raise ValueError("a label must be given where there are `classes`, and nowhere else")
        embedding = self.level(fourier(required_level(c_noise, self), self.width))
        if label is not None and self.label is not None:
            embedding = embedding + self.label(label)
        embedding = self.embedded_numbers(embedding, end=end, guidance=guidance)
        embedding = nn.functional.silu(embedding)
        skip = self.run(self.enter, self.stem(x), embedding)
        tap("down.0", skip)
        h = self.down(skip)
        for i, block in enumerate(self.trunk):
            h = self.run(block, h, embedding)
            if i == len(self.trunk) // 2 - 1:
                h = self.run(self.attention, h)
            tap(f"middle.{i}", h)
        if not self.final:
            return h.flatten(1)
        h = self.run(self.exit, torch.cat([self.up(h), skip], dim=1), embedding)
        tap("up.0", h)
        return self.head(nn.functional.silu(self.norm(h)))
