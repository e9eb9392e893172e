r"""Students as pipelines of stock diffusers: those of one call, which is the pipelines' default
or their only step, and those of a few, see `vardiu.export.stepping`.

============================  ================================================================
student                       pipeline and scheduler
============================  ================================================================
`UNet2DModel`, epsilon, v     `ConsistencyModelPipeline`, whose default is one step, with
or sample                     `DDIMScheduler`: trailing, and no times beyond the student's own
`UNet2DModel`, flow           the same with `DPMSolverMultistepScheduler` of flow levels
`UNet2DModel`, EDM            the same with `CMStochasticIterativeScheduler`, `sigma_min` zero
`UNet2DModel` of latents      `LDMPipeline` with `DPMSolverMultistepScheduler`, no classes
`UNet2DConditionModel`        `StableDiffusionPipeline` with `DPMSolverMultistepScheduler`
`DiTTransformer2DModel`       `DiTPipeline` with the same; call it with `guidance_scale=1`
`PixArtTransformer2DModel`    `PixArtAlphaPipeline` with the same and `guidance_scale=1`
============================  ================================================================

The pipelines in the last four rows take fifty steps unless told otherwise. Their scheduler is
given a hundred times as many times as the student needs, of which all but the student's own are
beyond its clipping bound: however many steps are asked for, up to a hundred, one is left. Stable
Diffusion's guidance is switched off by giving the network the entry for a guidance embedding, with
weights of zero: a network with that entry is called once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..denoisers.adapted import AdaptedDenoiser
from ..denoisers.base import Denoiser
from ..denoisers.consistency import ConsistencyDenoiser
from ..denoisers.guidance import Steerable
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..denoisers.schedules import Flow, VariancePreserving
from ..errors import ConfigError, require
from ..nn.diffusers import DiffusersNetwork, with_entry
from ..students.base import Generator
from ..students.few_step import FewStep, OneStep
from ..teachers.origin import Origin
from .stepping import ELSEWHERE, PREDICTED, betas, stepping, time_of, told_levels

__all__ = ["TOLERANCE", "scale_of", "times_of", "to_diffusers"]


# The largest difference between images of the pipeline and of the student, in [0, 1].
TOLERANCE = 1e-5


Student = OneStep | FewStep


# Networks whose pipelines take a list of times.
TIMED = ("UNet2DModel", "UNet2DConditionModel", "PixArtTransformer2DModel")


# How many steps may be asked for before a second one is taken.
STEPS = 100


# The betas of times that are never visited; only that the level grows matters.
BEYOND = 1e-3


def to_diffusers(student: Generator, folder: Path, origin: Origin | None = None) -> float:
    r"""Writes a pipeline, loads it again as a user would, and compares its images.

    Arguments:
        student: A student of one call or a few on a network of diffusers.
        folder: Where to write; it must not exist.
        origin: What stood around the teacher: the decoder and the encoder of texts.

    Returns:
        The largest difference of its images from the student's own.

    Raises:
        ConfigError: Stock diffusers cannot hold this student; the message says why.
    """
    supported, network = _supported(student)
    name, model = network.name, network.model.float().cpu().eval()
    pipeline = PIPELINES[name](supported, model, {} if origin is None else origin.parts)
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    return _compare(student, folder, name, origin)


def times_of(student: Generator) -> list[int]:
    r"""Returns what the call of a few-step student's pipeline must be given as `timesteps`; of
    any other student nothing."""
    return stepping(student).times if isinstance(student, FewStep) else []


def scale_of(student: Generator) -> float | None:
    r"""Returns the scale of guidance of a student whose network is told one; of any other none."""
    found = next((m for m in student.modules() if isinstance(m, Steerable)), None)
    return None if found is None else found.scale


def _supported(student: Generator) -> tuple[Student, DiffusersNetwork]:
    elsewhere = "export it --to onnx or --to safetensors"
    network = next((m for m in student.modules() if isinstance(m, DiffusersNetwork)), None)
    if network is None:
        raise ConfigError(
            f"a {type(student).__name__} on a network that is not of diffusers has no pipeline "
            f"there: {elsewhere}"
        )
    if not isinstance(student, OneStep | FewStep):
        raise ConfigError(
            f"stock diffusers draws a standard normal latent and asks its network: it has no "
            f"pipeline for what a {type(student).__name__} does before or after; {elsewhere}"
        )
    if isinstance(student.denoiser, ConsistencyDenoiser):
        raise ConfigError(
            "the student is a consistency function about its denoiser, and diffusers' consistency "
            f"scheduler makes its own about EDM networks alone: {elsewhere}"
        )
    if network.name not in PIPELINES:
        raise ConfigError(f"there is no pipeline for {network.name} yet: {elsewhere}")
    if isinstance(student, FewStep) and network.name not in TIMED:
        raise ConfigError(
            f"stock diffusers' pipeline of a {network.name} takes no list of times, and the "
            f"student makes {student.calls} calls at times of its own: {elsewhere}"
        )
    height, width = student.denoiser.shape[-2:]
    if height != width and network.name != "UNet2DConditionModel":
        raise ConfigError(
            f"stock diffusers' pipelines of a {network.name} make square images, and the "
            f"student's are {height} by {width}: {elsewhere}"
        )
    return student, network


# ---------------------------------------------------------------- schedulers


def _trailing(student: OneStep, denoiser: AdaptedDenoiser) -> Any:  # noqa: ANN401
    r"""A scheduler whose single step is the student's."""
    diffusers = require("diffusers", "hub")
    coordinates = denoiser.coordinates
    if isinstance(coordinates, Flow):
        return _flow(student, denoiser, coordinates)
    if not isinstance(coordinates, VariancePreserving):
        raise ConfigError(
            f"diffusers has no one-step scheduler of {type(coordinates).__name__} levels: export "
            "it --to onnx or --to safetensors"
        )
    steps = time_of(student.sigma, coordinates) + 1
    return diffusers.DDIMScheduler(
        num_train_timesteps=steps,
        trained_betas=betas(coordinates, steps),
        prediction_type=PREDICTED[denoiser.prediction],
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def _flow(student: OneStep, denoiser: AdaptedDenoiser, coordinates: Flow) -> Any:  # noqa: ANN401
    time, _, _ = coordinates.time_and_scales(student.sigma)
    times = int(coordinates.scale)
    if denoiser.prediction != "flow" or round(time) != times - 1:
        raise ConfigError(
            "pipelines of flows step from the last time but one, with a velocity toward noise: "
            f"got time {time:g} of {times} and prediction {denoiser.prediction!r}"
        )
    diffusers = require("diffusers", "hub")
    return diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=times,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        solver_order=1,
        final_sigmas_type="zero",
    )


