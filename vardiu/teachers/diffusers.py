r"""Teachers of diffusers: folders and hub ids of pipelines, or of a network with its scheduler.

Only the components that are needed are read, each by a class of diffusers or transformers that the
tables below name, from safetensors, and with every key and shape accounted for. No code that comes
with a folder is run.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..denoisers.adapted import AdaptedDenoiser
from ..denoisers.base import Denoiser
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..denoisers.schedules import Flow, VarianceExploding, VariancePreserving
from ..errors import ConfigError, nearest, require
from ..nn.diffusers import CLASSES, DiffusersNetwork, Told
from .origin import Origin

__all__ = ["load", "matches"]


NETWORKS = ("unet", "transformer")


TEXTS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")


TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")


AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")


PREDICTED = {
    "epsilon": "epsilon",
    "v_prediction": "v",
    "sample": "sample",
    "flow_prediction": "flow",
}


PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "README.md"]


def matches(source: str) -> bool:
    r"""Whether a source is a folder of diffusers, or looks like an id of a hub."""
    folder = Path(source)
    if folder.is_dir():
        return (folder / "model_index.json").is_file() or _class(folder) in CLASSES
    return not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None


def _class(folder: Path) -> str:
    path = folder / "config.json"
    return json.loads(path.read_text()).get("_class_name", "") if path.is_file() else ""


def load(source: str, *, revision: str | None = None, prediction: str | None = None) -> Denoiser:
    r"""Returns the denoiser of a folder or a hub id, with its `origin`.

    Arguments:
        source: A folder that diffusers wrote, or an id such as `google/ddpm-cifar10-32`.
        revision: The revision of a hub id.
        prediction: What the network predicts, where its scheduler is known to say it wrong.

    Raises:
        ConfigError: A part is missing, of a class that is not known, or with weights that do not
            fit; the message names it.
    """
    folder = _folder(source, revision)
    index = folder / "model_index.json"
    parts = {"": _class(folder)}
    if index.is_file():
        parts = _parts(json.loads(index.read_text()), source)
    where = next((name for name in (*NETWORKS, "") if name in parts), None)
    if where is None or parts[where] not in CLASSES:
        found = ", ".join(sorted(filter(None, parts.values())))
        raise ConfigError(
            f"{source} has no network of a class that is known ({', '.join(CLASSES)}); it holds "
            f"{found}"
        )
    model = _strictly(parts[where], folder, where)
    network = DiffusersNetwork(parts[where], dict(model.config), model)
    settings = _scheduler(folder, source)
    size = model.config.sample_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    shape = (model.config.in_channels, height, width)
    denoiser = denoiser_of(network, settings, shape, prediction)
    origin = _origin(source, folder, parts, network, settings)
    denoiser.origin = origin
    return denoiser.eval()


def _folder(source: str, revision: str | None) -> Path:
    if Path(source).is_dir():
        return Path(source)
    hub = require("huggingface_hub", "hub")
    try:
        return Path(hub.snapshot_download(source, revision=revision, allow_patterns=PATTERNS))
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        raise ConfigError(
            f"{source} is no folder here, and cannot be had from the hub: {error}"
        ) from error


def _parts(index: Mapping[str, Any], source: str) -> dict[str, str]:
    r"""Returns the class of each component of a pipeline.

    Raises:
        ConfigError: A component, or the pipeline itself, is code that the folder brings along.
    """
    found = {}
    for name, value in index.items():
        if name == "_class_name" and not isinstance(value, str):
            raise ConfigError(f"{source} brings its own pipeline {value}: its code is not run")
        if name.startswith("_") or not isinstance(value, list) or value[:1] == [None]:
            continue
        library, cls = value
        if library not in ("diffusers", "transformers", "stable_diffusion"):
            raise ConfigError(
                f"{source}: component {name!r} is {cls} of {library!r}; only classes of diffusers "
                "and transformers are read, code from elsewhere is not run"
            )
        found[name] = cls
    return found


def _strictly(name: str, folder: Path, part: str) -> Any:  # noqa: ANN401 (a model)
    r"""Returns a model of diffusers with every weight loaded."""
    diffusers = require("diffusers", "hub")
    try:
        model, info = getattr(diffusers, name).from_pretrained(
            str(folder),
            subfolder=part or None,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the weights of {folder / part} do not load as a {name} from safetensors: {error}"
        ) from error
    wrong = {key: value for key, value in info.items() if value}
    if wrong:
        words = "; ".join(f"{key}: {', '.join(map(str, v[:3]))}" for key, v in wrong.items())
        raise ConfigError(
            f"the weights of {folder / part} do not fit its config.json ({words}); diffusers "
            "would have filled in random numbers"
        )
    return model.float().eval()


def _scheduler(folder: Path, source: str) -> dict[str, Any]:
    for path in (folder / "scheduler", folder, folder.parent / "scheduler"):
        if (path / "scheduler_config.json").is_file():
            return json.loads((path / "scheduler_config.json").read_text())
    raise ConfigError(
        f"{source} has no scheduler/scheduler_config.json: without it nobody knows what its times "
        "and its predictions mean"
    )


def denoiser_of(
    network: DiffusersNetwork,
    settings: Mapping[str, Any],
    shape: Sequence[int],
    prediction: str | None = None,
) -> Denoiser:
    r"""Returns the denoiser that a network and the configuration of its scheduler make.

    Raises:
        ConfigError: The scheduler, or its prediction, is of no known kind.
    """
    name = settings.get("_class_name", "none")
    scheduler_class = getattr(require("diffusers", "hub"), name, None)
    if scheduler_class is None:
        raise ConfigError(f"diffusers has no scheduler {name!r}")
    scheduler = scheduler_class.from_config(dict(settings))
    told = prediction or settings.get("prediction_type", "epsilon")
    adapted = functools.partial(
        AdaptedDenoiser, network, shape=shape, conditions=network.conditions
    )
    if name.startswith(("EDM", "CMStochastic")):
        return _edm(network, settings, told, shape)
    if name.startswith("FlowMatch"):
        scale = float(settings.get("num_train_timesteps", 1000))
        return adapted(Flow(scale), prediction=prediction or "flow")
    if name.startswith("ScoreSdeVe"):
        exploding = VarianceExploding(settings["sigma_min"], settings["sigma_max"])
        return adapted(exploding, prediction=prediction or "score")
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ConfigError(
            f"the times of {name} are not known; give a folder with a scheduler of DDPM's, EDM's, "
            "flow matching's or score-SDE's kind"
        )
    told = PREDICTED.get(told, told)
    if told == "flow":
        raise ConfigError(f"{name} with prediction_type 'flow_prediction' has no line to follow")
    return adapted(
        VariancePreserving.from_alphas_cumprod(scheduler.alphas_cumprod), prediction=told
    )


def _edm(
    network: DiffusersNetwork, settings: Mapping[str, Any], told: str, shape: Sequence[int]
) -> Denoiser:
    r"""EDM's preconditioning: diffusers' consistency schedulers tell a thousand times as much."""
    consistency = settings["_class_name"].startswith("CMStochastic")
    signs = {"epsilon": 1.0, "v_prediction": -1.0}
    if told not in signs:
        raise ConfigError(f"EDM's schedulers predict epsilon or v_prediction, got {told!r}")
    return PreconditionedDenoiser(
        Told(network, 1000.0 if consistency else 1.0, signs[told]),
        sigma_data=settings.get("sigma_data", 0.5),
        sigma_min=settings.get("sigma_min", 0.002),
        sigma_max=settings.get("sigma_max", 80.0),
        shape=shape,
        conditions=network.conditions,
    )


# ---------------------------------------------------------------- what stands around the denoiser


class Codec:
    r"""An autoencoder of diffusers, between images in [-1, 1] and the latents of a network.

    Both ways carry gradients, and are carried out where their argument is: the weights have a copy
    a device.

    Arguments:
        autoencoder: The autoencoder, frozen.
    """

    def __init__(self, autoencoder: Any) -> None:  # noqa: ANN401 (a model)
        config = autoencoder.config
        self.factor = config.scaling_factor
        self.shift = getattr(config, "shift_factor", None) or 0.0
        self._copies = {autoencoder.device: autoencoder}
        self._first = autoencoder

    def _near(self, x: Tensor) -> Any:  # noqa: ANN401 (a model)
        if x.device not in self._copies:
            self._copies[x.device] = copy.deepcopy(self._first).to(x.device)
        return self._copies[x.device]

    def decode(self, latents: Tensor) -> Tensor:
        r"""Returns the images of latents, with the latents' type."""
        model = self._near(latents)
        scaled = latents.to(model.dtype) / self.factor + self.shift
        return model.decode(scaled, return_dict=False)[0].to(latents.dtype)

    def encode(self, images: Tensor) -> Tensor:
        r"""Returns the latents of images: the mode, where the encoder gives a distribution."""
        model = self._near(images)
        coded = model.encode(images.to(model.dtype))
        coded = coded.latent_dist.mode() if hasattr(coded, "latent_dist") else coded.latents
        return (self.factor * (coded - self.shift)).to(images.dtype)


