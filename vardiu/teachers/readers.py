r"""Teachers from elsewhere: one adapter an origin, behind `load`.

A source is a path, a hub id or the name of a function; the first plugin that knows its look reads
it. What is returned is a `vardiu.Denoiser` with an `origin`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..denoisers.base import Denoiser
from ..errors import ConfigError, shown
from . import diffusers, edm, functions, saved, single, unread
from .origin import Origin

__all__ = ["READERS", "Reader", "load", "surroundings"]


Surroundings = tuple[Origin, tuple[int, ...]]


class Reader(NamedTuple):
    r"""A row: what it reads, whether a source looks so, the reader, and what reads all but the
    network, where that can be left out."""

    about: str
    matches: Callable[[str], bool]
    load: Callable[..., Denoiser]
    surroundings: Callable[[str], Surroundings] | None = None


READERS: Mapping[str, Reader] = {
    "function": Reader(
        "FILE.py:NAME or MODULE:NAME, a Denoiser or a function that returns one",
        functions.matches,
        functions.load,
    ),
    "run": Reader(
        "a run of `vardiu teach`, or a folder with model.json", saved.matches, saved.load
    ),
    "edm": Reader(
        "a .pkl file of EDM or EDM2, of which nothing is executed", edm.matches, edm.load
    ),
    "diffusers": Reader(
        "a folder of diffusers, or an id of its hub",
        diffusers.matches,
        diffusers.load,
        diffusers.surroundings,
    ),
    "single file": Reader(
        "a .safetensors file of a whole pipeline (Stable Diffusion, SDXL, SD3); FILE@FOLDER has "
        "its settings from a folder",
        single.matches,
        single.load,
        single.surroundings,
    ),
}


def refuse_options(plugin: Reader, source: str, options: Mapping[str, Any]) -> None:
    r"""Raises a `ConfigError` for an option that the reader of a source has not got."""
    taken = inspect.signature(plugin.load).parameters
    other = next((name for name in options if name not in taken), None)
    if other is not None:
        raise ConfigError(
            f"{shown(source)} is read as {plugin.about}, of which no {other} can be stated: leave "
            f"--{other} out"
        )


def load(source: str, **options: Any) -> Denoiser:  # noqa: ANN401 (each plugin has its own)
    r"""Returns the teacher of a source.

    Arguments:
        source: A path, a hub id or the name of a function, see `READERS`.
        options: Options of the plugin that reads it.

    Raises:
        ConfigError: No plugin knows the source, or the one that does cannot read it.
    """
    plugin = reader_of(source)
    refuse_options(plugin, source, options)
    return plugin.load(source, **options)


def surroundings(source: str) -> Surroundings:
    r"""Returns what stands around the denoiser of a source, and the shape of a sample; where the
    reader can, without the network's weights.

    Arguments:
        source: A path, a hub id or the name of a function.

    Raises:
        ConfigError: No plugin knows the source, or the one that does cannot read it.
    """
    plugin = reader_of(source)
    if plugin.surroundings is not None:
        return plugin.surroundings(source)
    denoiser = plugin.load(source)
    assert isinstance(denoiser.origin, Origin)
    return denoiser.origin, tuple(denoiser.shape)


def reader_of(source: str) -> Reader:
    r"""Returns the first plugin that knows the look of a source.

    Raises:
        ConfigError: None does; the message says what it is, if that is known.
    """
    for plugin in READERS.values():
        if plugin.matches(source):
            return plugin
    found = unread.explained(source)
    if found is not None:
        raise ConfigError(found)
    known = "; ".join(plugin.about for plugin in READERS.values())
    raise ConfigError(f"no teacher can be read from {source!r}. What can be read: {known}")
