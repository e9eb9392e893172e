r"""Pairs of degraded and clean images: blur, resize, noise and JPEG, in rounds.

The pipeline is that of Real-ESRGAN in its main parts. Each row draws from a stream of its own,
named by a seed and the row's place in the data: which process or batch makes a row changes
nothing.

References:
    | Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data
    | (Wang et al., 2021), https://arxiv.org/abs/2107.10833
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError
from .batch import Batch
from .batches import Batches
from .images import Corrupt, Item, Records

__all__ = ["Crops", "Degradation", "Paired", "enlarged", "reduced"]


# A shrunken image has at least so many pixels a side: a smaller one has nothing to blur.
LEAST = 2


@dataclass(frozen=True)
class Degradation:
    r"""What is done to a clean image before it is reduced, and after.

    Arguments:
        factor: How many times an image is reduced.
        rounds: How often blur, resize, noise and JPEG follow each other.
        blur: The least and the greatest deviation of the Gaussian, in pixels; it is longer along
            one direction, and 0 leaves it out.
        resize: The least and the greatest scale between rounds.
        noise: The least and the greatest deviation of the noise, of images in [-1, 1]; half of the
            rows with a range have noise that grows with brightness.
        jpeg: The least and the greatest quality; 0 for no JPEG.
    """

    factor: int = 4
    rounds: int = 2
    blur: tuple[float, float] = (0.2, 2.0)
    resize: tuple[float, float] = (0.6, 1.4)
    noise: tuple[float, float] = (0.0, 0.1)
    jpeg: tuple[int, int] = (50, 95)

    @property
    def words(self) -> str:
        r"""One line on it."""
        parts = [f"reduced {self.factor} times, {self.rounds} rounds"]
        for name in ("blur", "resize", "noise", "jpeg"):
            low, high = getattr(self, name)
            parts.append(f"{name} {low:g} to {high:g}" if high else f"no {name}")
        return ", ".join(parts)

    def __call__(self, x: Tensor, seed: int, place: int) -> Tensor:
        r"""Returns the small degraded image of a clean one.

        Arguments:
            x: The image in [-1, 1], with shape :math:`(C, H, W)`, whose sides `factor` divides.
            seed: The seed of all rows.
            place: The place of this row.

        Returns:
            The image in [-1, 1], with shape :math:`(C, H / f, W / f)`.
        """
        random = np.random.default_rng([seed, place])
        size = x.shape[1] // self.factor, x.shape[2] // self.factor
        image = x[None]
        for index in range(self.rounds):
            image = self._blurred(image, random)
            last = index == self.rounds - 1
            image = resized(image, size if last else self._between(image, size, random))
            image = self._noised(image, random)
            image = self._compressed(image, random)
        return image[0].clamp(-1, 1)

    def _blurred(self, image: Tensor, random: np.random.Generator) -> Tensor:
        if not self.blur[1]:
            return image
        long, short = sorted(random.uniform(*self.blur, size=2))[::-1]
        return blurred(image, float(long), float(short), float(random.uniform(0, np.pi)))

    def _between(
        self, image: Tensor, size: tuple[int, int], random: np.random.Generator
    ) -> tuple[int, int]:
        r"""Returns the size between two rounds: the scale of the way that is left, at random."""
        scale = random.uniform(*self.resize) / self.factor**0.5
        height, width = (max(LEAST, round(scale * side)) for side in image.shape[2:])
        return max(height, size[0]), max(width, size[1])

    def _noised(self, image: Tensor, random: np.random.Generator) -> Tensor:
        low, high = self.noise
        if not high:
            return image
        std = float(random.uniform(low, high))
        drawn = random.standard_normal(tuple(image.shape), dtype=np.float32)
        noise = torch.from_numpy(drawn).to(image)
        if low < high and random.random() < 0.5:
            noise = noise * ((image.clamp(-1, 1) + 1) / 2).sqrt()
        return image + std * noise

    def _compressed(self, image: Tensor, random: np.random.Generator) -> Tensor:
        if not self.jpeg[1]:
            return image
        return compressed(image, int(random.integers(self.jpeg[0], self.jpeg[1] + 1)))


def blurred(image: Tensor, long: float, short: float, angle: float) -> Tensor:
    r"""Returns an image, `(1, C, H, W)`, after a Gaussian of two deviations in pixels, turned by
    an angle in radians; borders are replicated."""
    reach = max(1, int(np.ceil(3 * long)))
    line = torch.arange(-reach, reach + 1, dtype=image.dtype)
    y, x = torch.meshgrid(line, line, indexing="ij")
    along, across = (
        x * np.cos(angle) + y * np.sin(angle),
        y * np.cos(angle) - x * np.sin(angle),
    )
    kernel = (-0.5 * ((along / max(long, 1e-3)) ** 2 + (across / max(short, 1e-3)) ** 2)).exp()
    channels = image.shape[1]
    weight = (kernel / kernel.sum()).expand(channels, 1, -1, -1)
    padded = F.pad(image, (reach,) * 4, mode="replicate")
    return F.conv2d(padded, weight, groups=channels)


def compressed(image: Tensor, quality: int) -> Tensor:
    r"""Returns an image, `(1, C, H, W)` in [-1, 1], as JPEG of a quality gives it back."""
    bytes_ = ((image[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels = bytes_.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
        file, "JPEG", quality=quality
    )
    with Image.open(file, formats=("JPEG",)) as found:
        back = np.array(found, dtype=np.float32).reshape(pixels.shape)
    return torch.from_numpy(back / 127.5 - 1).permute(2, 0, 1)[None].to(image)


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    r"""Returns images, `(B, C, H, W)`, of another size, by a bicubic filter that looks at all
    pixels it covers."""
    return F.interpolate(x, tuple(size), mode="bicubic", antialias=True, align_corners=False)


def reduced(x: Tensor, factor: int) -> Tensor:
    r"""Returns images, `(B, C, H, W)`, reduced as many times."""
    return resized(x, [side // factor for side in x.shape[2:]])


def enlarged(x: Tensor, factor: int) -> Tensor:
    r"""Returns images, `(B, C, H, W)`, enlarged as many times: what students are shown, and what
    they are compared with."""
    return F.interpolate(x, scale_factor=factor, mode="bicubic", align_corners=False)


class Paired(Batches):
    r"""Batches whose samples are degraded images, enlarged again, and whose truth is clean.

    Arguments:
        batches: The batches of clean images.
        degradation: What is done to them.
        seed: The seed of the degradations.

    Raises:
        ConfigError: The sides of an image are no multiple of the factor.
    """

    def __init__(self, batches: Batches, degradation: Degradation, seed: int) -> None:
        super().__init__()
        self.batches, self.degradation, self.seed = batches, degradation, seed

    def at(self, index: int) -> Batch:
        self.batches.rank, self.batches.world = self.rank, self.world
        batch = self.batches.at(index)
        self.batches.count = index + 1
        first = (index * self.world + self.rank) * batch.rows
        return paired(batch, self.degradation, self.seed, first)

    def state_dict(self) -> dict[str, Any]:
        return self.batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.batches.load_state_dict(state)
        self.count = self.batches.count


def paired(batch: Batch, degradation: Degradation, seed: int, first: int) -> Batch:
    r"""Returns a batch of clean images with what each is degraded to.

    Arguments:
        batch: The clean images.
        degradation: What is done to them.
        seed: The seed of all rows.
        first: The place of the first row.
    """
    clean, factor = batch.clean(), degradation.factor
    refuse_sides(clean.shape[2:], factor)
    small = [degradation(row, seed, first + i) for i, row in enumerate(clean)]
    return batch._replace(x=enlarged(torch.stack(small), factor), truth=clean)


def refuse_sides(sides: Sequence[int], factor: int) -> None:
    r"""Raises a `ConfigError` if a side is no multiple of a factor, or reduced to nothing."""
    if any(side % factor or side // factor < LEAST for side in sides):
        shape = "x".join(map(str, sides))
        raise ConfigError(
            f"problem.factor must divide the sides of the teacher's images, {shape}, into at "
            f"least {LEAST} pixels, got {factor}"
        )


class Crops(Records):
    r"""Pieces of images of a fixed size, several of each; an image of that size is one itself.

    The place of a piece follows from a seed and its index.

    Arguments:
        records: The images.
        size: Height and width of a piece.
        each: The number of pieces of an image.
        indices: The images that are used; all by default.
        seed: The seed of the places.
    """

    def __init__(
        self,
        records: Records,
        size: Sequence[int],
        each: int,
        indices: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.records, self.size, self.each, self.seed = records, tuple(size), each, seed
        self.indices = range(len(records)) if indices is None else indices
        self.classes, self.no_classes = records.classes, records.no_classes
        self.ordered, self.left_out = records.ordered, records.left_out
        self._last: tuple[int, Item] | None = None

    def __len__(self) -> int:
        return len(self.indices) * self.each

    def stated_classes(self) -> Sequence[int | None]:
        stated = self.records.stated_classes()
        return [stated[i] for i in self.indices for _ in range(self.each)]

    def doubt_of_classes(self, count: int) -> str | None:
        return self.records.doubt_of_classes(count)

    def item(self, index: int) -> Item:
        image_index = self.indices[index // self.each]
        if self._last is None or self._last[0] != image_index:
            self._last = image_index, self.records.item(image_index)
        found = self._last[1]
        image, (height, width) = found.image, self.size
        h, w = image.shape[1:] if isinstance(image, Tensor) else (image.height, image.width)
        if h < height or w < width:
            raise Corrupt(
                found.name,
                f"it has {w}x{h} pixels, fewer than the {width}x{height} of the teacher's images: "
                "give larger images, or a teacher of another resolution",
            )
        random = np.random.default_rng([self.seed, index])
        top, left = int(random.integers(h - height + 1)), int(random.integers(w - width + 1))
        if isinstance(image, Tensor):
            piece: Any = image[:, top : top + height, left : left + width]
        else:
            piece = image.crop((left, top, left + width, top + height))
        return found._replace(image=piece)
