r"""The space of images, or of latents that a decoder turns into images."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ConfigError
from ..settings.fields import ImageSettings
from .base import Space
from .image_teachers import ImageTeacher

__all__ = ["ImageSpace"]


class ImageSpace(Space):
    r"""Where a teacher of images lives, with its codec.

    Arguments:
        settings: The row of settings.
        teacher: The teacher.
        sample: Returns the samples that mean and spread are measured on. Sampling and exporting
            need none of these: what they cost is paid when they are asked for.
    """

    def __init__(
        self, settings: ImageSettings, teacher: ImageTeacher, sample: Callable[[], Tensor]
    ) -> None:
        own = (settings.channels, settings.side, settings.side)
        self.shape = teacher.shape or own
        self.classes = teacher.classes
        self.conditions = ("label",) if self.classes else ()
        self.origin, self.latent, self._kept = teacher.origin, teacher.latent, teacher.kept
        self._make = sample

    @functools.cached_property
    def _sample(self) -> Tensor:
        return self._make()

    @functools.cached_property
    def mean(self) -> Tensor:
        return self._sample.mean()

    @functools.cached_property
    def sigma_data(self) -> float:
        return float(self._sample.std())

    @functools.cached_property
    def variance(self) -> float:
        return float(self._sample.flatten(1).var(dim=0).mean())

    @property
    def decodes(self) -> bool:
        return self.origin is not None and self.origin.decode is not None

    def decode(self, x: Tensor) -> Tensor:
        decode = None if self.origin is None else self.origin.decode
        return x if decode is None else decode(x)

    def encode(self, images: Tensor) -> Tensor:
        origin = self.origin
        if origin is None or origin.decode is None:
            return images
        if origin.compress is None:
            raise ConfigError(
                f"{origin.source} makes images of latents, and no latents of images: leave "
                "problem.data (--data) out, or give a teacher with a whole autoencoder"
            )
        return origin.compress(images)

    @torch.no_grad()
    def images(self, x: Tensor) -> Tensor:
        x = x.float().cpu()
        if self.latent:
            x = torch.cat([strips(self.decode(part.to(self.near))).cpu() for part in x.split(64)])
        return x.clamp(-1, 1)

    @property
    def near(self) -> torch.device:
        r"""Where latents and images are brought to for the autoencoder; the CPU for one of the
        user's own, which need not follow."""
        origin = self.origin
        follows = origin is not None and origin.kind == "diffusers" and self.device is not None
        return self.device if follows and self.device is not None else torch.device("cpu")

    @functools.cached_property
    def image_shape(self) -> tuple[int, int, int]:
        r"""The shape of an image: that of a sample, or of what the decoder makes of one."""
        shape = self.shape
        if self._kept is not None:
            shape = self._kept.image_shape
        elif self.latent:
            shape = self.images(torch.zeros(1, *self.shape)).shape[1:]
        c, height, width = shape
        return (c, height, width)


def strips(x: Tensor) -> Tensor:
    r"""Returns videos, `(B, C, T, H, W)`, as images: their frames side by side, `(B, C, H, T W)`,
    as they are measured and drawn; images as they are."""
    return x.transpose(2, 3).flatten(3) if x.dim() == 5 else x