def _clipped(student: Student) -> Any:  # noqa: ANN401
    r"""A scheduler that takes one step whatever number is asked for, up to `STEPS`; of a few-step
    student that of its own steps."""
    if isinstance(student, FewStep):
        return stepping(student).scheduler
    diffusers = require("diffusers", "hub")
    denoiser = student.denoiser
    coordinates = denoiser.coordinates if isinstance(denoiser, AdaptedDenoiser) else None
    if not (
        isinstance(denoiser, AdaptedDenoiser)
        and isinstance(coordinates, VariancePreserving)
        and math.isfinite(student.sigma)
    ):
        raise ConfigError(
            "this pipeline's scheduler needs a student of a discrete, variance-preserving "
            "schedule, asked at a finite level: distil with --sigma of the last but one time"
        )
    steps = time_of(student.sigma, coordinates) + 1
    known = betas(coordinates, steps)
    made = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=STEPS * steps, trained_betas=known + [BEYOND] * ((STEPS - 1) * steps)
    )
    bound = made.lambda_t[steps - 1 : steps + 1].mean().item()
    return diffusers.DPMSolverMultistepScheduler.from_config(
        made.config,
        lambda_min_clipped=bound,
        prediction_type=PREDICTED[denoiser.prediction],
        timestep_spacing="trailing",
        solver_order=1,
        final_sigmas_type="zero",
    )


def _consistency(student: OneStep, denoiser: PreconditionedDenoiser) -> Any:  # noqa: ANN401
    told_levels(denoiser)
    diffusers = require("diffusers", "hub")
    return diffusers.CMStochasticIterativeScheduler(
        sigma_min=0.0,
        sigma_max=student.sigma,
        sigma_data=denoiser.sigma_data,
        clip_denoised=False,
    )


# ---------------------------------------------------------------- pipelines


def _single(student: Student, denoiser: Denoiser) -> Any:  # noqa: ANN401
    if isinstance(student, FewStep):
        return stepping(student).scheduler
    if isinstance(denoiser, AdaptedDenoiser):
        return _trailing(student, denoiser)
    if isinstance(denoiser, PreconditionedDenoiser):
        return _consistency(student, denoiser)
    raise ConfigError(
        f"diffusers has no one-step scheduler of a {type(denoiser).__name__}: export it --to onnx "
        "or --to safetensors"
    )


def _pixels(student: Student, model: Any, parts: Mapping[str, Any]) -> Any:  # noqa: ANN401
    diffusers = require("diffusers", "hub")
    if "vae" in parts:
        if isinstance(student, FewStep):
            raise ConfigError(f"stock diffusers' LDMPipeline takes no list of times: {ELSEWHERE}")
        if student.conditions:
            raise ConfigError(
                "stock diffusers' LDMPipeline tells its network no class: export it --to onnx or "
                "--to safetensors"
            )
        return diffusers.LDMPipeline(parts["vae"], model, _clipped(student))
    scheduler = _single(student, student.denoiser)
    return diffusers.ConsistencyModelPipeline(unet=model, scheduler=scheduler)


