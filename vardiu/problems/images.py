r"""The problem of distilling any teacher of images, with data or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..data.digests import digest_of_data
from ..data.sources import records
from ..denoisers import lora
from ..denoisers.base import Denoiser
from ..denoisers.lora_files import save_adapter
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..denoisers.prompts import Captioned
from ..errors import ConfigError, shown
from ..nn import UNet, with_precision
from ..nn.taps import Features, ask_features
from ..posteriors.encoder import Encoder, UnitScale
from ..settings.fields import ImageSettings
from ..storage.code import OwnCode
from ..storage.run_folder import RunFolder
from ..students.base import Generator
from ..students.few_step import FewStep, OneStep
from ..students.prompted import with_prompts, without_prompts
from ..teachers.origin import Origin
from .base import DATA_FILES, Input, Networks, Problem, taught_input
from .image_data import ImageData
from .image_scores import ImageScores
from .image_spaces import ImageSpace
from .image_teachers import ImageTeacher
from .kept import KeptTeacher, keep_prompts
from .starts import check_start, has_weights, started

__all__ = ["ImageNetworks", "ImageProblem", "of_conditions"]


class ImageNetworks(Networks):
    r"""The teacher's network, low-rank changes of it, or small U-Nets.

    Arguments:
        space: Where samples live.
        teacher: The teacher.
        settings: The row of settings.
    """

    RANGE = (0.02, 20.0)

    space: ImageSpace
    teacher: ImageTeacher

    def __init__(self, space: ImageSpace, teacher: ImageTeacher, settings: ImageSettings) -> None:
        super().__init__(space, teacher)
        self.settings = settings

    def fake(self) -> Denoiser:
        row, inner, captions = self.settings, self.teacher.inner, self.teacher.captions
        inner = self.teacher.known if inner is None else inner  # just trained, not read
        if not has_weights(inner):  # a function: the student is a fresh network, see `check_start`
            return self.denoiser()
        found = started(inner, row.student, row.rank, row.precision)
        return found if captions is None else Captioned(found, captions)

    @property
    def null(self) -> int | None:
        return self.space.classes or None

    def student_denoiser(self) -> Denoiser:
        return self.denoiser() if self.settings.student == "fresh" else self.fake()

    def student(self) -> Generator:
        row, denoiser = self.settings, self.student_denoiser()
        if row.calls == 1:
            return OneStep(denoiser, row.sigma)
        return FewStep.on_grid(denoiser, row.calls, row.sigma, row.rule)

    def denoiser(self) -> Denoiser:
        row, space, inner = self.settings, self.space, self.teacher.inner
        low, high = self.RANGE if inner is None else (inner.sigma_min, inner.sigma_max)
        network = UNet(space.shape[0], classes=space.classes, widths=row.widths, depth=row.depth)
        return PreconditionedDenoiser(
            with_precision(network, row.precision),
            shape=space.shape,
            sigma_data=space.sigma_data,
            sigma_min=low,
            sigma_max=high,
            mean=float(space.mean),
            conditions=space.conditions,
        )

    def encoder(self) -> Encoder:
        # Any posterior gives a bound: a class helps it, a prompt it does not see.
        if len(self.space.shape) != 3:
            raise ConfigError(
                "the encoder of a posterior is one of images, and the teacher makes videos: give "
                "--posterior anchored, or another --method"
            )
        space, prompted = self.space, self.teacher.captions is not None
        classes = 0 if prompted else space.classes
        network = UNet(space.shape[0], widths=(32, 64), depth=2, classes=classes, final=False)
        features = 64 * (space.shape[1] // 2) * (space.shape[2] // 2)
        seen = with_precision(
            WithoutConditions(network) if prompted else network, self.settings.precision
        )
        return Encoder(seen, features, UnitScale(space.sigma_data, float(space.mean)))


class ImageProblem(Problem):
    r"""Images, or latents that a decoder turns into images.

    What is distilled lives in the teacher's space; metrics and pictures are of images in [-1, 1].

    Arguments:
        settings: The row of settings.
        seed: The seed of what stands for data where there are none.
        untaught: Whether the teacher is yet to be trained, on the data.
        own: The own code that a user names for `teacher`, `weak` and `classifier`, by these names.
        kept: What a finished run keeps of its teacher, which is then read when it is asked for.

    Raises:
        ConfigError: There is no such teacher, or the settings do not fit it.
    """

    space: ImageSpace
    headline = ImageScores.headline
    judged = ImageScores.judged

    def __init__(
        self,
        settings: ImageSettings,
        seed: int = 0,
        *,
        untaught: bool = False,
        own: Mapping[str, OwnCode] = {},
        kept: KeptTeacher | None = None,
    ) -> None:
        self.settings, self.seed, self.kept_teacher = settings, seed, kept
        self._teacher = ImageTeacher(settings, untaught=untaught, own=own, kept=kept)
        self.space = ImageSpace(
            settings, self._teacher, lambda: self.data.reference(settings.reference)[0]
        )
        refuse_channels(self.space)
        self.networks, self.data, self.scores = self.parts(
            self.space, self._teacher, settings, seed
        )
        self.scores.classifier = own.get("classifier")
        if self._teacher.inner is not None:
            self._check(self._teacher.inner)

    def parts(
        self, space: ImageSpace, teacher: ImageTeacher, settings: ImageSettings, seed: int
    ) -> tuple[ImageNetworks, ImageData, ImageScores]:
        r"""Returns the networks, the data and the scores, of which subclasses have others.

        Arguments:
            space: The space.
            teacher: The teacher.
            settings: The row of settings.
            seed: The seed of what stands for data where there are none.
        """
        data = ImageData(space, teacher, settings, seed)
        return ImageNetworks(space, teacher, settings), data, ImageScores(data)

    def _check(self, inner: Denoiser) -> None:
        r"""Raises a `ConfigError` where the teacher is none of images, or no student can start
        from it as the settings ask."""
        row, shape = self.settings, tuple(self.space.shape)
        video = len(shape) == 4 and self.space.latent
        if len(shape) != 3 and not video:
            raise ConfigError(
                f"samples of the teacher have shape {shape}, and images have channels, height "
                "and width: vectors are distilled by vardiu distill vectors --teacher ..."
            )
        if video and (row.data is not None or row.held_out is not None):
            raise ConfigError(
                f"{shown(self._teacher.place)} makes videos, and images are no data for it: leave "
                "--data and --held-out out, and its own samples stand for them"
            )
        if video and row.student == "fresh":
            raise ConfigError("a fresh network is one of images: leave --student fresh out")
        if row.student == "fresh" and (shape[1] % 2 or shape[2] % 2):
            raise ConfigError(
                f"a fresh network halves height and width once, and samples have shape {shape}: "
                "leave --student fresh out"
            )
        check_start(
            inner, row.student, row.rank, 0 if "text" in inner.conditions else self.space.classes
        )

    def inputs(self) -> Mapping[str, Input]:
        row = self.settings
        taught = self._teacher.at_hand is not None
        found = dict(taught_input(self, self._teacher.place)) if taught else {}
        files = {
            DATA_FILES: row.data,
            "held-out files": row.held_out,
            "prompts file": row.prompts,
        }
        if row.held_out is not None:
            records(row.held_out)  # what cannot be read is refused before any training
        for name, source in files.items():
            sha256 = None if source is None else digest_of_data(source)
            if source is not None and sha256 is not None:
                found[name] = Input(source, sha256)
        return found

    def set_prompts(self, prompts: Sequence[str]) -> None:
        if not self._teacher.takes_text:
            super().set_prompts(prompts)
        self._teacher.set_prompts(prompts)
        self.space.classes = self._teacher.classes

    def without_prompts(self, student: Generator) -> Generator:
        return lora.merge(without_prompts(student))

    def with_prompts(self, student: Generator) -> Generator:
        captions = self._teacher.captions
        return student if captions is None else with_prompts(student, captions)

    def save(self, student: Generator, folder: RunFolder, about: Mapping[str, Any]) -> None:
        for adapter in lora.adapters(student):
            save_adapter(adapter, folder.file("adapter"))
        keep_prompts(self.settings.prompts, folder)
        super().save(student, folder, about)

    def kept(self) -> KeptTeacher:
        inner = self._teacher.inner
        space, names = self.space, self.data.names
        captions = self._teacher.captions
        one = {} if captions is None else captions(torch.zeros(1, dtype=torch.long))
        return KeptTeacher.of(inner, space.classes, space.image_shape, names, one)

    @property
    def origin(self) -> Origin | None:
        return self._teacher.origin


def of_conditions(problem: Problem, denoiser: Denoiser) -> Denoiser:
    r"""Returns a denoiser as one that takes a problem's own conditions: prompts by their index, of
    a problem of texts."""
    captions = problem._teacher.captions if isinstance(problem, ImageProblem) else None
    if captions is None or not set(captions.names) <= set(denoiser.conditions):
        return denoiser
    return Captioned(denoiser, captions)


def refuse_channels(space: ImageSpace) -> None:
    r"""Raises a `ConfigError` if samples are images of another number of channels than 1 or 3,
    which could be trained, and neither measured against files nor drawn."""
    if len(space.shape) == 3 and not space.latent and space.shape[0] not in (1, 3):
        raise ConfigError(
            f"images must have 1 or 3 channels, got {space.shape[0]}: give --channels 1 or 3, or, "
            "for a teacher of latents, one with its decoder"
        )


class WithoutConditions(nn.Module):
    r"""A network that is not told the conditions."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, c_noise: Tensor, **cond: Any) -> Tensor:  # noqa: ANN401
        return self.network(x, c_noise)

    def features(
        self,
        x: Tensor,
        c_noise: Tensor,
        at: Sequence[str] = (),
        **cond: Any,  # noqa: ANN401
    ) -> Features:
        r"""Returns the output of a plain call, and the network's features."""
        return ask_features(self.network, x, c_noise, at, {})
