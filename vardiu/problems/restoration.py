r"""Degraded images, and the problem of restoring them in one call of a network.

The space, the teacher and its networks are those of `vardiu.problems.images`. Data are pairs:
a clean piece of an image, and what a seeded pipeline makes of it. Scores compare what a student
makes of held-out degraded images with what they were.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.batch import Batch
from ..data.batches import Batches
from ..data.degradations import Crops, Degradation, Paired, paired, refuse_sides
from ..data.images import Records
from ..data.sources import open_data, read_data, records
from ..denoisers.base import Denoiser
from ..errors import ConfigError, shown
from ..metrics import Metric
from ..metrics.restored import restored_metrics
from ..nn.perceptual import PerceptualNet, perceptual_net
from ..reports.samples import image_grid
from ..settings.fields import ImageSettings, RestorationSettings
from ..storage.code import is_source
from ..students.base import Generator
from ..students.restorer import Restorer
from ..teachers.readers import load
from .base import BesideTeacher, Judged
from .image_data import LEAST, ImageData, refuse_classes
from .image_scores import ImageScores
from .image_spaces import ImageSpace
from .image_teachers import ImageTeacher
from .images import ImageNetworks, ImageProblem
from .sampled_teachers import Source

__all__ = ["RestorationProblem"]


# The pairs that students are compared on, and their seed: the same for every run.
TEST, TEST_SEED = 1_000, 90_001


# The level of a student, in standard deviations of the data: t = 273 of Stable Diffusion's 1,000.
LEVEL = 0.75


# What students are compared with.
BICUBIC = "bicubic"


class RestorationNetworks(ImageNetworks):
    r"""Students that are shown a degraded image.

    Arguments are those of `ImageNetworks`.
    """

    settings: RestorationSettings

    def student(self) -> Generator:
        denoiser, row = self.student_denoiser(), self.settings
        level = LEVEL * self.space.sigma_data if row.sigma is None else row.sigma
        level = min(max(level, denoiser.sigma_min), denoiser.sigma_max)
        return Restorer.on(denoiser, level, self.space.sigma_data, row.factor)

    def judge(self) -> Denoiser:
        source, shape = self.settings.critic_teacher, tuple(self.space.shape)
        if source is None:
            return self.teacher.inner or super().judge()
        if is_source(source):
            raise ConfigError(
                f"problem.critic_teacher must be a folder or a file, got {shown(source)}"
            )
        found = load(source).float()
        if tuple(found.shape) != shape or tuple(found.conditions) != tuple(self.space.conditions):
            raise ConfigError(
                f"{shown(source)} is a teacher of samples of shape {tuple(found.shape)} with the "
                f"conditions {list(found.conditions)}, and the student's are of shape {shape} "
                f"with {list(self.space.conditions)}: give a discriminator's teacher of the same"
            )
        return found

    def perceptual(self) -> PerceptualNet:
        return perceptual_net(self.settings.features)


class RestorationData(ImageData):
    r"""Pairs of degraded and clean pieces of images.

    Arguments are those of `ImageData`.
    """

    settings: RestorationSettings
    latents = None  # pieces are cut and degraded as they are drawn

    @property
    def degradation(self) -> Degradation:
        r"""What is done to clean images."""
        row, own = self.settings, self.settings.degradation
        return Degradation(row.factor, own.rounds, own.blur, own.resize, own.noise, own.jpeg)

    @functools.cached_property
    def source(self) -> Records:
        return self._pieces(self.settings.data, self._training)

    @functools.cached_property
    def held_out(self) -> Records:
        r"""The images that students are compared on: those of `problem.held_out`, or else the last
        fifth of the data, which no training sees."""
        row = self.settings
        if row.held_out is None:
            return self._pieces(row.data, lambda n: range(len(self._training(n)), n))
        return self._pieces(row.held_out, range)

    def _training(self, n: int) -> range:
        return range(n if self.settings.held_out is not None else n - max(1, n // 5))

    def _pieces(self, place: str | None, chosen: Any) -> Records:  # noqa: ANN401 (of a number)
        refuse_without_data(place)
        assert place is not None
        found, row = records(place), self.settings
        indices = chosen(len(found))
        if not len(indices):
            raise ConfigError(
                f"{shown(place)} has one image, which cannot be both learnt from and compared "
                "with: give others with problem.held_out (--held-out)"
            )
        if self.space.classes and self.teacher.captions is None:
            refuse_classes(found, place, self.space.classes)
        size = self.space.image_shape[1:]
        refuse_sides(size, row.factor)
        each = 1 if same_size(found, size) else row.crops
        return Crops(found, size, each, indices)

    def paired(self, size: int, seed: int) -> Batches:
        labels = bool(self.space.classes) and self.teacher.captions is None
        images = open_data(
            self.source,
            batch=size,
            shape=self.space.image_shape,
            seed=seed,
            corrupt=self.settings.corrupt,
            labels=labels,
            background=self.settings.background,
        )
        return Paired(images, self.degradation, seed)

    @functools.cached_property
    def test(self) -> Batch:
        r"""The pairs that students are compared on; the same for every seed."""
        row = self.settings
        clean, cond = read_data(
            self.held_out,
            TEST,
            shape=self.space.image_shape,
            corrupt=row.corrupt,
            labels=bool(self.space.classes) and self.teacher.captions is None,
            background=row.background,
        )
        if len(clean) < LEAST:
            raise ConfigError(
                f"{len(clean):,} pieces of held-out images are compared with, and at least "
                f"{LEAST:,} are needed: raise problem.crops, or give more with --held-out"
            )
        return paired(Batch.of(clean, cond), self.degradation, TEST_SEED, 0)

    def pairs(self, n: int) -> Batch:
        r"""Returns up to `n` of the pairs that students are compared on, evenly over them."""
        test = self.test
        rows = torch.linspace(0, test.rows - 1, min(n, test.rows)).long()
        assert test.x is not None and test.truth is not None
        cond = {name: value[rows] for name, value in test.cond.items()}
        return Batch(len(rows), test.x[rows], cond, test.truth[rows])

    @functools.cached_property
    def split(self) -> tuple[Tensor, Tensor]:
        assert self.test.truth is not None
        return self.images[0], self.test.truth

    def account(self) -> list[str]:
        return [*super().account(), f"pairs: {self.degradation.words}, of seeds by row"]


class RestorationScores(ImageScores):
    r"""How near restored images are to what they were, and to images as such.

    Arguments are those of `ImageScores`.
    """

    data: RestorationData

    headline = ("psnr", "high_frequencies", "frechet")
    judged = Judged("frechet", reaches=False)
    quick = 200
    samples = TEST

    def measure(self, source: Source, n: int = TEST, seed: int = 0) -> list[Metric]:
        x, _ = source(n, torch.Generator().manual_seed(seed))
        return self.measure_images(self.space.images(x))

    def measure_images(self, images: Tensor) -> list[Metric]:
        r"""Returns the metrics of restored images, `(N, C, H, W)`, of the first N test pairs."""
        truth = self.data.pairs(len(images)).truth
        assert truth is not None
        net = perceptual_net(self.data.settings.features)
        return restored_metrics(images, truth, net, self.features)

    def best_value(self) -> float | None:
        return None

    def teacher_metrics(self, n: int) -> tuple[list[Metric], str]:
        shown = self.data.pairs(n).x
        assert shown is not None
        return self.measure_images(shown.clamp(-1, 1)), BICUBIC

    def plot_beside_data(self, source: Source, path: Path, title: str, seed: int = 0) -> Path:
        n, columns = 40, 20
        x, _ = source(n, torch.Generator().manual_seed(seed))
        return self.plot_pairs([(title, self.space.images(x))], path, columns)

    def plot_pairs(
        self, restored: Sequence[tuple[str, Tensor]], path: Path, columns: int = 20
    ) -> Path:
        r"""Draws degraded images, what students made of them, and what they were.

        Arguments:
            restored: Titles and restored images of the first test pairs.
            path: The file to write.
            columns: Images in a line.
        """
        n = min(len(images) for _, images in restored)
        pairs = self.data.pairs(n)
        assert pairs.x is not None and pairs.truth is not None
        rows = [(f"degraded, {BICUBIC}", pairs.x.numpy())]
        rows += [(title, images[:n].numpy()) for title, images in restored]
        return image_grid([*rows, ("clean", pairs.truth.numpy())], path, columns)


class RestorationProblem(ImageProblem):
    r"""Images to restore: blurred, noisy, compressed, and of fewer pixels.

    Arguments are those of `ImageProblem`.
    """

    settings: RestorationSettings
    data: RestorationData
    scores: RestorationScores
    headline = RestorationScores.headline
    judged = RestorationScores.judged

    def __init__(self, settings: RestorationSettings, seed: int = 0, **options: Any) -> None:  # noqa: ANN401 (those of ImageProblem)
        super().__init__(settings, seed, **options)
        if self.kept_teacher is None:  # what cannot be had is refused before any training
            perceptual_net(settings.features)
            refuse_without_data(settings.data)

    def parts(
        self, space: ImageSpace, teacher: ImageTeacher, settings: ImageSettings, seed: int
    ) -> tuple[RestorationNetworks, RestorationData, RestorationScores]:
        assert isinstance(settings, RestorationSettings)
        data = RestorationData(space, teacher, settings, seed)
        return RestorationNetworks(space, teacher, settings), data, RestorationScores(data)

    def student_source(self, generator: Generator, *, measured: bool = False) -> Source:
        # Its conditions are those of the pairs, measured or not.
        def draw(n: int, random: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
            pairs = self.data.pairs(n)
            cond = {name: pairs.cond[name] for name in generator.conditions}
            return restored(generator, self.space, pairs.x, cond), cond

        return draw

    def beside(self, student: Generator, n: int, seed: int) -> BesideTeacher:
        x, _ = self.student_source(student)(n, torch.Generator().manual_seed(seed))
        pairs = self.data.pairs(n)
        assert pairs.x is not None
        with torch.no_grad():
            shown = self.space.encode(pairs.x.to(self.space.near)).cpu()
        return BesideTeacher(shown, x, True, f"degraded, {BICUBIC}")


@torch.no_grad()
def restored(
    student: Generator, space: ImageSpace, images: Tensor | None, cond: Mapping[str, Tensor]
) -> Tensor:
    r"""Returns what a student makes of degraded images, `(N, C, H, W)`, on the CPU and in the
    teacher's space, in evaluation mode.

    Arguments:
        student: The student.
        space: Where samples live.
        images: The degraded images in [-1, 1], enlarged.
        cond: Conditions, each with N rows.
    """
    assert images is not None
    weight, training = next(student.parameters()), student.training
    student.eval()
    parts = []
    for begin in range(0, len(images), AT_ONCE):
        rows = slice(begin, begin + AT_ONCE)
        z = space.encode(images[rows].to(space.near)).to(weight)
        there = {name: value[rows].to(weight.device) for name, value in cond.items()}
        parts.append(student(z, **there).float().cpu())
    student.train(training)
    return torch.cat(parts)


# Degraded images that are restored at once.
AT_ONCE = 250


def refuse_without_data(place: str | None) -> None:
    r"""Raises a `ConfigError` if there are no clean images."""
    if place is None:
        raise ConfigError("this needs clean images to degrade: give problem.data (--data)")


def same_size(found: Records, size: Sequence[int]) -> bool:
    r"""Whether the first image has exactly so many pixels: pieces of it are itself."""
    image = found.item(0).image
    own = image.shape[1:] if isinstance(image, Tensor) else (image.height, image.width)
    return tuple(own) == tuple(size)
