r"""Images of a data set, or the teacher's own samples in their place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..data.batches import Batches
from ..data.latents import Encoded
from ..data.sources import open_data, read_data
from ..denoisers.base import Denoiser
from ..errors import ConfigError
from ..settings.fields import FrameSettings, ImageSettings
from .base import Data
from .image_spaces import ImageSpace
from .image_teachers import ImageTeacher

__all__ = ["ImageData"]


# Of the samples that stand for data, and of the rows that are compressed for the probe.
STEPS, COMPRESSED = 18, 512


class ImageData(Data):
    r"""Images of a data set, or the teacher's own samples in their place.

    Arguments:
        space: Where samples live.
        teacher: The teacher.
        settings: The row of settings.
        seed: The seed of what stands for data where there are none.
    """

    space: ImageSpace
    teacher: ImageTeacher

    def __init__(
        self, space: ImageSpace, teacher: ImageTeacher, settings: ImageSettings, seed: int
    ) -> None:
        super().__init__(space, teacher)
        self.settings, self.seed = settings, seed

    def clean(self, size: int, seed: int) -> Batches:
        if self.settings.data is None:
            raise ConfigError("this needs data: give problem.data (--data)")
        images = open_data(
            self.settings.data,
            batch=size,
            shape=self.space.image_shape,
            seed=seed,
            corrupt=self.settings.corrupt,
            labels=bool(self.space.classes),
        )
        return Encoded(images, self.space.encode) if self.space.latent else images

    @functools.cached_property
    def images(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        r"""Real images and their conditions, or the teacher's own samples in their place."""
        if self.settings.data is None:
            x, cond = self.teacher_samples
            return self.space.images(x), cond
        return read_data(
            self.settings.data,
            self.settings.reference,
            shape=self.space.image_shape,
            corrupt=self.settings.corrupt,
            labels=bool(self.space.classes) and self.teacher.captions is None,
        )

    @functools.cached_property
    def teacher_samples(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        r"""Samples of the teacher, by Heun's method, in its own space."""
        return self.teacher_source(STEPS)(self.settings.reference // 2, self._random())

    def _random(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed + 5)

    def reference(self, n: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        x, cond = self._reference()
        wanted = self.teacher.wanted
        rows = evenly_spaced_rows(len(x), n)
        return x[rows], {name: cond[name][rows] for name in wanted}

    def _reference(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        # Images of a data set have no prompts: a teacher of texts is asked for its own samples.
        if self.settings.data is None or self.teacher.captions is not None:
            return self.teacher_samples
        if not self.space.latent:
            return self.images
        if self.space.origin is None or self.space.origin.compress is None:
            return self.teacher_samples
        images, cond = self.images
        rows = evenly_spaced_rows(len(images), COMPRESSED)
        with torch.no_grad():
            x = self.space.encode(images[rows])
        return x, {name: value[rows] for name, value in cond.items()}

    @property
    def unguided(self) -> Denoiser:
        return self.teacher.unguided

    @property
    def resample(self) -> Callable[[], Tensor] | None:
        if self.settings.data is not None:
            return None
        _, cond = self.reference(512)
        n = len(next(iter(cond.values()))) if cond else 512
        return lambda: self.teacher.solve(n, self._random(), cond, STEPS)

    def frame_samples(self, row: FrameSettings, seed: int) -> dict[str, Tensor]:
        chosen = self.settings
        if chosen.calls != 1 or chosen.student == "fresh" or chosen.sigma is not None:
            raise ConfigError(
                "method.posterior framed starts from the teacher, asked once at "
                "method.frame.sigma: leave problem.calls, problem.sigma and --student fresh out"
            )
        return super().frame_samples(row, seed)

    def frame_classes(self, cond: Mapping[str, Tensor]) -> Tensor | None:
        # A student of prompts is asked for others later: no prompt has a part of its own.
        return None if self.teacher.captions is not None else super().frame_classes(cond)


def evenly_spaced_rows(total: int, n: int) -> Tensor:
    r"""Returns the indices of up to `n` rows, evenly over all."""
    return torch.linspace(0, total - 1, min(total, n)).long()
