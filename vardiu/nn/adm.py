r"""ADM, the U-Net of guided diffusion, with the tensors' names of EDM's files.

References:
    | Diffusion Models Beat GANs on Image Synthesis (Dhariwal and Nichol, 2021)
    | https://arxiv.org/abs/2105.05233
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | https://arxiv.org/abs/2206.00364, Appendix F
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .edm_blocks import ADM, Conv, Positional, Unused, blocks_of, norm
from .layout import constructor_arguments, decoder, encoder, one_hot, tap_names
from .taps import Tap, Tapped, required_level

__all__ = ["DhariwalUNet"]


class DhariwalUNet(Tapped):
    r"""ADM: :math:`F(x, c_\mathrm{noise}, \text{label})`.

    Arguments and names of tensors are those of the published files. Dropout, label dropout and
    augmentation belong to the training of those files and are not here.

    Its taps are the outputs of its blocks under the names of their tensors, `enc.{name}` and
    `dec.{name}`; its bottleneck is the second of the two blocks between them, `in1`.

    Arguments:
        img_resolution: The side of an image, in pixels.
        in_channels: The number of channels of an image.
        out_channels: The number of channels of the output.
        label_dim: The number of classes. The label `label_dim` stands for none of them.
        augment_dim: The number of augmentation labels; all are zero here.
        model_channels: The number of channels, multiplied at each resolution by `channel_mult`.
        channel_mult: The multipliers, from full size down.
        channel_mult_emb: The multiplier of the embedding's width.
        num_blocks: The number of blocks of each resolution.
        attn_resolutions: The sides at which blocks attend, with heads of 64 channels.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
    ) -> None:
        arguments = constructor_arguments(locals())
        super().__init__()
        self.arguments = arguments
        self.label_dim = label_dim
        emb = model_channels * channel_mult_emb
        widths = [model_channels * factor for factor in channel_mult]
        shape = img_resolution, widths[0], widths, num_blocks, attn_resolutions
        self.encoder, self.decoder = encoder(*shape), decoder(*shape)
        self.map_noise = Positional(model_channels, endpoint=False)
        if augment_dim:
            self.map_augment = Unused(augment_dim, model_channels)
        self.map_layer0 = nn.Linear(model_channels, emb)
        self.map_layer1 = nn.Linear(emb, emb)
        if label_dim:
            self.map_label = nn.Linear(label_dim, emb, bias=False)
            nn.init.normal_(self.map_label.weight)  # an embedding of each class
        self.stem = f"{img_resolution}x{img_resolution}_conv"
        self.taps = tap_names(self.stem, self.encoder, self.decoder)
        self.bottleneck = f"dec.{self.decoder[1].name}"
        self.enc = nn.ModuleDict({self.stem: Conv(in_channels, widths[0], 3)})
        self.enc.update(dict(blocks_of(self.encoder, emb, ADM).items()))
        self.dec = blocks_of(self.decoder, emb, ADM)
        self.out_norm = norm(widths[0], ADM.eps)
        self.out_conv = Conv(widths[0], out_channels, 3)
        nn.init.zeros_(self.out_conv.weight)

    def run_layers(
        self, tap: Tap, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        dtype, weight = x.dtype, self.map_layer0.weight
        embedding = self._embed(required_level(c_noise, self).to(weight.dtype), label)
        x = self.enc[self.stem](x.to(weight.dtype))
        tap(f"enc.{self.stem}", x)
        skips = [x]
        for place in self.encoder:
            x = self.enc[place.name](x, embedding)
            tap(f"enc.{place.name}", x)
            skips.append(x)
        for place in self.decoder:
            x = torch.cat([x, skips.pop()], dim=1) if place.joins else x
            x = self.dec[place.name](x, embedding)
            tap(f"dec.{place.name}", x)
        return self.out_conv(F.silu(self.out_norm(x))).to(dtype)

    def _embed(self, c_noise: Tensor, label: Tensor | None) -> Tensor:
        embedding = F.silu(self.map_layer0(self.map_noise(c_noise)))
        embedding = self.map_layer1(embedding)
        indicator = one_hot(label, self.label_dim, embedding)
        if indicator is not None:
            embedding = embedding + self.map_label(indicator)
        return F.silu(embedding)
