r"""Models of diffusers and transformers, built only if their configuration is one of them.

A configuration is somebody else's: it is held to limits, and the network that it describes is
built without memory first, to see that the weights beside it can be its own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import ConfigError, nearest, require, shown
from ..storage.bounded import DAMAGED, read_json
from ..storage.limits import refuse_beyond
from .diffusers_files import AUTOENCODERS, TEXT_WEIGHTS, WEIGHTS, variant_of

__all__ = [
    "AUTOENCODER_CLASSES",
    "Codec",
    "checked_network",
    "encoded",
    "strictly",
    "text_encoder",
    "tokenizer",
]


# What a class raises that is given what it was not written for.
MISFITS: tuple[type[Exception], ...] = (*DAMAGED, SafetensorError)


TEXTS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")


TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")


AUTOENCODER_CLASSES = ("AutoencoderKL", "AutoencoderTiny")


TRANSFORMERS = "transformers"


# What `torch.compile` and data parallelism put before every name.
WRAPPERS = ("_orig_mod.", "module.")


# Settings that count what is built one after another.
COUNTS = ("layers_per_block", "num_layers", "transformer_layers_per_block", "num_hidden_layers")


def strictly(name: str, folder: Path, part: str, library: str = "diffusers") -> Any:  # noqa: ANN401
    r"""Returns a model in single precision and evaluation mode, with every weight loaded.

    Arguments:
        name: Its class.
        folder: The folder of the pipeline.
        part: The component; empty where the folder is the model's own.
        library: Where the class is from: diffusers, or transformers.

    Raises:
        ConfigError: The settings or the weights are missing, beyond a limit, or do not fit each
            other; the message names the folder.
    """
    where = folder / part
    cls = getattr(require(library, "hub"), name)
    config = read_json(where / "config.json")
    _refuse_large(config, where / "config.json")
    stem = WEIGHTS if library == "diffusers" else TEXT_WEIGHTS
    variant = variant_of(where, stem, name)
    _refuse_beyond_its_weights(cls, config, where, library)
    options = {"low_cpu_mem_usage": False} if library == "diffusers" else {}
    try:
        model, info = cls.from_pretrained(
            str(where),
            use_safetensors=True,
            variant=variant,
            output_loading_info=True,
            local_files_only=True,
            **options,
        )
    except MISFITS as error:
        raise ConfigError(
            f"the weights of {shown(where)} do not load as a {name} from safetensors: "
            f"{shown(str(error))}"
        ) from error
    if library == "transformers":  # of a whole model with images, the half of texts is read
        info = {"missing_keys": info["missing_keys"]}
    _refuse_wrong(info, where)
    return model.float().eval()


def _refuse_wrong(info: Mapping[str, Any], where: Path) -> None:
    r"""Raises a `ConfigError` if weights are missing, unknown or misshapen."""
    wrong = {key: sorted(map(str, value)) for key, value in info.items() if value}
    if not wrong:
        return
    for prefix in WRAPPERS:
        if any(key.startswith(prefix) for key in wrong.get("unexpected_keys", ())):
            raise ConfigError(
                f"the names of the weights of {shown(where)} start with {prefix!r}, as "
                "torch.compile and data parallelism leave them; write them anew without it: "
                f"{renaming(where / f'{WEIGHTS}.safetensors', prefix)}"
            )
    words = "; ".join(f"{key}: {', '.join(map(shown, v[:3]))}" for key, v in wrong.items())
    raise ConfigError(
        f"the weights of {shown(where)} do not fit its config.json ({words}); diffusers would "
        "have filled in random numbers"
    )


def renaming(path: Path, prefix: str) -> str:
    r"""Returns the command that takes a prefix off every name in a file of safetensors."""
    return (
        'python -c "import os; from safetensors.torch import load_file, save_file; '
        f"p = '{shown(path)}'; save_file({{k.removeprefix('{prefix}'): v for k, v in "
        "load_file(p).items()}, p + '.new', {'format': 'pt'}); os.replace(p + '.new', p)\""
    )


# ---------------------------------------------------------------- what a configuration may say


def _refuse_large(config: Mapping[str, Any], path: Path) -> None:
    r"""Raises a `ConfigError` if a number of a configuration is beyond the limits."""

    def visit(name: str, value: Any) -> None:  # noqa: ANN401 (JSON)
        if isinstance(value, Mapping):
            for key, item in value.items():
                visit(str(key), item)
        elif isinstance(value, list):
            what = f"{shown(name)} in {shown(path)}"
            refuse_beyond("network layers", len(value) if name in SHAPES else 0, what)
            for item in value:
                visit(name, item)
        elif isinstance(value, int) and not isinstance(value, bool):
            bound = "network layers" if name in COUNTS else "network size"
            refuse_beyond(bound, value, f"{shown(name)} in {shown(path)}")

    visit("", config)
    side, patch = config.get("sample_size"), config.get("patch_size")
    if isinstance(side, int) and isinstance(patch, int) and patch > 0:
        positions = (side // patch) ** 2
        refuse_beyond("network positions", positions, f"the network of {shown(path)}")


# Lists of which each item is a block.
SHAPES = ("block_out_channels", "down_block_types", "up_block_types", "encoder_block_out_channels")


def _refuse_beyond_its_weights(
    cls: Any,  # noqa: ANN401 (a class of models)
    config: Mapping[str, Any],
    where: Path,
    library: str,
) -> Any:  # noqa: ANN401 (a model)
    r"""Returns a network without memory of a configuration.

    Raises:
        ConfigError: None can be made, or it has more numbers than the files of weights have bytes.
    """
    try:
        with torch.device("meta"):
            model = (
                cls.from_config(config)
                if library == "diffusers"
                else cls(cls.config_class.from_dict(dict(config)))
            )
    except MISFITS as error:
        raise ConfigError(
            f"{library} makes no {cls.__name__} of {shown(where / 'config.json')}: "
            f"{shown(str(error))}"
        ) from error
    assert isinstance(model, nn.Module)
    numbers = sum(p.numel() for p in model.parameters())
    held = sum(path.stat().st_size for path in where.glob("*.safetensors"))
    if numbers > held:
        raise ConfigError(
            f"{shown(where / 'config.json')} describes a network of {numbers:,} numbers, and the "
            f"weights beside it have {held:,} bytes: they are not its own"
        )
    return model


def checked_network(config: Mapping[str, Any], path: Path) -> tuple[int, int, int]:
    r"""Returns the shape of a network's samples: channels, height, width.

    Arguments:
        config: The network's configuration.
        path: Its file, for messages.

    Raises:
        ConfigError: It takes what is not known here, or does not say its shape.
    """
    for key, words in UNREAD.items():
        if config.get(key) is not None:
            raise ConfigError(f"{shown(path)}: {key} is {shown(config[key])}: {words}")
    into, out = config.get("in_channels"), config.get("out_channels")
    if not _is_size(into):
        raise ConfigError(f"{shown(path)}: in_channels must be a number, got {shown(into)}")
    if out is not None and out not in (into, 2 * into):
        raise ConfigError(
            f"{shown(path)}: the network takes {into} channels and gives {shown(out)}; read are "
            "those that give as many, or twice as many with a variance. Networks of inpainting, "
            "of depth and of upscaling take an image beside the noisy sample: give their "
            "text-to-image base"
        )
    if config.get("use_additional_conditions") or (
        "use_additional_conditions" in config
        and config["use_additional_conditions"] is None
        and config.get("sample_size") == 128
    ):
        raise ConfigError(
            f"{shown(path)}: use_additional_conditions: the resolution and the aspect ratio that "
            "PixArt of 1,024 pixels is told are not read; give a model of 256 or 512 pixels"
        )
    size = config.get("sample_size")
    sides = size if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(_is_size(side) for side in sides):
        raise ConfigError(
            f"{shown(path)}: sample_size must be the side of a sample, or its height and width, "
            f"got {shown(size)}; write into it what the network was trained with"
        )
    return into, sides[0], sides[1]


def _is_size(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


# Settings that are read if they are null alone.
UNREAD = {
    "addition_embed_type": "additional conditions, SDXL's sizes and pooled texts among them, are "
    "not read; give a teacher of Stable Diffusion 1 or 2, or your own function",
    "class_embed_type": "classes are read as the numbers of an embedding; give your own function",
    "encoder_hid_dim_type": "conditions that are embeddings of images are not read",
}


# ---------------------------------------------------------------- what stands around the denoiser


class Codec:
    r"""An autoencoder of diffusers, between images in [-1, 1] and the latents of a network.

    Both ways carry gradients, and are carried out where their argument is: the weights have a copy
    a device.

    Arguments:
        folder: The folder of the pipeline.
        parts: The classes of its components, by the names of their folders.

    Attributes:
        place: The name of the autoencoder's folder.

    Raises:
        ConfigError: The autoencoder's class is not known, or its settings describe none.
    """

    def __init__(self, folder: Path, parts: Mapping[str, str]) -> None:
        self.place = next(part for part in AUTOENCODERS if part in parts)
        self.name, self._folder = _known(parts, self.place, AUTOENCODER_CLASSES), folder
        where = folder / self.place
        variant_of(where, WEIGHTS, self.name)
        read = read_json(where / "config.json")
        _refuse_large(read, where / "config.json")
        cls = getattr(require("diffusers", "hub"), self.name)
        config = _refuse_beyond_its_weights(cls, read, where, "diffusers").config
        self.factor = config.get("scaling_factor")
        self.shift = config.get("shift_factor") or 0.0
        if not isinstance(self.factor, int | float) or not self.factor > 0:
            raise ConfigError(
                f"{shown(where / 'config.json')}: scaling_factor must be a number above zero, got "
                f"{shown(self.factor)}"
            )
        self._copies: dict[torch.device, Any] = {}

    def read(self) -> Any:  # noqa: ANN401 (a model)
        r"""Returns the autoencoder on the CPU, frozen, read now if it was not.

        Raises:
            ConfigError: It does not load.
        """
        return self._near(torch.device("cpu"))

    def release(self) -> None:
        r"""Lets go of the autoencoder, which is read again when it is asked for."""
        self._copies.clear()

    def about(self) -> dict[str, Any]:
        r"""Returns what is to be known of it without reading it, see `vardiu.problems.kept`."""
        return {
            "codec": self.name,
            "codec_place": self.place,
            "codec_scale": float(self.factor),
            "codec_shift": float(self.shift),
        }

    def _near(self, device: torch.device) -> Any:  # noqa: ANN401 (a model)
        if not self._copies:
            model = strictly(self.name, self._folder, self.place).requires_grad_(False)
            self._copies[model.device] = model
        if device not in self._copies:
            first = next(iter(self._copies.values()))
            self._copies[device] = copy.deepcopy(first).to(device)
        return self._copies[device]

    def decode(self, latents: Tensor) -> Tensor:
        r"""Returns the images of latents, with the latents' type."""
        model = self._near(latents.device)
        scaled = latents.to(model.dtype) / self.factor + self.shift
        return model.decode(scaled, return_dict=False)[0].to(latents.dtype)

    def encode(self, images: Tensor) -> Tensor:
        r"""Returns the latents of images: the mode, where the encoder gives a distribution."""
        model = self._near(images.device)
        coded = model.encode(images.to(model.dtype))
        coded = coded.latent_dist.mode() if hasattr(coded, "latent_dist") else coded.latents
        return (self.factor * (coded - self.shift)).to(images.dtype)