def _origin(
    source: str,
    folder: Path,
    parts: Mapping[str, str],
    network: DiffusersNetwork,
    settings: Mapping[str, Any],
) -> Origin:
    config = network.arguments["config"]
    classes = config.get("num_class_embeds") or config.get("num_embeds_ada_norm") or 0
    # A transformer's embedding has one more row than classes: none of them.
    null = classes if network.name == "DiTTransformer2DModel" else None
    around: dict[str, Any] = {"scheduler": dict(settings), "network": network.model}
    vae = _autoencoder(folder, parts)
    if vae is not None:
        around["vae"] = vae
    if "text_encoder" in parts:
        around["text_encoder"], around["tokenizer"] = _texts(folder, parts)
    codec = None if vae is None else Codec(vae)
    masked = "mask" in network.conditions

    def encode(prompts: Sequence[str]) -> dict[str, Tensor]:
        return _encode(around["tokenizer"], around["text_encoder"], prompts, masked)

    return Origin(
        source,
        "diffusers",
        licence=_licence(folder),
        classes=classes,
        null=null,
        encode=encode if "text_encoder" in around else None,
        decode=None if codec is None else codec.decode,
        compress=None if codec is None else codec.encode,
        parts=around,
        about={"network": network.name},
    )


def _known(parts: Mapping[str, str], part: str, names: Sequence[str]) -> str:
    if parts[part] not in names:
        raise ConfigError(f"{part} is a {parts[part]!r}; {nearest(parts[part], names)}")
    return parts[part]


