r"""Students as pipelines of stock diffusers: those of one call, which is the pipelines' default
or their only step, and those of a few, see `vardiu.export.stepping`.

=============================  ===============================================================
student                        pipeline and scheduler
=============================  ===============================================================
`UNet2DModel`, epsilon, v      `ConsistencyModelPipeline`, whose default is one step, with
or sample                      `DDIMScheduler`: trailing, and no times beyond the student's own
`UNet2DModel`, flow            the same with `DPMSolverMultistepScheduler` of flow levels
`UNet2DModel`, EDM             the same with `CMStochasticIterativeScheduler`, `sigma_min` zero
`UNet2DModel` of latents       `LDMPipeline` with `DPMSolverMultistepScheduler`, no classes
any other                      the pipeline of its teacher's family, with
                               `DPMSolverMultistepScheduler`
`FluxTransformer2DModel`       the same with `FlowMatchEulerDiscreteScheduler`
=============================  ===============================================================

The pipelines in the last three rows take twenty to fifty steps unless told otherwise. The
scheduler of the first two is given a hundred times as many times as the student needs, of which
all but the student's own are beyond its clipping bound: however many steps are asked for, up to a
hundred, one is left. Of a flow the schedule of its levels has at the student's time the level that
its line has there: the mean of a flow asks for no more. Flux's pipeline names levels itself, so
that it is told them. The guidance of Stable Diffusion and SDXL is switched off by giving the
network the entry for a guidance embedding, with weights of zero: a network with that entry is
called once. The others are told `guidance_scale=1`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
from ..nn.diffusers_calls import packed, unpacked
from ..students.base import Generator
from ..students.few_step import FewStep, OneStep
from ..teachers.diffusers import padding
from ..teachers.diffusers_codecs import scale_of as scale_of_codec
from ..teachers.families import Family, family_of
from ..teachers.origin import Origin
from .onnx import classes_of
from .stepping import ELSEWHERE, PREDICTED, Stepping, betas, stepping, time_of, told_levels

__all__ = [
    "TOLERANCE",
    "call_of",
    "family_in",
    "loaded_with",
    "scale_of",
    "scheduler_of",
    "times_of",
    "to_diffusers",
]


# The largest difference between images of the pipeline and of the student, in [0, 1].
TOLERANCE = 1e-5


Student = OneStep | FewStep


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
    model = network.model.float().cpu().eval()
    family = family_in(network, origin)
    pipeline = _made(supported, model, {} if origin is None else origin.parts, family)
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    return _compare(supported, network, folder, family, origin)


def refuse_pipeline(student: Generator, origin: Origin | None) -> None:
    r"""Raises a `ConfigError` if stock diffusers cannot hold a student; nothing is copied."""
    supported, network = _supported(student)
    family, parts = family_in(network, origin), {} if origin is None else origin.parts
    if family.pipeline:
        _components(supported, parts, family)
    else:
        _pixels(supported, network.model, parts)


def times_of(student: Generator) -> list[Any]:
    r"""Returns what the call of a few-step student's pipeline must be given as `timesteps`, or of
    flows as `sigmas`; of any other student nothing."""
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
    return student, network


def family_in(network: DiffusersNetwork, origin: Origin | None) -> Family:
    r"""Returns the family of the teacher's pipeline, or else that of the network's class."""
    name = "" if origin is None else origin.about.get("pipeline", "")
    return family_of(name, network.name, network.arguments["config"])


def _refuse_steps(student: Student, cls: Any) -> None:  # noqa: ANN401 (a class)
    r"""Raises a `ConfigError` for students whose steps or sides a stock pipeline does not know."""
    told = set(inspect.signature(cls.__call__).parameters)
    if isinstance(student, FewStep) and stepping(student).word not in told:
        raise ConfigError(
            f"stock diffusers' {cls.__name__} takes no list of times, and the student makes "
            f"{student.calls} calls at times of its own: {ELSEWHERE}"
        )
    height, width = student.denoiser.shape[-2:]
    if height != width and "width" not in told:
        raise ConfigError(
            f"stock diffusers' {cls.__name__} makes square images, and the student's are {height} "
            f"by {width}: {ELSEWHERE}"
        )


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
    if isinstance(denoiser, Steerable):
        denoiser = denoiser.denoiser
    known, prediction = _times(student, denoiser)
    steps = len(known)
    made = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=STEPS * steps, trained_betas=known + [BEYOND] * ((STEPS - 1) * steps)
    )
    bound = made.lambda_t[steps - 1 : steps + 1].mean().item()
    return diffusers.DPMSolverMultistepScheduler.from_config(
        made.config,
        lambda_min_clipped=bound,
        prediction_type=prediction,
        timestep_spacing="trailing",
        solver_order=1,
        final_sigmas_type="zero",
    )


def _times(student: OneStep, denoiser: Denoiser) -> tuple[list[float], str]:
    r"""Returns the betas of the times up to the student's own, and what diffusers calls the
    prediction."""
    coordinates = denoiser.coordinates if isinstance(denoiser, AdaptedDenoiser) else None
    assert denoiser is not None
    if isinstance(denoiser, AdaptedDenoiser) and isinstance(coordinates, Flow):
        time, _, s = coordinates.time_and_scales(student.sigma)
        if denoiser.prediction == "flow":
            steps = time_of(student.sigma, coordinates) + 1
            # The scheduler's sample is the input less sigma times the velocity, as on the line.
            levels = VariancePreserving([s * (i + 1) / steps for i in range(steps)])
            return betas(levels, steps), "flow_prediction"
        raise ConfigError(
            "pipelines of flows take a velocity toward noise: "
            f"got time {time:g} and prediction {denoiser.prediction!r}: {ELSEWHERE}"
        )
    if not (
        isinstance(denoiser, AdaptedDenoiser)
        and isinstance(coordinates, VariancePreserving)
        and math.isfinite(student.sigma)
    ):
        raise ConfigError(
            "this pipeline's scheduler needs a student of a discrete, variance-preserving "
            "schedule or of a flow, asked at a finite level: distil with --sigma of the last but "
            "one time"
        )
    steps = time_of(student.sigma, coordinates) + 1
    return betas(coordinates, steps), PREDICTED[denoiser.prediction]


def scheduler_of(student: Student, family: Family) -> Any:  # noqa: ANN401
    r"""Returns the scheduler with which a pipeline of a family makes a student's steps.

    Raises:
        ConfigError: Stock diffusers has none; the message says why.
    """
    return _levels(student).scheduler if family.pipeline in NAMING else _clipped(student)


def _levels(student: Student) -> Stepping:
    r"""Returns the levels of a student as those of one of a few steps, of a flow."""
    if isinstance(student, FewStep):
        return stepping(student)
    return stepping(FewStep(student.denoiser, [student.sigma], "ddim"))


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
        _refuse_steps(student, diffusers.LDMPipeline)
        return diffusers.LDMPipeline(parts["vae"], model, _clipped(student))
    scheduler = _single(student, student.denoiser)
    cls = diffusers.ConsistencyModelPipeline
    _refuse_steps(student, cls)
    return cls(unet=model, scheduler=scheduler)


# What constructors of pipelines are told beside their components.
CONSTRUCTED: Mapping[str, Mapping[str, Any]] = {
    "StableDiffusionPipeline": {"safety_checker": None, "requires_safety_checker": False},
    "StableDiffusionXLPipeline": {"add_watermarker": False},
}


# Pipelines that name the levels of a flow themselves unless they are told them.
NAMING = ("FluxPipeline",)


# Pipelines that call a network with the entry of a guidance embedding once.
ONCE = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")


def _made(
    student: Student,
    model: Any,  # noqa: ANN401
    parts: Mapping[str, Any],
    family: Family,
) -> Any:  # noqa: ANN401
    r"""Returns the stock pipeline of a student."""
    if not family.pipeline:
        return _pixels(student, model, parts)
    cls, given = _components(student, parts, family)
    known = inspect.signature(cls.__init__).parameters
    given["unet" if "unet" in known else "transformer"] = (
        _once(model) if family.pipeline in ONCE else model
    )
    return cls(**{**given, **CONSTRUCTED.get(family.pipeline, {})})


def _components(
    student: Student, parts: Mapping[str, Any], family: Family
) -> tuple[Any, dict[str, Any]]:
    r"""Returns the class of a stock pipeline of texts, and all that it is made of but the
    network."""
    cls = getattr(require("diffusers", "hub"), family.pipeline)
    _refuse_steps(student, cls)
    known = inspect.signature(cls.__init__).parameters
    given: dict[str, Any] = {
        name: None
        for name, value in known.items()
        if value.default is inspect.Parameter.empty and name not in ("self", "args", "kwargs")
    }
    optional = {n for e in family.encoders if e.optional for n in (e.part, e.tokenizer)}
    for name in ("vae", *family.parts):
        given[name] = None if name in optional and name not in parts else _of(parts, name)
    given["scheduler"] = scheduler_of(student, family)
    return cls, given


def _of(parts: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401
    if name not in parts:
        raise ConfigError(f"the pipeline needs a {name}, and the teacher came without one")
    return parts[name]


def _once(model: Any) -> Any:  # noqa: ANN401
    r"""Returns the network with the entry of a guidance embedding, of zero weight."""
    if model.config.time_cond_proj_dim is not None:
        return model
    return with_entry(model, 8).eval()


# ---------------------------------------------------------------- comparison


PROMPTS = ("", "a picture")


def call_of(student: Generator, origin: Origin | None) -> dict[str, Any]:
    r"""Returns what the call of a student's pipeline must be told, beside prompts or classes: its
    times, its guidance, and its size where that is not the pipeline's own."""
    network = next((m for m in student.modules() if isinstance(m, DiffusersNetwork)), None)
    if network is None:
        return {}
    family = family_in(network, origin)
    given: dict[str, Any] = dict(family.call)
    if (scale := scale_of(student)) is not None:
        given["guidance_scale"] = scale
    if isinstance(student, FewStep):
        steps = stepping(student)
        # Of a student of one call the pipelines' own number of steps is to be looked at.
        given[steps.word] = steps.times
        if not family.pipeline:
            given["num_inference_steps"] = None
    elif family.pipeline in NAMING and isinstance(student, OneStep):
        given["sigmas"] = _levels(student).times
    vae = None if origin is None or not family.pipeline else origin.parts.get("vae")
    if vae is not None:
        given |= _sides(student, network, family, vae.config)
    return given


