r"""Prompts to conditions, by the encoders of a pipeline and as its stock class makes them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, require, shown
from .diffusers_models import MISFITS, TRANSFORMERS, known, strictly
from .families import Encoder, Family

__all__ = ["Texts", "texts"]


TOKENIZERS = (
    *("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast"),
    *("GemmaTokenizer", "GemmaTokenizerFast"),
)


def texts(
    folder: Path, parts: Mapping[str, str], index: Mapping[str, Any], family: Family
) -> dict[str, Callable[[], Any]]:
    r"""Returns what reads the encoders of texts of a pipeline, frozen, and their tokenizers, by
    the names of their components; nothing of a network alone.

    Arguments:
        folder: The folder of the pipeline.
        parts: The classes of its components.
        index: What `model_index.json` holds.
        family: Its family.

    Raises:
        ConfigError: One is missing, or its class is not known; where one is read, it does not
            load.
    """
    refuse_refiner(folder, parts, index, family)
    if not index:
        return {}
    found: dict[str, Callable[[], Any]] = {}
    for row in family.encoders:
        if row.part not in parts and row.optional:
            continue
        for name in (row.part, row.tokenizer):
            if name not in parts:
                raise ConfigError(
                    f"{shown(folder / 'model_index.json')} has no {name}, which a "
                    f"{family.pipeline} makes its conditions with: give the folder of the whole "
                    "pipeline, as save_pretrained of diffusers writes it"
                )
        cls = known(folder, parts, row.part, row.classes)
        known(folder, parts, row.tokenizer, TOKENIZERS)
        found[row.part] = functools.partial(_encoder, cls, folder, row.part)
        found[row.tokenizer] = functools.partial(_tokenizer, folder, parts, row.tokenizer)
    return found


def refuse_refiner(
    folder: Path, parts: Mapping[str, str], index: Mapping[str, Any], family: Family
) -> None:
    r"""Raises a `ConfigError` for SDXL's refiner, which has the base's class."""
    sized = family.told_sizes is not None and family.blank_negative
    lone = "text_encoder_2" in parts and "text_encoder" not in parts
    if sized and (index.get("requires_aesthetics_score") or lone):
        raise ConfigError(
            f"{shown(folder)} is the refiner of SDXL, which ends the samples of another network "
            "and starts none: give the base, stabilityai/stable-diffusion-xl-base-1.0 for one"
        )


def _encoder(name: str, folder: Path, part: str) -> Any:  # noqa: ANN401 (a model)
    return strictly(name, folder, part, TRANSFORMERS).requires_grad_(False)


def _tokenizer(folder: Path, parts: Mapping[str, str], part: str) -> Any:  # noqa: ANN401
    name, where = known(folder, parts, part, TOKENIZERS), folder / part
    try:
        return getattr(require(TRANSFORMERS, "hub"), name).from_pretrained(
            str(where), local_files_only=True
        )
    except MISFITS as error:
        raise ConfigError(
            f"{shown(where)} does not load as a {name}: {shown(str(error))}"
        ) from error


class Texts:
    r"""What a pipeline tells its network of prompts.

    Arguments:
        family: The family.
        parts: Its encoders and their tokenizers, by the names of their components.
        wanted: The names of the conditions that the network takes.
        sizes: The values of the condition `sizes`; empty without.
        width: The width of states of an encoder that is not there.
        blank_negative: Whether an empty negative prompt is zeros.
    """

    def __init__(
        self,
        family: Family,
        parts: Mapping[str, Any],
        wanted: Sequence[str],
        *,
        sizes: Sequence[int] = (),
        width: int = 0,
        blank_negative: bool = False,
    ) -> None:
        self.family, self.parts, self.wanted = family, parts, tuple(wanted)
        self.sizes, self.width = tuple(sizes), width
        self.blank_negative = blank_negative
        stock = getattr(require("diffusers", "hub"), family.pipeline, None)
        self.instruction = _instruction(stock) if family.instructed else ""

    def __call__(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        r"""Returns the conditions of prompts, each with a row a prompt."""
        return self._encoded(prompts, self.instruction)

    def against(self, negative: str) -> dict[str, Tensor]:
        r"""Returns the conditions of one row that guidance leads away from."""
        found = self._encoded([negative], "")
        if negative or not self.blank_negative:
            return found
        return {n: v if n == "sizes" else torch.zeros_like(v) for n, v in found.items()}

    @torch.no_grad()
    def _encoded(self, prompts: Sequence[str], instruction: str) -> dict[str, Tensor]:
        if self.family.lowered:
            prompts = [prompt.lower().strip() for prompt in prompts]
        blocks: list[Tensor] = []
        found: dict[str, Tensor] = {}
        pooled = []
        for row in self.family.encoders:
            states, mask, vector = self._of(row, prompts, instruction)
            pooled += [] if vector is None else [vector]
            if states is not None and row.beside:
                blocks[-1] = torch.cat([blocks[-1], states], dim=-1)
            elif states is not None:
                blocks.append(states)
            found["mask"] = mask
        widest = max(block.shape[-1] for block in blocks)
        padded = [nn.functional.pad(block, (0, widest - block.shape[-1])) for block in blocks]
        found["text"] = torch.cat(padded, dim=1)
        if pooled:
            found["pooled"] = torch.cat(pooled, dim=-1)
        if "sizes" in self.wanted:
            found["sizes"] = torch.tensor([self.sizes] * len(prompts), dtype=torch.float32)
        return {name: found[name] for name in self.wanted if name in found}

    def _of(
        self, row: Encoder, prompts: Sequence[str], instruction: str
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        r"""Returns states, mask and vector that one encoder gives."""
        if row.part not in self.parts:  # which reads none
            assert row.length is not None
            # Where the others are: an encoding may have been brought to another device.
            beside = self.parts[self.family.encoders[0].part].device
            absent = torch.zeros(len(prompts), row.length, self.width, device=beside)
            return absent, absent[..., 0].long(), None
        model, tokenizer = self.parts[row.part], self.parts[row.tokenizer]
        tokenizer.padding_side = "right"
        length = row.length or min(tokenizer.model_max_length, 2**20)
        before = len(tokenizer.encode(instruction)) - 2 if instruction else 0
        tokens = tokenizer(
            [instruction + prompt for prompt in prompts],
            padding="max_length",
            max_length=length + before,
            truncation=True,
            return_tensors="pt",
        )
        mask = tokens.attention_mask.to(model.device)
        options = {"attention_mask": mask} if row.masked else {}
        output = model(
            tokens.input_ids.to(model.device), output_hidden_states=row.states == -2, **options
        )
        states = None
        if row.states == -1:
            states = output.last_hidden_state
        elif row.states is not None:
            states = output.hidden_states[row.states]
        if states is not None and before:
            # The first token, and the last ones: those of the prompt.
            places = [0, *range(-length + 1, 0)]
            states, mask = states[:, places], mask[:, places]
        if states is not None and row.blank:
            states = states * mask[..., None]
        return states, mask, getattr(output, row.pooled) if row.pooled else None


def _instruction(stock: Any) -> str:  # noqa: ANN401 (a class of pipelines)
    r"""Returns what a stock pipeline writes before prompts unless told otherwise."""
    default = inspect.signature(stock.__call__).parameters["complex_human_instruction"].default
    return "\n".join(default)