def _autoencoder(folder: Path, parts: Mapping[str, str]) -> Any:  # noqa: ANN401
    for part in ("vae", "vqvae"):
        if part in parts:
            return _strictly(_known(parts, part, AUTOENCODERS), folder, part).requires_grad_(False)
    return None


def _texts(folder: Path, parts: Mapping[str, str]) -> tuple[Any, Any]:
    transformers = require("transformers", "hub")
    encoder_class = getattr(transformers, _known(parts, "text_encoder", TEXTS))
    tokenizer_class = getattr(transformers, _known(parts, "tokenizer", TOKENIZERS))
    encoder, info = encoder_class.from_pretrained(
        str(folder / "text_encoder"),
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    if info["missing_keys"]:
        raise ConfigError(
            f"the weights of {folder / 'text_encoder'} are not whole: "
            f"{', '.join(sorted(info['missing_keys'])[:3])} and others are missing"
        )
    tokenizer = tokenizer_class.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
    return encoder.eval().requires_grad_(False), tokenizer


@torch.no_grad()
def _encode(
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
    ids, mask = tokens.input_ids, tokens.attention_mask
    if not masked:
        return {"text": encoder(ids)[0]}
    return {"text": encoder(ids, attention_mask=mask)[0], "mask": mask}


def _licence(folder: Path) -> str | None:
    r"""Returns the licence that the front matter of a card states."""
    card = folder / "README.md"
    found = re.search(r"(?m)^license:\s*(\S+)", card.read_text()) if card.is_file() else None
    return None if found is None else found[1]
