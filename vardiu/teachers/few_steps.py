r"""Few-step students that others have published: folders of diffusers with an `LCMScheduler`.

The folder is read as a teacher's is, see `vardiu.teachers.diffusers`; its scheduler says at which
levels a latent consistency model is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..denoisers.adapted import AdaptedDenoiser
from ..denoisers.base import Denoiser
from ..denoisers.consistency import LatentConsistencyDenoiser
from ..denoisers.guidance import Steerable
from ..errors import ConfigError, require, shown
from ..storage.bounded import DAMAGED
from ..students.base import Generator
from ..students.few_step import FewStep
from . import diffusers
from .diffusers_files import parts_of, scheduler_settings
from .origin import Origin

__all__ = ["CALLS", "matches", "student_of", "takes_text"]


# The calls of a sample unless others are asked for.
CALLS = 4


# The scale of guidance of the paper's networks: the range of their training, and stock's default.
LOW, HIGH, SCALE = 1.0, 15.0, 8.5


NAME = "LCMScheduler"


def matches(source: str) -> bool:
    r"""Whether a source is a folder of diffusers that is sampled in a few steps."""
    return (
        Path(source).is_dir()
        and diffusers.matches(source)
        and (_settings(source) or {}).get("_class_name") == NAME
    )


def takes_text(source: str) -> bool:
    r"""Whether a published student has an encoder of texts."""
    return "text_encoder" in parts_of(Path(source))


def _settings(source: str) -> dict[str, Any] | None:
    try:
        return scheduler_settings(Path(source), source)[1]
    except ConfigError:
        return None  # the reader of teachers says what is wrong


def student_of(denoiser: Denoiser, calls: int = CALLS) -> Generator:
    r"""Returns the student that a network and its `LCMScheduler` are.

    Its grid is the scheduler's own, of `original_inference_steps` times, and a sample of fewer
    calls is asked at every so many of them, evenly from the largest, as stock pipelines do. A
    network that is told a scale of guidance is told 8.5, their default; see
    `vardiu.students.steered`.

    Arguments:
        denoiser: The folder's denoiser, as `vardiu.teachers.load` reads it.
        calls: The number of calls a sample.

    Raises:
        ConfigError: The scheduler clips samples, its grid is none, or so many calls are not in it.
    """
    origin = denoiser.origin
    assert isinstance(origin, Origin) and isinstance(denoiser, AdaptedDenoiser)
    settings: Mapping[str, Any] = origin.parts["scheduler"]
    where = f"the {NAME} of {shown(origin.source)}"
    for name in ("clip_sample", "thresholding"):
        if settings.get(name):
            raise ConfigError(f"{where} has {name}, which is not read: set it to false")
    if settings.get("rescale_betas_zero_snr"):
        raise ConfigError(
            f"{where} starts from noise alone, and a student of it at a finite level"
        )
    try:
        scheduler = getattr(require("diffusers", "hub"), NAME).from_config(dict(settings))
        steps = scheduler.config.original_inference_steps
        scheduler.set_timesteps(steps)
        squares = scheduler.alphas_cumprod.double()[scheduler.timesteps]
        scaling = float(scheduler.config.timestep_scaling)
    except DAMAGED as error:
        raise ConfigError(f"{where} makes no grid: {shown(str(error))}") from error
    levels = ((1 - squares) / squares).sqrt().tolist()
    coordinates = denoiser.coordinates
    told = getattr(getattr(denoiser.network, "model", None), "config", {})
    if told.get("time_cond_proj_dim") is not None:
        denoiser = Steerable(denoiser, LOW, HIGH, SCALE)
    bounded = LatentConsistencyDenoiser(denoiser, coordinates, scaling)
    try:
        return FewStep(bounded, levels[:1], grid=levels).with_calls(calls).eval()
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
