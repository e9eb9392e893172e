r"""Files that are known and not read: what they are, and what makes a teacher of them.

A file is told by its suffix, by the names of its weights, or by what stands beside it. Of
safetensors the header is read; of files of torch, which are pickles, the texts in them are listed
and nothing is executed.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError, shown
from ..storage.limits import limit, refuse_beyond
from .weights import header_of

__all__ = ["explained", "layout_of", "names_in"]


# What a wrapper puts before every name.
WRAPPED = re.compile(r"^(module\.|_orig_mod\.)+")


OWN = (
    "wrap the network that its own code makes in a file of yours, and give --teacher "
    "mine.py:teacher; docs/usage/teachers.md has the lines"
)


class Layout(NamedTuple):
    r"""A row: whether names of weights are of this layout, what it is, and what converts it.

    In the cure `{path}` is the file, `{out}` the folder to write. `pipeline` is the stock class
    that reads such a file whole, see `vardiu.teachers.single`; empty without.
    """

    matches: Callable[[set[str]], bool]
    what: str
    cure: str
    pipeline: str = ""


def _starts(*prefixes: str) -> Callable[[set[str]], bool]:
    r"""Whether each prefix starts a name."""
    return lambda names: all(any(n.startswith(p) for n in names) for p in prefixes)


def _single(pipeline: str) -> str:
    return (
        f'python -c "import diffusers; diffusers.{pipeline}.from_single_file'
        "('{path}').save_pretrained('{out}')\", and --teacher {out}"
    )


def _transformer(name: str) -> str:
    r"""The cure for a file of one network: the folder of its pipeline is needed around it."""
    return (
        'write it into a folder of the whole pipeline, FOLDER: python -c "import diffusers; '
        f"diffusers.{name}.from_single_file('{{path}}').save_pretrained('FOLDER/transformer')\", "
        "and --teacher FOLDER"
    )


def _has(*parts: str) -> Callable[[set[str]], bool]:
    r"""Whether each part is in a name."""
    return lambda names: all(any(part in n for n in names) for part in parts)


LAYOUTS = (
    Layout(
        lambda names: any(".lora_A." in n or "lora_down" in n or "lora_up" in n for n in names),
        "an adapter (LoRA), which is no network by itself",
        "load its base with diffusers, then pipeline.load_lora_weights('{path}'), "
        "pipeline.fuse_lora(), pipeline.save_pretrained('{out}'), and --teacher {out}",
    ),
    Layout(
        _starts("conditioner.embedders.0.model.", "model.diffusion_model."),
        "a single file of SDXL's refiner, which ends the samples of another network and starts "
        "none",
        "give the base, as a folder of diffusers, with --teacher",
    ),
    Layout(
        _starts("conditioner.embedders.", "model.diffusion_model."),
        "a single file of SDXL",
        _single("StableDiffusionXLPipeline"),
        "StableDiffusionXLPipeline",
    ),
    Layout(
        _has("joint_blocks.", "text_encoders."),
        "a single file of Stable Diffusion 3",
        _single("StableDiffusion3Pipeline"),
        "StableDiffusion3Pipeline",
    ),
    Layout(
        _has("joint_blocks."),
        "the network of Stable Diffusion 3 alone",
        _transformer("SD3Transformer2DModel"),
    ),
    Layout(
        _has("double_blocks."),
        "the network of Flux alone",
        _transformer("FluxTransformer2DModel"),
    ),
    Layout(
        _has("blocks.0.cross_attn.", "patch_embedding.", "text_embedding."),
        "the network of Wan alone",
        _transformer("WanTransformer3DModel"),
    ),
    Layout(
        _starts("model.diffusion_model.", "cond_stage_model."),
        "a single file of Stable Diffusion",
        _single("StableDiffusionPipeline"),
        "StableDiffusionPipeline",
    ),
    Layout(
        _starts("model.diffusion_model."),
        "a checkpoint of latent-diffusion",
        "write it as a folder of diffusers: python scripts/convert_ldm_original_checkpoint_to_"
        "diffusers.py of diffusers' repository, and --teacher FOLDER",
    ),
    Layout(
        _starts("input_blocks.0.0.", "time_embed.0.", "out.2."),
        "a checkpoint of OpenAI's guided-diffusion or consistency_models",
        "of a consistency model: python scripts/convert_consistency_to_diffusers.py --unet_path "
        "{path} --dump_path {out} of diffusers' repository, and --teacher {out}; of "
        "guided-diffusion: " + OWN,
    ),
    Layout(
        lambda names: any("inner_model." in n or n == "model_ema" for n in names),
        "a checkpoint of k-diffusion",
        OWN,
    ),
    Layout(
        _starts("temb.dense.0.", "down.0."),
        "a checkpoint of DDPM's first port to torch",
        "python scripts/convert_ddpm_original_checkpoint_to_diffusers.py --checkpoint_path {path} "
        "--config_file CONFIG --dump_path {out} of diffusers' repository, and --teacher {out}",
    ),
    Layout(_starts("all_modules."), "a checkpoint of score_sde", OWN),
    Layout(
        _starts("conv_in.", "down_blocks."),
        "the weights of a network of diffusers",
        "give the folder that holds them, with its config.json and scheduler_config.json",
    ),
)


# What a suffix alone tells.
SUFFIXES = {
    ".onnx": (
        "a graph of ONNX, which has no gradients to train with",
        "give what it was exported from: the folder, or " + OWN,
    ),
    ".gguf": (
        "a file of GGUF, whose weights are quantised",
        "give the folder of diffusers that it was made from",
    ),
    ".msgpack": ("weights of flax", "write them as safetensors with the library that made them"),
    ".h5": ("weights of Keras", OWN),
    ".keras": ("a network of Keras", OWN),
    ".engine": ("a plan of TensorRT", "give what it was made from"),
}


WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pkl")


def explained(source: str) -> str | None:
    r"""Returns what a source is that nobody reads, and its cure; none where nothing is there.

    Raises:
        ConfigError: It is a file of weights that is damaged.
    """
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        return None
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        what, cure = SUFFIXES[suffix]
        return f"{shown(path)} is {what}: {cure}"
    if suffix not in WEIGHTS:
        return None
    names = names_in(path)
    layout = layout_of({WRAPPED.sub("", name) for name in names})
    if layout is not None:
        wrapper = next((m[0] for n in names if (m := WRAPPED.match(n))), "")
        cure = layout.cure.format(path=shown(path), out=shown(path.stem + "-diffusers"))
        also = f" (its names start with {wrapper!r}: take that off first)" if wrapper else ""
        return f"{shown(path)} is {layout.what}{also}: {cure}"
    some = ", ".join(shown(n) for n in sorted(names)[:3])
    return f"{shown(path)} holds weights of no layout that is known ({some}, ...): {OWN}"


def layout_of(names: set[str]) -> Layout | None:
    r"""Returns the first layout that names of weights are of; none if they are of no known one."""
    return next((layout for layout in LAYOUTS if layout.matches(names)), None)


def _folder(folder: Path) -> str | None:
    inside = {p.name for p in folder.iterdir()}
    if "pytorch_lora_weights.safetensors" in inside or "adapter_config.json" in inside:
        return explained_adapter(folder)
    part = next((n for n in ("unet_ema", "unet", "transformer") if n in inside), None)
    if part is not None or inside & {"optimizer.bin", "scheduler.bin", "random_states_0.pkl"}:
        where = "" if part is None else f"/{part}"
        return (
            f"{shown(folder)} is a checkpoint of a training, without the scheduler that says what "
            "its times mean: copy the scheduler of the pipeline that was trained beside the "
            f"network, cp -r PIPELINE/scheduler {shown(folder)}/, and give --teacher "
            f"{shown(folder)}{where}"
        )
    if "config.json" in inside:
        return None
    weights = sorted(n for n in inside if Path(n).suffix in WEIGHTS)
    if weights:
        found = explained(str(folder / weights[0]))
        return f"{shown(folder)} has no config.json and no model_index.json. {found}"
    return None


def explained_adapter(folder: Path) -> str:
    r"""Returns what to do with a folder of an adapter."""
    cure = LAYOUTS[0].cure.format(path=shown(folder), out=f"{shown(folder.name)}-merged")
    return f"{shown(folder)} is {LAYOUTS[0].what}: {cure}"


# ---------------------------------------------------------------- names of weights


# What the reading of a damaged archive ends in; NotImplementedError is a RuntimeError.
BROKEN = (
    *(OSError, StopIteration, EOFError, RuntimeError, UnicodeDecodeError),
    *(zipfile.BadZipFile, zlib.error),
)


def names_in(path: Path) -> set[str]:
    r"""Returns the names of the weights in a file; of a pickle every text in it.

    Raises:
        ConfigError: It is damaged, or beyond the limits.
    """
    if path.suffix.lower() == ".safetensors":
        return set(header_of(path))
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                inner = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                size = archive.getinfo(inner).file_size
                refuse_beyond("weights header bytes", size, path)
                return set(_texts(archive.read(inner)))
        with path.open("rb") as file:
            return set(_texts(file.read(limit("weights header bytes"))))
    except BROKEN as error:
        raise ConfigError(
            f"{shown(path)} is damaged, or no file of weights: {shown(str(error))}"
        ) from error


def _texts(data: bytes) -> Iterable[str]:
    r"""Yields the texts in pickles that follow each other, up to the first that is none."""
    stream = io.BytesIO(data)
    try:
        while stream.tell() < len(data):
            for _, argument, _ in pickletools.genops(stream):
                if isinstance(argument, str):
                    yield argument
    except (ValueError, UnicodeDecodeError, OverflowError, MemoryError):
        return  # what follows is not a pickle: the numbers of the weights