def _sides(
    student: Generator, network: DiffusersNetwork, family: Family, codec: Mapping[str, Any]
) -> dict[str, int]:
    r"""Returns height, width and frames that a pipeline must be told."""
    cls = getattr(require("diffusers", "hub"), family.pipeline)
    known = inspect.signature(cls.__call__).parameters
    config, shape = network.arguments["config"], tuple(student.shape)
    factor = scale_of_codec(codec)
    found = {"height": factor * shape[-2], "width": factor * shape[-1]}
    if len(shape) == 4:
        ratio = codec.get("temporal_compression_ratio", codec.get("scale_factor_temporal", 4))
        frames = shape[1] - padding(config, shape)
        found["num_frames"] = (frames - 1) * ratio + 1
    stated = family.sizes(config)
    same = isinstance(stated, tuple | list) and tuple(stated) == shape[1:]
    return {
        name: value
        for name, value in found.items()
        if name in known
        and known[name].default != value
        and not (known[name].default is None and same)
    }


def _latents(student: Student, n: int, pack: Pack) -> tuple[Tensor, torch.Generator]:
    r"""Returns latents as a pipeline draws them, a call's after another, and a generator that is
    left where it draws those of the second call."""
    random = torch.Generator().manual_seed(0)

    def drawn() -> Tensor:
        return pack.back(
            torch.randn(pack.there(torch.empty(n, *student.shape)).shape, generator=random)
        )

    first = drawn()
    state = random.get_state()
    if tuple(student.latent_shape) == tuple(student.shape):
        return first, random
    later = [drawn() for _ in range(student.calls - 1)]
    return torch.stack([first, *later], 1), random.set_state(state)


