r"""What a run keeps of its teacher: its student is sampled, evaluated and exported alone."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..denoisers.base import Denoiser
from ..errors import ConfigError, shown
from ..settings.parse import from_mapping
from ..storage.bounded import open_regular
from ..storage.files import write_bytes_atomic
from ..storage.run_folder import RunFolder
from ..teachers.diffusers_codecs import AUTOENCODER_CLASSES
from ..teachers.diffusers_files import AUTOENCODERS, VARIANTS
from ..teachers.families import FAMILIES
from ..teachers.origin import Origin

__all__ = ["KeptTeacher", "keep_prompts", "prompts_in"]


# What is known of an autoencoder without reading it.
CODEC = ("codec", "codec_place", "codec_scale", "codec_shift", "codec_variant")


# A card has their names in a line of code: no others are written there.
CLASSES, PLACES = ("", *AUTOENCODER_CLASSES), ("", *AUTOENCODERS)
VARIANT_NAMES = ("", *VARIANTS)


@dataclass(frozen=True, kw_only=True)
class KeptTeacher:
    r"""Facts of a teacher, kept in the description of its student.

    An autoencoder and an encoder of texts are not copied into a run: they are larger than students
    are. They are read from the teacher when they are asked for; what an export into another form
    than a pipeline says of them is kept.
    """

    source: str = ""
    """What the user gave: a path, a hub id, own code."""
    kind: str = ""
    """How it was read."""
    licence: str | None = None
    """Its licence, where its card states one."""
    revision: str = ""
    """The commit of the hub that it was read at; empty where it is from no hub."""
    network: str = ""
    """The class of its network, where a pipeline has to know it."""
    pipeline: str = ""
    """The stock class of pipelines that its family is named after, see `vardiu.teachers`."""
    shape: tuple[int, ...] = ()
    """The shape of one sample."""
    conditions: tuple[str, ...] = ()
    """The names of its conditions."""
    classes: int = 0
    """The number of classes, or of prompts; zero without conditions."""
    null: int | None = None
    """The class that stands for none."""
    names: tuple[str, ...] = ()
    """The names of the classes, in their order; empty where they have none."""
    codec: str = ""
    """The class of its autoencoder in diffusers; empty where it has none of that."""
    codec_place: str = ""
    """The name of its folder in the teacher's."""
    codec_scale: float = 1.0
    """What that multiplies its latents by."""
    codec_shift: float = 0.0
    """What it takes off them before."""
    codec_variant: str = ""
    """The variant of its weights, as fp16; empty where they are the plain ones."""
    text_shape: tuple[int, ...] = ()
    """The shape of one prompt's embeddings, tokens by width; empty where it takes no texts."""
    pooled_width: int = 0
    """The width of the one vector a prompt that its network is told beside; zero without."""
    sizes: tuple[int, ...] = ()
    """The sizes in pixels that its network is told; empty without."""
    latent: bool = False
    """Whether its samples are latents, which a decoder turns into images."""
    image_shape: tuple[int, ...] = ()
    """The shape of an image; empty where samples are no images."""
    is_named: bool = False
    """Whether this command line names the teacher; a hub is asked for nothing else."""

    @classmethod
    def of(
        cls,
        teacher: Denoiser | None,
        classes: int,
        image_shape: tuple[int, ...] = (),
        names: Sequence[str] = (),
        one: Mapping[str, Tensor] = {},
    ) -> KeptTeacher:
        r"""Returns the facts of a teacher.

        Arguments:
            teacher: The teacher, without guidance and without a table of prompts.
            classes: The number of classes, or of prompts.
            image_shape: The shape of an image.
            names: The names of the classes, in their order.
            one: The conditions of one prompt; empty where it takes no texts.
        """
        if teacher is None:
            return cls(classes=classes, names=tuple(names), image_shape=image_shape)
        origin = teacher.origin if isinstance(teacher.origin, Origin) else Origin("", "")
        return cls(
            source=origin.source,
            kind=origin.kind,
            licence=origin.licence,
            revision=str(origin.about.get("revision", "")),
            network=str(origin.about.get("network", "")),
            pipeline=str(origin.about.get("pipeline", "")),
            shape=tuple(teacher.shape),
            conditions=tuple(teacher.conditions),
            classes=classes,
            null=origin.null,
            names=tuple(names),
            **{name: origin.about[name] for name in CODEC if name in origin.about},
            **embedded_shapes(one),
            latent=origin.decode is not None,
            image_shape=image_shape,
        )

    @classmethod
    def read(cls, about: Mapping[str, Any], where: str) -> KeptTeacher:
        r"""Returns the facts that stand beside a student, see `vardiu.models.about_of`.

        Raises:
            ConfigError: There are none, or they are damaged.
        """
        found = about.get("teacher")
        if not isinstance(found, Mapping):
            raise ConfigError(
                f"{where} does not say what its teacher was: it is damaged, or of an older "
                "version of vardiu. Distil again"
            )
        kept = from_mapping(cls, found, f"{where}: teacher.")
        numbers = (*kept.shape, *kept.image_shape, *kept.text_shape, kept.classes)
        numbers = (*numbers, kept.pooled_width, *kept.sizes)
        lengths = len(kept.image_shape) in (0, 3)
        lengths = lengths and len(kept.text_shape) in (0, 2) and kept.codec_scale > 0
        lengths = lengths and math.isfinite(kept.codec_shift)
        lengths = lengths and kept.codec_variant in VARIANT_NAMES
        lengths = lengths and kept.codec in CLASSES and kept.codec_place in PLACES
        if any(n < 0 for n in numbers) or not lengths or (kept.latent and not kept.shape):
            raise ConfigError(f"{where}: teacher has shapes, classes or a codec that cannot be")
        if kept.names and len(kept.names) != kept.classes:
            raise ConfigError(
                f"{where}: teacher.names must be {kept.classes:,}, one a class, got "
                f"{len(kept.names):,}"
            )
        return dataclasses.replace(kept, is_named=False)

    def origin(self, load: Callable[[], Origin]) -> Origin | None:
        r"""Returns what stood around the teacher; its networks are read when they are asked for.

        Arguments:
            load: Reads the teacher, and returns its own origin.
        """
        if not self.source:
            return None

        # What this teacher has not got is known without reading it.
        absent = {"vae"} if not self.latent else set()
        if "text" not in self.conditions:
            absent |= {name for family in FAMILIES.values() for name in family.parts}

        def part(name: str) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:  # noqa: ANN401
                found = getattr(load(), name)
                if found is None:
                    raise ConfigError(
                        f"the teacher {shown(load().source)} cannot {name}: name the one that "
                        f"this student is of, {shown(self.source)}, with --teacher"
                    )
                return found(*arguments)

            return call

        return Origin(
            self.source,
            self.kind,
            licence=self.licence,
            classes=self.classes,
            null=self.null,
            encode=part("encode") if "text" in self.conditions else None,
            against=part("against") if "text" in self.conditions else None,
            decode=part("decode") if self.latent else None,
            compress=part("compress") if self.latent else None,
            parts=_Parts(load, absent),
            names=self.names,
            about=self._about(),
        )

    def _about(self) -> dict[str, Any]:
        known = ("network", "revision", "pipeline", "text_shape", "pooled_width", "sizes")
        about = {name: getattr(self, name) for name in known if getattr(self, name)}
        return about | ({name: getattr(self, name) for name in CODEC} if self.codec else {})