def _known(parts: Mapping[str, str], part: str, names: Sequence[str]) -> str:
    if parts[part] not in names:
        offer = nearest(parts[part][:80], names)
        raise ConfigError(f"{part} is a {shown(parts[part])}; {offer}")
    return parts[part]


def text_encoder(folder: Path, parts: Mapping[str, str]) -> Any:  # noqa: ANN401 (a model)
    r"""Returns the encoder of texts of a pipeline, frozen.

    Raises:
        ConfigError: Its class is not known, or it does not load.
    """
    name = _known(parts, "text_encoder", TEXTS)
    return strictly(name, folder, "text_encoder", TRANSFORMERS).requires_grad_(False)


def tokenizer(folder: Path, parts: Mapping[str, str]) -> Any:  # noqa: ANN401 (a tokenizer)
    r"""Returns the tokenizer of a pipeline.

    Raises:
        ConfigError: There is none of a known class, or it does not load.
    """
    if "tokenizer" not in parts:
        raise ConfigError(f"{shown(folder)} has a text_encoder, and no tokenizer for it")
    name, where = _known(parts, "tokenizer", TOKENIZERS), folder / "tokenizer"
    try:
        return getattr(require(TRANSFORMERS, "hub"), name).from_pretrained(
            str(where), local_files_only=True
        )
    except MISFITS as error:
        raise ConfigError(
            f"{shown(where)} does not load as a {name}: {shown(str(error))}"
        ) from error


@torch.no_grad()
def encoded(
    tokenizer: Any,  # noqa: ANN401
    encoder: Any,  # noqa: ANN401
    prompts: Sequence[str],
    masked: bool,
) -> dict[str, Tensor]:
    r"""Returns the hidden states of prompts, padded as the pipelines of diffusers pad them."""
    tokens = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=min(tokenizer.model_max_length, 120 if masked else 2**20),
        truncation=True,
        return_tensors="pt",
    )
    ids, mask = tokens.input_ids.to(encoder.device), tokens.attention_mask.to(encoder.device)
    if not masked:
        return {"text": encoder(ids)[0]}
    return {"text": encoder(ids, attention_mask=mask)[0], "mask": mask}