class Pack(NamedTuple):
    r"""How a pipeline holds latents: to its own shape, and back."""

    there: Callable[[Tensor], Tensor] = lambda x: x
    back: Callable[[Tensor], Tensor] = lambda x: x


# Pipelines that hold latents in another shape, by the shape of a sample.
PACKS: Mapping[str, Callable[[tuple[int, ...]], Pack]] = {
    "FluxPipeline": lambda shape: Pack(
        packed, lambda x: unpacked(x, shape[-2] // 2, shape[-1] // 2)
    ),
    "CogVideoXPipeline": lambda shape: Pack(*[lambda x: x.transpose(1, 2)] * 2),
}


# Pipelines that draw latents themselves and take none, or only those of three channels.
DRAWING = ("", "DiTPipeline")


@torch.no_grad()
def _compare(
    student: Student,
    network: DiffusersNetwork,
    folder: Path,
    family: Family,
    origin: Origin | None,
) -> float:
    r"""Returns the largest difference of images of the same latents, in [0, 1]."""
    diffusers = require("diffusers", "hub")
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        str(folder), local_files_only=True, **loaded_with(student, origin)
    )
    pipeline.set_progress_bar_config(disable=True)
    n = len(PROMPTS)
    pack = PACKS.get(family.pipeline, lambda shape: Pack())(tuple(student.shape))
    z, generator = _latents(student, n, pack)
    first = z if tuple(z.shape[1:]) == tuple(student.shape) else z[:, 0]
    given = {**call_of(student, origin), "latents": pack.there(first), "generator": generator}
    cond: dict[str, Tensor] = {}
    if "text" in student.conditions:
        assert origin is not None and origin.encode is not None
        cond = origin.encode(PROMPTS)
        given["prompt"] = list(PROMPTS)
    elif student.conditions:
        label = torch.arange(n) % classes_of(student, origin)
        cond = {"label": label}
        given["class_labels"] = label.tolist() if family.pipeline else label
    if family.pipeline in DRAWING:
        del given["latents"]
        given["generator"] = torch.Generator().manual_seed(0)
    if not family.pipeline:
        given["batch_size"] = n
    with torch.random.fork_rng(devices=[]):
        # Some pipelines do not hand their generator to the scheduler, which then asks torch's own.
        torch.set_rng_state(generator.get_state())
        output = pipeline(output_type="np", **given)
    expected = student.eval()(z, **cond)
    if origin is not None and origin.decode is not None:
        expected = origin.decode(expected)
    expected = (expected / 2 + 0.5).clamp(0, 1)
    if len(student.shape) == 4:
        images = torch.as_tensor(output.frames).permute(0, 4, 1, 2, 3)
    else:
        images = torch.from_numpy(output.images).permute(0, 3, 1, 2)
    return float((images - expected).abs().max())


def loaded_with(student: Generator, origin: Origin | None) -> dict[str, Any]:
    r"""Returns what loading a student's pipeline must be told: components that there are none of,
    and no watermark, which would change images."""
    network = next((m for m in student.modules() if isinstance(m, DiffusersNetwork)), None)
    if network is None or origin is None:
        return {}
    family = family_in(network, origin)
    optional = [e for e in family.encoders if e.optional and e.part not in origin.parts]
    found: dict[str, Any] = {name: None for e in optional for name in (e.part, e.tokenizer)}
    settings = CONSTRUCTED.get(family.pipeline, {})
    return found | {name: settings[name] for name in settings if name == "add_watermarker"}
