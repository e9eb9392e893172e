r"""The U-Net of EDM2, whose layers preserve magnitudes (its configuration G).

With inputs of unit variance every operation has outputs of unit variance:

.. math:: \mathrm{mp\_silu}(x) &= \frac{\mathrm{silu}(x)}{0.596}, \qquad
    \mathrm{mp\_sum}(a, b, t) = \frac{(1 - t) a + t b}{\sqrt{(1 - t)^2 + t^2}} \\
    \mathrm{mp\_cat}(a, b, t) &= \sqrt{\frac{N_a + N_b}{(1 - t)^2 + t^2}} \left[
        \frac{1 - t}{\sqrt{N_a}} a \oplus \frac{t}{\sqrt{N_b}} b \right]

and a layer's weight of each output is divided by its norm wherever it is used. There are no
biases and no group normalisations; one channel of ones joins the image. The file's head for the
loss's weighting (`logvar`) is not a part of the denoiser, and not here.

The published training also overwrites the weights with their normalised values before each step.
That changes no output, and belongs to an optimiser: it is not done here.

References:
    | Analyzing and Improving the Training Dynamics of Diffusion Models (Karras et al., 2024)
    | https://arxiv.org/abs/2312.02696, Appendix B
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..functional.tensors import expand_like
from .layout import (
    Place,
    attend,
    constructor_arguments,
    decoder,
    encoder,
    one_hot,
    resample,
    tap_names,
    taps_2d,
)
from .taps import Tap, Tapped, required_level

__all__ = ["EDM2UNet", "mp_cat", "mp_silu", "mp_sum", "normalise"]


def normalise(x: Tensor, dims: Sequence[int], eps: float = 1e-4) -> Tensor:
    r"""Divides by the root mean square over some dimensions, plus `eps`."""
    wide = torch.promote_types(x.dtype, torch.float32)  # squares overflow in float16
    count = math.prod(x.shape[dim] for dim in dims)
    size = torch.linalg.vector_norm(x, dim=tuple(dims), keepdim=True, dtype=wide)
    return x / (eps + size / math.sqrt(count)).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    r"""Returns SiLU over its root mean square on standard normal inputs (eq. 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    r"""Returns a weighted sum, of unit variance where `a` and `b` are independent (eq. 88)."""
    return a.lerp(b, t) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    r"""Returns channels side by side, weighted so that `b` has the share `t` (eq. 103)."""
    n_a, n_b = a.shape[1], b.shape[1]
    scale = math.sqrt(n_a + n_b) / math.hypot(1 - t, t)
    weights = scale * (1 - t) / math.sqrt(n_a), scale * t / math.sqrt(n_b)
    return torch.cat([weights[0] * a, weights[1] * b], dim=1)


class MPFourier(nn.Module):
    r"""Cosines of random frequencies and phases, of unit variance, `(B,) -> (B, n)`."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, c_noise: Tensor) -> Tensor:
        return math.sqrt(2) * (c_noise[:, None] * self.freqs + self.phases).cos()


class MPConv(nn.Module):
    r"""A convolution, or with no kernel a linear layer, of weights of unit norm and no bias."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *kernel))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        dims = range(1, self.weight.ndim)
        weight = normalise(self.weight, dims) * (gain / math.sqrt(self.weight[0].numel()))
        if weight.ndim == 2:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class MPBlock(nn.Module):
    r"""A residual block; one of the encoder normalises its pixels, one of the decoder does not.

    Arguments:
        place: Its place.
        embedding: The width of the embedding.
        flavour: Whether it is of the encoder, `enc`, or the decoder, `dec`.
        taps: The taps of the filter that resamples.
        per_head: The number of channels of an attention head.
        balances: The shares of the residual and of the attention branch.
        clip: The bound on the output's values.
    """

    def __init__(
        self,
        place: Place,
        embedding: int,
        flavour: str,
        taps: Sequence[float],
        per_head: int,
        balances: tuple[float, float],
        clip: float | None,
    ) -> None:
        super().__init__()
        _, _, inputs, outputs, self.mode, attention = place
        self.first, self.balances, self.clip = flavour == "enc", balances, clip
        self.taps = list(taps)
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = MPConv(outputs if self.first else inputs, outputs, (3, 3))
        self.emb_linear = MPConv(embedding, outputs)
        self.conv_res1 = MPConv(outputs, outputs, (3, 3))
        self.conv_skip = MPConv(inputs, outputs, (1, 1)) if inputs != outputs else nn.Identity()
        # A block narrower than one head has no attention, in the published files too.
        self.heads = outputs // per_head if attention else 0
        if self.heads:
            self.attn_qkv = MPConv(outputs, 3 * outputs, (1, 1))
            self.attn_proj = MPConv(outputs, outputs, (1, 1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.mode != "keep":
            x = resample(x, taps_2d(self.taps, x.device).to(x.dtype), self.mode)
        if self.first:
            x = normalise(self.conv_skip(x), [1])
        h = self.conv_res0(mp_silu(x))
        h = mp_silu(h * expand_like(self.emb_linear(embedding, self.emb_gain) + 1, h))
        h = self.conv_res1(h)
        x = mp_sum(x if self.first else self.conv_skip(x), h, self.balances[0])
        if self.heads:
            over_features = functools.partial(normalise, dims=[2])
            h = self.attn_proj(attend(self.attn_qkv(x), self.heads, over_features))
            x = mp_sum(x, h, self.balances[1])
        return x if self.clip is None else x.clamp(-self.clip, self.clip)


class EDM2UNet(Tapped):
    r"""The network of EDM2: :math:`F(x, c_\mathrm{noise}, \text{label})`.

    Arguments and names of tensors are those of the published files.

    Its taps are the outputs of its blocks under the names of their tensors, `enc.{name}` and
    `dec.{name}`; its bottleneck is the second of the two blocks between them, `in1`.

    Arguments:
        img_resolution: The side of an image, in pixels (or of a latent, in its own).
        img_channels: The number of channels of an image.
        label_dim: The number of classes. The label `label_dim` stands for none of them.
        model_channels: The number of channels, multiplied at each resolution by `channel_mult`.
        channel_mult: The multipliers, from full size down.
        channel_mult_noise: The multiplier of the level's embedding; by default the first one.
        channel_mult_emb: The multiplier of the whole embedding; by default the largest one.
        num_blocks: The number of blocks of each resolution.
        attn_resolutions: The sides at which blocks attend.
        label_balance: The share of the class in the embedding.
        concat_balance: The share of the skip connections.
        res_balance: The share of a block's residual branch.
        attn_balance: The share of a block's attention.
        channels_per_head: The number of channels of an attention head.
        resample_filter: The taps of the filter that halves and doubles.
        clip_act: The bound on the values between blocks.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        channels_per_head: int = 64,
        resample_filter: Sequence[float] = (1, 1),
        clip_act: float | None = 256,
    ) -> None:
        arguments = constructor_arguments(locals())
        super().__init__()
        self.arguments = arguments
        self.label_dim = label_dim
        self.label_balance, self.concat_balance = label_balance, concat_balance
        widths = [model_channels * factor for factor in channel_mult]
        noise = model_channels * channel_mult_noise if channel_mult_noise else widths[0]
        emb = model_channels * channel_mult_emb if channel_mult_emb else max(widths)
        balances = res_balance, attn_balance
        options = resample_filter, channels_per_head, balances, clip_act
        shape = img_resolution, widths[0], widths, num_blocks, attn_resolutions
        self.encoder, self.decoder = encoder(*shape), decoder(*shape)
        self.emb_fourier = MPFourier(noise)
        self.emb_noise = MPConv(noise, emb)
        if label_dim:
            self.emb_label = MPConv(label_dim, emb)
        self.stem = f"{img_resolution}x{img_resolution}_conv"
        self.taps = tap_names(self.stem, self.encoder, self.decoder)
        self.bottleneck = f"dec.{self.decoder[1].name}"
        self.enc = nn.ModuleDict({self.stem: MPConv(img_channels + 1, widths[0], (3, 3))})
        for place in self.encoder:
            self.enc[place.name] = MPBlock(place, emb, "enc", *options)
        self.dec = nn.ModuleDict()
        for place in self.decoder:
            self.dec[place.name] = MPBlock(place, emb, "dec", *options)
        self.out_conv = MPConv(widths[0], img_channels, (3, 3))
        self.out_gain = nn.Parameter(torch.zeros(()))

    def run_layers(
        self, tap: Tap, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        dtype, weight = x.dtype, self.out_gain
        embedding = self._embed(required_level(c_noise, self).to(weight.dtype), label)
        x = x.to(weight.dtype)
        x = self.enc[self.stem](torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        tap(f"enc.{self.stem}", x)
        skips = [x]
        for place in self.encoder:
            x = self.enc[place.name](x, embedding)
            tap(f"enc.{place.name}", x)
            skips.append(x)
        for place in self.decoder:
            x = mp_cat(x, skips.pop(), self.concat_balance) if place.joins else x
            x = self.dec[place.name](x, embedding)
            tap(f"dec.{place.name}", x)
        return self.out_conv(x, self.out_gain).to(dtype)

    def _embed(self, c_noise: Tensor, label: Tensor | None) -> Tensor:
        embedding = self.emb_noise(self.emb_fourier(c_noise))
        indicator = one_hot(label, self.label_dim, embedding)
        if indicator is not None:
            of_label = self.emb_label(indicator * math.sqrt(self.label_dim))
            embedding = mp_sum(embedding, of_label, self.label_balance)
        return mp_silu(embedding)
