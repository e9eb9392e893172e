r"""Autoencoders of diffusers: between images or videos in [-1, 1] and latents of a network."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, shown
from .diffusers_files import AUTOENCODERS, WEIGHTS, variant_there
from .diffusers_models import known, skeleton, strictly

__all__ = ["AUTOENCODER_CLASSES", "Codec", "scale_of"]


AUTOENCODER_CLASSES = (
    *("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC"),
    *("AutoencoderKLCogVideoX", "AutoencoderKLWan"),
)


class Codec:
    r"""An autoencoder of diffusers, between images in [-1, 1] and the latents of a network.

    Its own latents are :math:`s z + m` of the network's :math:`z`: with one factor, :math:`s` is
    one over it and :math:`m` the shift; with means and deviations of channels, these are in both.

    Both ways carry gradients, and are carried out where their argument is: the weights have a copy
    a device. It is read when it is first asked for.

    Arguments:
        folder: The folder of the pipeline.
        parts: The classes of its components, by the names of their folders.
        padding: How many frames of latents before the first one stand for none: a network of
            patches of several frames is asked for whole ones.

    Attributes:
        config: The autoencoder's configuration.

    Raises:
        ConfigError: Its class is not known, or its settings describe none.
    """

    def __init__(self, folder: Path, parts: Mapping[str, str], padding: int = 0) -> None:
        self._folder, self._place = folder, next(p for p in AUTOENCODERS if p in parts)
        self._name = known(folder, parts, self._place, AUTOENCODER_CLASSES)
        self.config = skeleton(self._name, folder, self._place).config
        _check(self.config, folder / self._place / "config.json")
        self.scale, self.shift = _spread(self.config)
        self.padding = padding
        self._copies: dict[torch.device, Any] = {}

    def read(self) -> Any:  # noqa: ANN401 (a model)
        r"""Returns the autoencoder on the CPU, frozen, read now if it was not.

        Raises:
            ConfigError: It does not load.
        """
        return self._near(torch.device("cpu"))

    def release(self) -> None:
        r"""Lets go of the autoencoder, which is read again when it is asked for."""
        self._copies.clear()

    def about(self) -> dict[str, Any]:
        r"""Returns what is to be known of it without reading it, see `vardiu.problems.kept`."""
        if len(self.scale) > 1 or self.padding:
            return {}  # more than a line of a card would say
        return {
            "codec": self._name,
            "codec_place": self._place,
            "codec_scale": 1 / self.scale[0],
            "codec_shift": self.shift[0],
            "codec_variant": variant_there(self._folder / self._place, WEIGHTS),
        }

    def _near(self, device: torch.device) -> Any:  # noqa: ANN401 (a model)
        if not self._copies:
            model = strictly(self._name, self._folder, self._place).requires_grad_(False)
            self._copies[model.device] = model
        if device not in self._copies:
            first = next(iter(self._copies.values()))
            self._copies[device] = copy.deepcopy(first).to(device)
        return self._copies[device]

    def decode(self, latents: Tensor) -> Tensor:
        r"""Returns the images of latents, with the latents' type."""
        model = self._near(latents.device)
        if self.padding:
            latents = latents[:, :, self.padding :]
        scale, shift = (_along(v, latents) for v in (self.scale, self.shift))
        scaled = (latents * scale + shift).to(model.dtype)
        return model.decode(scaled, return_dict=False)[0].to(latents.dtype)

    def encode(self, images: Tensor) -> Tensor:
        r"""Returns the latents of images: the mode, where the encoder gives a distribution."""
        model = self._near(images.device)
        coded = model.encode(images.to(model.dtype))
        if hasattr(coded, "latent_dist"):
            coded = coded.latent_dist.mode()
        else:
            coded = coded.latents if hasattr(coded, "latents") else coded.latent
        if self.padding:
            coded = torch.cat([coded[:, :, :1]] * self.padding + [coded], dim=2)
        scale, shift = (_along(v, coded) for v in (self.scale, self.shift))
        return ((coded - shift) / scale).to(images.dtype)


def _along(values: Sequence[float], x: Tensor) -> Tensor:
    r"""Returns one number, or one a channel, so that it broadcasts with samples."""
    return x.new_tensor(values).reshape(-1, *[1] * (x.dim() - 2))


def _spread(config: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:  # noqa: ANN401
    r"""Returns what latents are multiplied by before they are decoded, and what is added: one
    number, or one a channel."""
    factor, shift = config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if mean is None or deviation is None:
        return (1 / factor,), (float(shift),)
    return tuple(s / factor for s in deviation), tuple(float(m) for m in mean)


def _check(config: Any, path: Path) -> None:  # noqa: ANN401
    r"""Raises a `ConfigError` where the scale of latents is none."""
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    factor = config.get("scaling_factor")
    if factor is None and mean is not None and deviation is not None:
        factor = 1.0
    if not _is_number(factor) or not factor > 0:
        raise ConfigError(
            f"{shown(path)}: scaling_factor must be a number above zero, got {shown(factor)}"
        )
    if mean is None or deviation is None:
        return
    channels = config.get("latent_channels", config.get("z_dim"))
    for name, values in (("latents_mean", mean), ("latents_std", deviation)):
        if (
            not isinstance(values, list | tuple)
            or len(values) != channels
            or not all(_is_number(v) and (name == "latents_mean" or v > 0) for v in values)
        ):
            raise ConfigError(
                f"{shown(path)}: {name} must be {shown(channels)} numbers, one a channel of "
                f"latents, deviations above zero, got {shown(values)}"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def scale_of(config: Mapping[str, Any]) -> int:
    r"""Returns how many pixels a side of a latent stands for, by the configuration."""
    stated = config.get("scale_factor_spatial")
    if isinstance(stated, int):
        return stated
    blocks = config.get("block_out_channels") or config.get("encoder_block_out_channels") or (0,)
    return int(2 ** (len(blocks) - 1))
