r"""Teachers in single files: a whole pipeline in one file of safetensors, as it is passed around.

Stock diffusers turns the names of its weights into its own, by `from_single_file`, and writes the
folder `NAME-diffusers` beside the file once, which is read like any other. What the file does not
hold, the settings of the parts and the words of tokenizers, stock diffusers has from the hub; with
`FILE@FOLDER` it is taken from a folder of a pipeline of the same kind, whose weights are not read.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..denoisers.base import Denoiser
from ..errors import ConfigError, require, shown
from ..storage.bounded import read_json
from ..storage.files import write_text_atomic
from . import diffusers
from .diffusers_models import MISFITS
from .families import FAMILIES
from .origin import Origin
from .unread import layout_of, names_in
from .weights import header_of

__all__ = ["load", "matches", "surroundings"]


SUFFIX = ".safetensors"


# In the folder that is written: of which file it was made.
STAMP = "single_file.json"


# What the names of the weights of a component begin with.
HELD = {
    "unet": ("model.diffusion_model.",),
    "transformer": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
    "text_encoder": (
        *("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."),
        "text_encoders.clip_l.",
    ),
    "text_encoder_2": ("conditioner.embedders.1.model.", "text_encoders.clip_g."),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}


# What is no weight, is held twice, or is written by some who have no use for it.
BESIDE = (
    *("position_ids", "logit_scale", "embed_tokens.weight"),
    *("text_projection", "text_projection.weight"),
)


def _parts(source: str) -> tuple[Path, str]:
    r"""Returns the file of a source, and the folder of settings; empty for those of the hub."""
    name, _, settings = (source, "", "") if Path(source).exists() else source.partition("@")
    return Path(name), settings


def _pipeline(path: Path) -> str:
    r"""Returns the stock class that reads a file; empty if it is no whole pipeline."""
    if path.suffix.lower() != SUFFIX or not path.is_file():
        return ""
    layout = layout_of(names_in(path))
    return "" if layout is None else layout.pipeline


def matches(source: str) -> bool:
    r"""Whether a source is a file of safetensors that holds a whole pipeline."""
    return bool(_pipeline(_parts(source)[0]))


def load(source: str, *, prediction: str | None = None, size: Sequence[int] = ()) -> Denoiser:
    r"""Returns the denoiser of a single file.

    Arguments:
        source: The file, `sdxl.safetensors` for one; after `@` a folder whose settings it has.
        prediction: As `vardiu.teachers.diffusers.load`.
        size: The same.

    Raises:
        ConfigError: It cannot be turned into a folder of diffusers, or that cannot be read.
    """
    return diffusers.load(str(folder_of(source)), prediction=prediction, size=size)


def surroundings(source: str) -> tuple[Origin, tuple[int, ...]]:
    r"""Returns what stands around the network, see `vardiu.teachers.diffusers.surroundings`."""
    return diffusers.surroundings(str(folder_of(source)))


def folder_of(source: str) -> Path:
    r"""Returns the folder of diffusers of a single file, written now if it was not.

    Raises:
        ConfigError: It cannot be written, or is there already and of another file.
    """
    path, settings = _parts(source)
    out = path.with_name(f"{path.stem}-diffusers")
    about = {
        "file": path.name,
        "bytes": path.stat().st_size,
        "modified": path.stat().st_mtime_ns,
    }
    if out.exists():
        found = read_json(out / STAMP) if (out / STAMP).is_file() else {}
        if found != about:
            raise ConfigError(
                f"{shown(out)} is there already and was not made of this {shown(path.name)}: "
                f"give --teacher {shown(out)}, or remove it, and it is made anew"
            )
        return out
    if settings and not (Path(settings) / "model_index.json").is_file():
        raise ConfigError(
            f"{shown(settings)} has no model_index.json: after {shown(path.name)}@ stands a "
            "folder of a pipeline of the same kind, whose settings it has"
        )
    _write(path, settings, out, json.dumps(about) + "\n")
    return out


def _absent(path: Path) -> dict[str, None]:
    r"""Returns what stock diffusers is told of encoders that a file leaves out, as it may."""
    family, names = FAMILIES[_pipeline(path)], names_in(path)
    out = [
        row
        for row in family.encoders
        if row.optional and not any(name.startswith(HELD[row.part]) for name in names)
    ]
    return dict.fromkeys(part for row in out for part in (row.part, row.tokenizer))


def _models(pipeline: Any) -> dict[str, Any]:  # noqa: ANN401 (a pipeline)
    r"""Returns the networks of a pipeline, by the names of their components."""
    parts = pipeline.components.items()
    return {name: part for name, part in parts if isinstance(part, nn.Module)}


def _refuse_left_out(pipeline: Any, path: Path) -> None:  # noqa: ANN401 (a pipeline)
    r"""Raises a `ValueError` if a file has more numbers of a component than were read: stock
    diffusers leaves out what the settings have no place for."""
    header = header_of(path)
    for name, part in _models(pipeline).items():
        held = sum(
            math.prod(row["shape"])
            for key, row in header.items()
            if key.startswith(HELD.get(name, ())) and not key.endswith(BESIDE)
        )
        read = sum(
            value.numel() for key, value in part.state_dict().items() if not key.endswith(BESIDE)
        )
        if held > read:
            raise ValueError(
                f"it has {held:,} numbers of the {name}, and by the settings there are {read:,}"
            )


def _refuse_lacking(pipeline: Any) -> None:  # noqa: ANN401 (a pipeline)
    r"""Raises a `ValueError` if a weight has no memory: stock diffusers makes networks without
    any, and gives it to the weights that a file has."""
    for part, network in _models(pipeline).items():
        lost = [name for name, value in network.state_dict().items() if value.is_meta]
        if lost:
            raise ValueError(
                f"it lacks weights of the {part} that the settings have a place for: {len(lost)}, "
                f"the first of them {lost[0]}"
            )


def _read(stock: Any, path: Path, options: Mapping[str, Any]) -> Any:  # noqa: ANN401 (a pipeline)
    r"""Returns the pipeline that stock diffusers reads of a file.

    Raises:
        ValueError: The file has weights that were not read, or lacks some.
    """
    try:
        pipeline = stock.from_single_file(str(path), **_absent(path), **options)
    except NotImplementedError as error:  # torch's: what has no memory is moved
        raise ValueError("it lacks weights that the settings have a place for") from error
    _refuse_left_out(pipeline, path)
    for part in _models(pipeline).values():
        if hasattr(part, "tie_weights"):  # of T5, whose embedding a file holds once
            part.tie_weights()
    _refuse_lacking(pipeline)
    return pipeline


def _write(path: Path, settings: str, out: Path, stamp: str) -> None:
    r"""Has stock diffusers read a file and write a folder, whole or not at all."""
    stock = getattr(require("diffusers", "hub"), _pipeline(path))
    lacking = require("diffusers.loaders.single_file_utils", "hub").SingleFileComponentError
    options: dict[str, Any] = {"config": settings, "local_files_only": True} if settings else {}
    cure = (
        f"its settings were taken of {shown(settings)}: is that of the same kind?"
        if settings
        else f"without the hub name a folder whose settings it has, --teacher {shown(path)}@FOLDER"
    )
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise ConfigError(f"{shown(out)} cannot be written: {error.strerror}") from error
    try:
        _read(stock, path, options).save_pretrained(made)
        write_text_atomic(made / STAMP, stamp)
        made.chmod(0o755)
        made.rename(out)
    except (*MISFITS, lacking) as error:
        line = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"stock diffusers reads no {stock.__name__} of {shown(path)}: {shown(line)}; {cure}"
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