def embedded_shapes(one: Mapping[str, Tensor]) -> dict[str, Any]:
    r"""Returns the shapes of one prompt's embeddings, and the sizes that go with them; nothing
    where there are none."""
    if "text" not in one:
        return {}
    found: dict[str, Any] = {"text_shape": tuple(one["text"].shape[1:])}
    if "pooled" in one:
        found["pooled_width"] = one["pooled"].shape[1]
    if "sizes" in one:
        found["sizes"] = tuple(map(int, one["sizes"][0].tolist()))
    return found


class _Parts(Mapping[str, Any]):
    r"""The components of a teacher's pipeline, read when the first one is asked for.

    Arguments:
        load: Reads the teacher, and returns its origin.
        absent: The names of components that it has not got.
    """

    def __init__(self, load: Callable[[], Origin], absent: Collection[str]) -> None:
        self._load, self._absent = load, absent

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 (a model)
        if name in self._absent:
            raise KeyError(name)
        return self._load().parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._load().parts)

    def __len__(self) -> int:
        return len(self._load().parts)


# The bytes of a file of prompts that a run keeps a copy of; of a larger one it keeps the place.
COPIED = 2**26


def prompts_in(folder: RunFolder, source: str) -> Path:
    r"""Returns where a run keeps its copy of a file of prompts, of whose kind it is."""
    return folder.file(f"prompts{Path(source).suffix.lower() or '.txt'}")


def keep_prompts(source: str | None, folder: RunFolder) -> None:
    r"""Writes a copy of a file of prompts into a run's folder, unless it is a large one."""
    if source is None:
        return
    with open_regular(Path(source).expanduser()) as file:
        if os.fstat(file.fileno()).st_size <= COPIED:
            write_bytes_atomic(prompts_in(folder, source), file.read())