def _stable(student: Student, model: Any, parts: Mapping[str, Any]) -> Any:  # noqa: ANN401
    diffusers = require("diffusers", "hub")
    return diffusers.StableDiffusionPipeline(
        vae=_of(parts, "vae"),
        text_encoder=_of(parts, "text_encoder"),
        tokenizer=_of(parts, "tokenizer"),
        unet=_once(model),
        scheduler=_clipped(student),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _of(parts: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401
    if name not in parts:
        raise ConfigError(f"the pipeline needs a {name}, and the teacher came without one")
    return parts[name]


def _once(model: Any) -> Any:  # noqa: ANN401
    r"""Returns the network with the entry of a guidance embedding, of zero weight."""
    if model.config.time_cond_proj_dim is not None:
        return model
    return with_entry(model, 8).eval()


def _dit(student: Student, model: Any, parts: Mapping[str, Any]) -> Any:  # noqa: ANN401
    diffusers = require("diffusers", "hub")
    scheduler = _clipped(student)
    return diffusers.DiTPipeline(transformer=model, vae=_of(parts, "vae"), scheduler=scheduler)


def _pixart(student: Student, model: Any, parts: Mapping[str, Any]) -> Any:  # noqa: ANN401
    diffusers = require("diffusers", "hub")
    return diffusers.PixArtAlphaPipeline(
        transformer=model,
        vae=_of(parts, "vae"),
        text_encoder=_of(parts, "text_encoder"),
        tokenizer=_of(parts, "tokenizer"),
        scheduler=_clipped(student),
    )


PIPELINES: Mapping[str, Callable[[Student, Any, Mapping[str, Any]], Any]] = {
    "UNet2DModel": _pixels,
    "UNet2DConditionModel": _stable,
    "DiTTransformer2DModel": _dit,
    "PixArtTransformer2DModel": _pixart,
}


# ---------------------------------------------------------------- comparison


# How the pipelines are called with given latents, for the comparison and for the card.
CALLS: Mapping[str, dict[str, Any]] = {
    "DiTTransformer2DModel": {"guidance_scale": 1.0},
    "PixArtTransformer2DModel": {"guidance_scale": 1.0, "use_resolution_binning": False},
}


PROMPTS = ("", "a picture")


def _latents(student: Generator, n: int) -> tuple[Tensor, torch.Generator]:
    r"""Returns latents as a pipeline draws them, a call's after another, and a generator that is
    left where it draws those of the second call."""
    random = torch.Generator().manual_seed(0)
    first = torch.randn(n, *student.shape, generator=random)
    state = random.get_state()
    if tuple(student.latent_shape) == tuple(student.shape):
        return first, random
    later = [torch.randn(n, *student.shape, generator=random) for _ in range(student.calls - 1)]
    return torch.stack([first, *later], 1), random.set_state(state)


@torch.no_grad()
def _compare(student: Generator, folder: Path, name: str, origin: Origin | None) -> float:
    r"""Returns the largest difference of images of the same latents, in [0, 1]."""
    diffusers = require("diffusers", "hub")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    n = len(PROMPTS)
    z, generator = _latents(student, n)
    first = z if tuple(z.shape[1:]) == tuple(student.shape) else z[:, 0]
    given: dict[str, Any] = {"latents": first, "generator": generator, **CALLS.get(name, {})}
    if (scale := scale_of(student)) is not None:
        given["guidance_scale"] = scale
    if times := times_of(student):
        # Of a student of one call the pipelines' own number of steps is to be looked at.
        given["timesteps"] = times
    cond: dict[str, Tensor] = {}
    if "text" in student.conditions:
        assert origin is not None and origin.encode is not None
        cond = origin.encode(PROMPTS)
        given["prompt"] = list(PROMPTS)
    elif student.conditions:
        cond = {"label": torch.arange(n)}
        given["class_labels"] = [0, 1] if name.startswith("DiT") else torch.arange(n)
    if name in ("DiTTransformer2DModel", "UNet2DModel"):
        # They take no latents, or only those of three channels, but draw them as is done here.
        del given["latents"]
        given["generator"] = torch.Generator().manual_seed(0)
    if name == "UNet2DModel":
        given["batch_size"] = n
        given |= {"num_inference_steps": None} if times else {}
    images = torch.from_numpy(pipeline(output_type="np", **given).images).permute(0, 3, 1, 2)
    expected = student.eval()(z, **cond)
    if origin is not None and origin.decode is not None:
        expected = origin.decode(expected)
    expected = (expected / 2 + 0.5).clamp(0, 1)
    return float((images - expected).abs().max())
