r"""Images of a data set, or the teacher's own samples in their place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..data.batches import Batches
from ..data.images import Corrupt, Records
from ..data.latents import Encoded, Latents
from ..data.sources import account, open_data, read_data, records
from ..denoisers.base import Denoiser
from ..errors import ConfigError, amount, shown
from ..settings.fields import FrameSettings, ImageSettings
from ..teachers.probe import FEWEST
from .base import Data
from .caching import kept_latents
from .image_spaces import ImageSpace
from .image_teachers import ImageTeacher
from .starts import refuse_other_starts

__all__ = ["ImageData"]


# Of the samples that stand for data, and of the rows that are compressed for the probe.
STEPS, COMPRESSED = 18, 512


# Of held-out images: a distance of fewer says nothing.
LEAST = 100


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
        prompted = self.teacher.captions is not None
        kept = self.latents
        images = open_data(
            self.source if kept is None else kept,
            batch=size,
            shape=self.space.image_shape if kept is None else self.space.shape,
            seed=seed,
            corrupt=self.settings.corrupt,
            labels=bool(self.space.classes) and not prompted,
            encode=self._place_in_prompts if prompted else None,
            background=self.settings.background,
        )
        if prompted:
            images.at(0)  # captions that are no prompts are refused before any training
        return Encoded(images, self.space.encode) if self.space.latent and kept is None else images

    @functools.cached_property
    def latents(self) -> Latents | None:
        r"""The latents that are kept of the data, for a teacher of latents with `problem.cache`.

        Raises:
            ConfigError: There are none of this autoencoder and these data.
        """
        row, origin = self.settings, self.space.origin
        if row.cache is None or row.data is None or not self.space.latent or origin is None:
            return None
        if self.teacher.kept is not None:
            return None
        rows = kept_latents(row.cache, origin, row.data, self.space.shape, row.background)
        return Latents(rows, self.source)

    @functools.cached_property
    def source(self) -> Records:
        r"""The images of `problem.data`, whose classes have been compared with the teacher's.

        Raises:
            ConfigError: There are none, or their classes are not those of the teacher.
        """
        assert self.settings.data is not None
        found = records(self.settings.data)
        if self.space.classes and self.teacher.captions is None:
            refuse_classes(found, self.settings.data, self.space.classes)
        return found

    def account(self) -> list[str]:
        lines = self.teacher.account()
        if self.settings.data is None:
            return lines
        asked = bool(self.space.classes) and self.teacher.captions is None
        return [*lines, *account(self.source, asked)]

    @property
    def names(self) -> tuple[str, ...]:
        r"""The names of the classes: the teacher's own, or else those of the data's."""
        given, row = self.teacher.names, self.settings
        if given or self.teacher.kept is not None or row.data is None or self.teacher.takes_text:
            return given
        found = tuple(self.source.classes) if self.space.classes else ()
        return found if len(found) == self.space.classes else ()

    def left_out(self) -> list[str]:
        return [] if self.settings.data is None else self.source.left_out.lines

    def _place_in_prompts(self, captions: Sequence[str]) -> dict[str, Tensor]:
        r"""Returns the place of each caption among the prompts, which a teacher of texts takes.

        Raises:
            ConfigError: A caption is no prompt.
        """
        prompts = self.teacher.prompts
        assert prompts is not None
        places = [prompts.place_of(text.strip()) for text in captions]
        if None in places:
            raise ConfigError(
                f"{shown(self.settings.data)}: the caption {shown(captions[places.index(None)])} "
                f"is none of {shown(self.settings.prompts)}: the prompts of a method that needs "
                "data are the captions of its images"
            )
        return {"label": torch.tensor(places)}

    @functools.cached_property
    def images(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        r"""Real images and their conditions, or the teacher's own samples in their place."""
        if self.settings.data is None:
            x, cond = self.teacher_samples
            return self.space.images(x), cond
        return read_data(
            self.source,
            self.settings.reference,
            shape=self.space.image_shape,
            corrupt=self.settings.corrupt,
            labels=bool(self.space.classes) and self.teacher.captions is None,
            background=self.settings.background,
        )

    @property
    def labels(self) -> Tensor | None:
        return None if self.settings.data is None else self.images[1].get("label")

    @functools.cached_property
    def split(self) -> tuple[Tensor, Tensor]:
        r"""Real images, and others to compare with them: those of `problem.held_out`, or else two
        halves of the reference; so too where those held out are themselves the reference."""
        images, row = self.images[0], self.settings
        if row.held_out is None or row.held_out == row.data:
            order = torch.randperm(len(images), generator=self._random())
            first, second = images[order].chunk(2)
            return first, second
        held_out, _ = read_data(
            row.held_out,
            row.reference,
            shape=self.space.image_shape,
            corrupt=row.corrupt,
            labels=False,
            background=row.background,
        )
        if len(held_out) < LEAST:
            raise ConfigError(
                f"{shown(row.held_out)} has {amount(len(held_out), 'image')}; at least {LEAST:,} "
                "are compared with (--held-out)"
            )
        return images, held_out

    @functools.cached_property
    def teacher_samples(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        r"""Samples of the teacher, by Heun's method, in its own space."""
        return self.teacher_source(STEPS)(self.settings.reference // 2, self._random())

    def _random(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed + 5)

    def reference(self, n: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        x, cond = self._reference()
        if len(x) < FEWEST and self.settings.data is not None:
            raise ConfigError(
                f"{shown(self.settings.data)} has {amount(len(x), 'image')}, and a teacher is "
                f"judged on at least {FEWEST}: give more images (--data)"
            )
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
        if self.latents is not None:
            asked = bool(self.space.classes)
            return read_data(self.latents, COMPRESSED, shape=self.space.shape, labels=asked)
        images, cond = self.images
        rows = evenly_spaced_rows(len(images), COMPRESSED)
        with torch.no_grad():
            x = self.space.encode(images[rows].to(self.space.near)).cpu()
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
        refuse_other_starts(self.settings)
        return super().frame_samples(row, seed)

    def frame_classes(self, cond: Mapping[str, Tensor]) -> Tensor | None:
        # A student of prompts is asked for others later: no prompt has a part of its own.
        return None if self.teacher.captions is not None else super().frame_classes(cond)


def evenly_spaced_rows(total: int, n: int) -> Tensor:
    r"""Returns the indices of up to `n` rows, evenly over all."""
    return torch.linspace(0, total - 1, min(total, n)).long()


def refuse_classes(found: Records, source: str, count: int) -> None:
    r"""Raises a `ConfigError` if images have no classes, or others than those of a teacher.

    Arguments:
        found: The images.
        source: Their name.
        count: The number of the teacher's classes.
    """
    stated, name = found.stated_classes(), shown(source)
    known = [label for label in stated if label is not None]
    if not known:
        raise ConfigError(
            f"{name} gives no classes ({found.no_classes}), and the teacher takes one of {count:,}"
            ": put the images of each class in a folder of its own, or state them, see "
            "docs/usage/data.md"
        )
    for place, label in enumerate(stated):
        if label is None and not _is_corrupt(found, place):
            raise ConfigError(f"{name}: image {place:,} has no class, and others have")
        if label is not None and not 0 <= label < count:
            counted = min(known) == 1 and max(known) == count
            cure = "; they are counted from 1: subtract 1" if counted else ""
            raise ConfigError(
                f"{name}: image {place:,} has class {label:,}, and the teacher has {count:,} "
                f"classes, 0 to {count - 1:,}{cure}"
            )
    doubt = found.doubt_of_classes(count)
    if doubt is not None:
        raise ConfigError(doubt)


def _is_corrupt(found: Records, place: int) -> bool:
    try:
        found.item(place)
    except Corrupt:
        return True
    return False
