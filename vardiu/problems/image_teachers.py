r"""Teachers of images: guided, and with prompts in the place of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.kept_rows import descriptions
from ..data.sources import records
from ..data.texts import Prompts, open_prompts
from ..denoisers.base import Denoiser
from ..denoisers.guidance import Autoguided, Guided, Steerable
from ..denoisers.prompts import Captioned, Captions, LookedUp
from ..errors import ConfigError, shown
from ..nn import UNet
from ..settings.fields import ImageSettings
from ..storage.code import OwnCode, is_source, not_named
from ..teachers import functions
from ..teachers.origin import Origin
from ..teachers.readers import load
from .caching import kept_negative, kept_texts
from .kept import KeptTeacher
from .sampled_teachers import SampledTeacher, find_teacher, teacher_folder
from .starts import denoiser_with_precision

__all__ = ["ImageTeacher"]


# Of embeddings that are held in memory: their bytes, and how many prompts are encoded at a time.
TABLE, PART = 2**30, 256


class ImageTeacher(SampledTeacher):
    r"""A teacher of images or of latents, as settings ask for it.

    Arguments:
        settings: The row of settings.
        untaught: Whether it is yet to be trained.
        own: The own code that a user names for `teacher` and `weak`, by these names.
        kept: What a finished run keeps of it; it is then read when it is asked for.

    Attributes:
        inner: The denoiser as it was read, which students start from; none if untaught, or as long
            as it was not asked for.
        origin: What stood around it.
        prompts: The prompts of a teacher of texts.

    Raises:
        ConfigError: There is no such teacher, or the settings do not fit it.
    """

    def __init__(
        self,
        settings: ImageSettings,
        *,
        untaught: bool = False,
        own: Mapping[str, OwnCode] = {},
        kept: KeptTeacher | None = None,
    ) -> None:
        later = None if kept is None or untaught else lambda: self._guided(self._asked_for())
        super().__init__(None, later, lambda: self._is_named or Path(self._source).exists())
        self.settings, self.own, self.kept, self.untaught = settings, own, kept, untaught
        self.inner: Denoiser | None = None
        self.origin: Origin | None = None
        self._captions: Captions | None = None
        self.prompts: Prompts | None = None
        if kept is not None:
            self.origin = kept.origin(lambda: self._asked_for().origin)
        elif not untaught:
            inner = self.inner = self._load()
            self.origin = inner.origin
            self._captions = self._looked_up()
            self.denoiser = self._guided(inner)

    @property
    def is_plain(self) -> bool:
        row = self.settings
        return row.guidance == 1 and row.weak is None and not self.takes_text

    @property
    def captions(self) -> Captions | None:
        r"""The conditions of the prompts, where it takes texts."""
        if self._captions is None and self.kept is not None:
            self._captions = self._looked_up()
        return self._captions

    @property
    def takes_text(self) -> bool:
        r"""Whether it takes texts."""
        return "text" in self._conditions

    @property
    def _conditions(self) -> tuple[str, ...]:
        if self.kept is not None:
            return self.kept.conditions
        return () if self.inner is None else tuple(self.inner.conditions)

    @property
    def wanted(self) -> tuple[str, ...]:
        r"""The conditions that the denoiser takes, with prompts by their index."""
        if self.kept is not None:
            return ("label",) if self.kept.conditions else ()
        return () if self.denoiser is None else tuple(self.denoiser.conditions)

    @property
    def shape(self) -> tuple[int, ...]:
        r"""The shape of one sample; empty as long as it is yet to be trained."""
        if self.kept is not None:
            return self.kept.shape
        return () if self.inner is None else tuple(self.inner.shape)

    @property
    def _source(self) -> str:
        return self.settings.teacher or teacher_folder(None, self.settings.name)

    @property
    def _is_named(self) -> bool:
        r"""Whether the command line says where it is, or its code."""
        return (self.kept is not None and self.kept.is_named) or is_source(self._source)

    def _asked_for(self) -> Denoiser:
        r"""Returns the denoiser that a finished run was distilled from, read now.

        Raises:
            ConfigError: It cannot be read; the message has the option that names it.
        """
        if self.inner is None:
            if not self.is_there:
                raise ConfigError(
                    f"this needs the student's teacher, {shown(self._source)}, which is not "
                    "there: name it with --teacher"
                )
            try:
                self.inner = self._load()
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"this needs the student's teacher, which cannot be read ({error}): name it "
                    "with --teacher"
                ) from error
        return self.inner

    @property
    def place(self) -> str:
        r"""Where the teacher lies: a folder, a hub id or a file.

        Raises:
            ConfigError: None is named, and there is none that `vardiu teach` wrote.
        """
        row = self.settings
        return row.teacher or find_teacher(None, row.name, "--teacher")

    def _load(self) -> Denoiser:
        row, source = self.settings, self.place
        options: dict[str, Any] = {}
        options |= {} if row.prediction is None else {"prediction": row.prediction}
        options |= {"size": row.size} if row.size else {}
        found = self._read("teacher", source, **options)
        return self._told(found) if isinstance(found, Steerable) else found

    def _told(self, found: Steerable) -> Denoiser:
        r"""Returns a teacher whose network is told its guidance at the one scale that is asked
        for; a student of it knows no other."""
        row = self.settings
        if row.negative or row.weak is not None:
            raise ConfigError(
                f"{shown(self.place)} is told its guidance, and leads away from no prompt and no "
                "worse teacher: leave problem.negative and problem.weak out"
            )
        if not found.low <= row.guidance <= found.high:
            raise ConfigError(
                f"{shown(self.place)} is told a guidance within [{found.low:g}, {found.high:g}], "
                f"got {row.guidance:g}: give another --guidance"
            )
        return Steerable(found.denoiser, row.guidance, row.guidance)

    def _read(self, role: str, source: str, **options: Any) -> Denoiser:  # noqa: ANN401
        r"""Returns the denoiser of a setting; own code must be what the user names for it."""
        if is_source(source):
            if role not in self.own:
                raise ConfigError(not_named(source, f"--{role}", f"the setting problem.{role}"))
            return functions.of_code(self.own[role]).float()
        return load(source, **options).float()

    def _looked_up(self) -> Captions | None:
        row = self.settings
        if not self.takes_text:
            if row.prompts is not None:
                raise ConfigError("problem.prompts is given, and the teacher takes no text")
            return None
        if row.prompts is None:
            raise ConfigError(
                "the teacher takes text: give problem.prompts, a file with a prompt a line"
            )
        if self._cache is not None:
            descriptions(self._cache, "texts")  # where nothing is kept, no index is written either
        self.prompts = open_prompts(row.prompts, self._cache)
        return self._captions_of(self.prompts, row.prompts)

    @property
    def _cache(self) -> str | None:
        # A student that is finished may be asked where no cache is.
        return None if self.kept is not None else self.settings.cache

    def _captions_of(self, prompts: Prompts, what: str) -> Captions:
        r"""Returns the conditions of prompts: those that are kept on disk; else a table in memory,
        after which their encoder is let go of; or, of too many for that, an encoder."""
        if self._cache is not None and self.origin is not None:
            rows = kept_texts(self._cache, self.origin, prompts, what)
            return LookedUp(len(rows), rows.names, rows)
        first = self._encode(prompts[:1])
        if len(prompts) * _bytes(first) > TABLE:
            return LookedUp(
                len(prompts),
                tuple(first),
                lambda i: self._encode([prompts[n] for n in i.tolist()]),
            )
        parts = [self._encode(prompts[i : i + PART]) for i in range(0, len(prompts), PART)]
        table = {name: torch.cat([part[name] for part in parts]) for name in first}
        if self.origin is not None:
            self.origin.release()
        return Captions(table)

    def account(self) -> list[str]:
        r"""Returns what was read of the file of prompts, a line each."""
        if self.prompts is None or self._captions is None:
            return []
        count, (empty, line) = len(self.prompts), self.prompts.empty
        lines = [f"{count:,} prompts of {shown(self.settings.prompts)}"]
        if empty:
            lines.append(f"left out: {empty:,} empty lines of the prompts, such as line {line:,}")
        if isinstance(self._captions, LookedUp) and self._cache is None:
            lines.append(
                f"embeddings of {count:,} prompts would take more than a gigabyte of memory: each "
                "prompt is encoded when it is drawn; `vardiu cache` keeps them on disk"
            )
        return lines

    def _encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        encode = None if self.origin is None else self.origin.encode
        if encode is None:
            raise ConfigError("the teacher takes text, and was read without what encodes prompts")
        return encode(prompts)

    def _precise(self, inner: Denoiser) -> Denoiser:
        precision = self.settings.precision
        return inner if precision == "float32" else denoiser_with_precision(inner, precision)

    def _guided(self, inner: Denoiser) -> Denoiser:
        row, inner = self.settings, self._precise(inner)
        teacher = inner
        if row.weak is not None:
            teacher = Autoguided(inner, self._read("weak", row.weak), row.guidance)
        elif row.guidance != 1 and not isinstance(inner, Steerable):
            teacher = Guided(inner, row.guidance, self._null(inner))
        return self._with_captions(teacher)

    def _with_captions(self, denoiser: Denoiser) -> Denoiser:
        return denoiser if self.captions is None else Captioned(denoiser, self.captions)

    def _null(self, inner: Denoiser) -> dict[str, Tensor]:
        if "text" in inner.conditions:
            negative = self.settings.negative
            if self._cache is not None and self.origin is not None:
                return kept_negative(self._cache, self.origin, negative)
            against = None if self.origin is None else self.origin.against
            return self._encode([negative]) if against is None else against(negative)
        if self.origin is None or self.origin.null is None:
            raise ConfigError(
                "guidance is not 1, and this teacher has no class or text that stands for none; "
                "give problem.weak, a worse teacher, or leave guidance at 1 (vardiu teach ... "
                "--drop 0.1 trains a teacher that has one)"
            )
        return {"label": torch.tensor([self.origin.null])}

    @property
    def unguided(self) -> Denoiser:
        r"""The teacher without guidance; with guidance it is no conditional mean."""
        known = self.known
        return known if self.inner is None else self._with_captions(self._precise(self.inner))

    @property
    def steered(self) -> Denoiser:
        r"""The teacher with the scale of its guidance as a condition of each row.

        Raises:
            ConfigError: The settings have a scale already, or nothing that guidance leads away
                from.
        """
        row, inner = self.settings, self.known if self.inner is None else self.inner
        if row.guidance != 1:
            raise ConfigError(
                f"problem.guidance must be 1 for a method that draws scales itself, got "
                f"{row.guidance:g}: leave --guidance out"
            )
        inner = self._precise(inner)
        if row.weak is not None:
            return self._with_captions(Autoguided(inner, self._read("weak", row.weak), None))
        return self._with_captions(Guided(inner, None, self._null(inner)))

    @property
    def latent(self) -> bool:
        r"""Whether its samples are latents, which a decoder turns into images."""
        if self.kept is not None:
            return self.kept.latent
        return self.origin is not None and self.origin.decode is not None

    @property
    def names(self) -> tuple[str, ...]:
        r"""The names of its classes, in their order; empty where they have none."""
        if self.kept is not None:
            return self.kept.names
        return () if self.origin is None else self.origin.names

    @property
    def classes(self) -> int:
        r"""The number of classes or of prompts; zero without conditions.

        Raises:
            ConfigError: It takes a label, and nothing says of how many classes.
        """
        if self._captions is not None:
            return len(self._captions)
        if self.kept is not None:
            return self.kept.classes
        if self.denoiser is None and self.untaught:
            row = self.settings
            named = row.data is not None and row.conditional
            return len(records(row.data).classes) if named and row.data is not None else 0
        if self.denoiser is None or not self.denoiser.conditions:
            return 0
        if self.origin is not None and self.origin.classes:
            return self.origin.classes
        # A network of ours knows its own arguments.
        found = [m.classes for m in self.denoiser.modules() if isinstance(m, UNet)]
        if not found:
            raise ConfigError("the teacher takes a label, and does not say of how many classes")
        return found[0]

    def set_prompts(self, prompts: Sequence[str]) -> None:
        r"""Has shipped students look up these prompts; the teacher keeps its own."""
        self._captions = Captions(self._encode(prompts))


def _bytes(row: Mapping[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in row.values())
