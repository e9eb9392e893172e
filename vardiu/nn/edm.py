r"""The U-Nets of EDM that are not ADM: DDPM++ and NCSN++, in one class.

Arguments and names of tensors are those of the published files, so that weights fit unchanged.
Dropout, label dropout and augmentation belong to the training of those files and are not here:
a network is the same function while it trains.

References:
    | Score-Based Generative Modeling through Stochastic Differential Equations
    | (Song et al., 2021), https://arxiv.org/abs/2011.13456, Appendix H
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | https://arxiv.org/abs/2206.00364, Appendix F
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .edm_blocks import SONG, Conv, Fourier, Positional, Unused, blocks_of, norm
from .layout import Place, constructor_arguments, decoder, encoder, one_hot, tap_names
from .taps import Tap, Tapped, required_level

__all__ = ["SongUNet"]


TYPES = {
    "embedding_type": ("positional", "fourier"),
    "encoder_type": ("standard", "skip", "residual"),
    "decoder_type": ("standard", "skip"),
}


class SongUNet(Tapped):
    r"""DDPM++ and NCSN++, as EDM has them: :math:`F(x, c_\mathrm{noise}, \text{label})`.

    DDPM++ has a `positional` embedding, `standard` branches and the filter [1, 1]; NCSN++ a
    `fourier` embedding, a `residual` encoder, the filter [1, 3, 3, 1] and
    `channel_mult_noise=2`.

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
        attn_resolutions: The sides at which blocks attend.
        embedding_type: The embedding of the noise level.
        channel_mult_noise: The multiplier of that embedding's width.
        encoder_type: `skip` and `residual` add the downsampled image to each resolution.
        decoder_type: `skip` sums the upsampled outputs of all resolutions.
        resample_filter: The taps of the filter that halves and doubles.

    Raises:
        ValueError: A type of embedding, encoder or decoder is unknown.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        embedding_type: Literal["positional", "fourier"] = "positional",
        channel_mult_noise: int = 1,
        encoder_type: Literal["standard", "skip", "residual"] = "standard",
        decoder_type: Literal["standard", "skip"] = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        arguments = constructor_arguments(locals())
        super().__init__()
        for name, allowed in TYPES.items():
            if arguments[name] not in allowed:
                one_of = ", ".join(allowed)
                raise ValueError(f"{name} must be one of {one_of}, got {arguments[name]!r}")
        self.arguments = arguments
        self.label_dim = label_dim
        self.encoder_type, self.decoder_type = encoder_type, decoder_type
        noise, emb = model_channels * channel_mult_noise, model_channels * channel_mult_emb
        self.map_noise = (
            Fourier(noise) if embedding_type == "fourier" else Positional(noise, endpoint=True)
        )
        if label_dim:
            self.map_label = nn.Linear(label_dim, noise)
        if augment_dim:
            self.map_augment = Unused(augment_dim, noise)
        self.map_layer0 = nn.Linear(noise, emb)
        self.map_layer1 = nn.Linear(emb, emb)
        widths = [model_channels * factor for factor in channel_mult]
        shape = img_resolution, model_channels, widths, num_blocks, attn_resolutions
        self.encoder, self.decoder = encoder(*shape), decoder(*shape, only_last=True)
        self.stem = f"{img_resolution}x{img_resolution}_conv"
        self.taps = tap_names(self.stem, self.encoder, self.decoder)
        self.bottleneck = f"dec.{self.decoder[1].name}"
        self.enc = nn.ModuleDict({self.stem: Conv(in_channels, model_channels, 3)})
        self.enc.update(dict(blocks_of(self.encoder, emb, SONG, resample_filter).items()))
        self.dec = blocks_of(self.decoder, emb, SONG, resample_filter)
        self._add_inputs(in_channels, resample_filter)
        self._add_outputs(out_channels, resample_filter, last=f"block{num_blocks}")

    def _add_inputs(self, channels: int, taps: Sequence[float]) -> None:
        r"""Adds the branches that bring the image to each lower resolution."""
        carried = channels
        for place in self.encoder:
            if place.kind != "down" or self.encoder_type == "standard":
                continue
            name, width = f"{place.side}x{place.side}_aux", place.outputs
            if self.encoder_type == "skip":
                self.enc[f"{name}_down"] = Conv(carried, carried, 0, "down", taps)
                self.enc[f"{name}_skip"] = Conv(carried, width, 1)
            else:
                self.enc[f"{name}_residual"] = Conv(carried, width, 3, "down", taps, fused=True)
                carried = width

    def _add_outputs(self, channels: int, taps: Sequence[float], last: str) -> None:
        r"""Adds the branches that make an image, at full size or at every resolution."""
        self.ends: dict[str, str] = {}
        full = self.decoder[-1].side
        for place in self.decoder:
            if place.kind == last and (self.decoder_type == "skip" or place.side == full):
                name = f"{place.side}x{place.side}_aux"
                self.ends[place.name] = name
                if len(self.ends) > 1:
                    self.dec[f"{name}_up"] = Conv(channels, channels, 0, "up", taps)
                self.dec[f"{name}_norm"] = norm(place.outputs, SONG.eps)
                last_layer = Conv(place.outputs, channels, 3)
                nn.init.zeros_(last_layer.weight)
                self.dec[f"{name}_conv"] = last_layer

    def run_layers(
        self, tap: Tap, x: Tensor, c_noise: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        dtype, weight = x.dtype, self.map_layer0.weight
        embedding = self._embed(required_level(c_noise, self).to(weight.dtype), label)
        x, skips = self._encode(x.to(weight.dtype), embedding, tap)
        return self._decode(x, skips, embedding, tap).to(dtype)

    def _embed(self, c_noise: Tensor, label: Tensor | None) -> Tensor:
        cosines, sines = self.map_noise(c_noise).chunk(2, dim=1)
        embedding = torch.cat([sines, cosines], dim=1)  # the order of the published files
        indicator = one_hot(label, self.label_dim, embedding)
        if indicator is not None:
            embedding = embedding + self.map_label(indicator * math.sqrt(self.label_dim))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(embedding))))

    def _encode(self, x: Tensor, embedding: Tensor, tap: Tap) -> tuple[Tensor, list[Tensor]]:
        image, x = x, self.enc[self.stem](x)
        tap(f"enc.{self.stem}", x)
        skips = [x]
        for place in self.encoder:
            x = self.enc[place.name](x, embedding)
            if place.kind == "down":
                x, image = self._join(x, image, place)
            tap(f"enc.{place.name}", x)
            skips.append(x)
        return x, skips

    def _join(self, x: Tensor, image: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        r"""Returns the features with the image's branch, and what that branch carries on."""
        name = f"{place.side}x{place.side}_aux"
        if self.encoder_type == "skip":
            image = self.enc[f"{name}_down"](image)
            return x + self.enc[f"{name}_skip"](image), image
        if self.encoder_type == "residual":
            x = SONG.weight * (x + self.enc[f"{name}_residual"](image))
            return x, x
        return x, image

    def _decode(self, x: Tensor, skips: list[Tensor], embedding: Tensor, tap: Tap) -> Tensor:
        image: Tensor | None = None
        for place in self.decoder:
            x = torch.cat([x, skips.pop()], dim=1) if place.joins else x
            x = self.dec[place.name](x, embedding)
            tap(f"dec.{place.name}", x)
            if place.name in self.ends:
                name = self.ends[place.name]
                here = self.dec[f"{name}_conv"](F.silu(self.dec[f"{name}_norm"](x)))
                image = here if image is None else here + self.dec[f"{name}_up"](image)
        assert image is not None  # the place of full size always has an end
        return image
