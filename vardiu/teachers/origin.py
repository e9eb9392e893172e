r"""Where a teacher comes from, and what stands around its denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

__all__ = ["Origin"]


def _not_evaluated(n: int) -> Sequence[Sequence[Mapping[str, Any]]]:
    return ()


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Origin:
    r"""What a plugin knows of a teacher beside its denoiser.

    Arguments:
        source: What the user gave: a path, a hub id, a function.
        kind: The name of the plugin.
        licence: The teacher's licence as its card states it; none if it states none.
        classes: The number of classes, zero without.
        null: The class that stands for none of them, if the network has one.
        names: The names of the classes, in their order; empty without.
        encode: Of prompts, the conditions that the network takes.
        against: Of a negative prompt, the conditions of one row that guidance leads away from; as
            of any prompt where it is none.
        decode: Of latents, images in [-1, 1]; none where samples are images. Carries gradients.
        compress: Of images in [-1, 1], latents. Carries gradients.
        parts: Components that an export needs again, by their names in a pipeline.
        about: Further facts, for the model card.
        measured: What was measured of the teacher when it was written, a row each metric.
        evaluated: Returns what was measured of it since, of so many samples, against each data
            that it was compared with; nothing if it was not.
        of_texts: Returns what `encode` depends on, as JSON has it: classes and digests of files.
        of_images: Returns what `compress` depends on.
        release: Lets go of what encodes and decodes; it is read again when it is asked for.
    """

    source: str
    kind: str
    licence: str | None = None
    classes: int = 0
    null: int | None = None
    names: tuple[str, ...] = ()
    encode: Callable[[Sequence[str]], dict[str, Tensor]] | None = None
    against: Callable[[str], dict[str, Tensor]] | None = None
    decode: Callable[[Tensor], Tensor] | None = None
    compress: Callable[[Tensor], Tensor] | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    measured: tuple[Mapping[str, Any], ...] = ()
    evaluated: Callable[[int], Sequence[Sequence[Mapping[str, Any]]]] = _not_evaluated
    of_texts: Callable[[], Mapping[str, Any]] | None = None
    of_images: Callable[[], Mapping[str, Any]] | None = None
    release: Callable[[], None] = _nothing

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        return self  # a student that starts from a teacher shares what stands around it
