r"""Schedulers of stock diffusers that step as a few-step student does.

================  =========  ======================================================================
student's levels  rule       scheduler, asked for a list of times
================  =========  ======================================================================
VP, whole times   `renoise`  `LCMScheduler`, whose own scalings are switched off
VP, whole times   `ddim`     `DPMSolverMultistepScheduler` of order one, which is a step of DDIM
EDM               `renoise`  `CMStochasticIterativeScheduler` with `sigma_min` zero
flow              `renoise`  `FlowMatchLCMScheduler`, not shifted
flow              `ddim`     `FlowMatchEulerDiscreteScheduler`, not shifted
================  =========  ======================================================================

The pipelines are told the student's times, `pipeline(..., timesteps=[...])`, of flows `sigmas` in
[0, 1]. Their own default is a grid of equal steps, on which the student was not trained.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from ..denoisers.adapted import AdaptedDenoiser
from ..denoisers.guidance import Steerable
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..denoisers.schedules import Coordinates, Flow, VariancePreserving
from ..errors import ConfigError, require
from ..nn.diffusers import Told
from ..students.few_step import FewStep

__all__ = ["ELSEWHERE", "PREDICTED", "Stepping", "betas", "stepping", "time_of", "told_levels"]


ELSEWHERE = "export it --to onnx or --to safetensors"


# What a prediction of ours is to a scheduler.
PREDICTED = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}


# A time times this is beyond all levels: of LCM's scalings the sample's is one, the state's zero.
BEYOND = 1e9


# The places of a grid of consistency models: between two of them a level is rounded.
PLACES, RHO = 2**20, 7.0


class Stepping(NamedTuple):
    r"""How a stock pipeline makes a student's steps.

    Arguments:
        scheduler: Its scheduler.
        times: What its call must be told.
        word: By which argument.
    """

    scheduler: Any
    times: list[Any]
    word: str = "timesteps"


def betas(coordinates: VariancePreserving, steps: int) -> list[float]:
    r"""Returns the betas whose cumulative products are the squared scales of the first times."""
    sigmas = [*coordinates.arguments["sigmas"], *([math.inf] if coordinates.terminal else [])]
    squares = torch.tensor([1 / (1 + s**2) for s in sigmas[:steps]], dtype=torch.float64)
    before = torch.cat([torch.ones(1, dtype=torch.float64), squares[:-1]])
    return (1 - squares / before).tolist()


def time_of(sigma: float, coordinates: Coordinates) -> int:
    r"""Returns the whole time of a level.

    Raises:
        ConfigError: It has none.
    """
    time, _, _ = coordinates.time_and_scales(sigma)
    if time != round(time):
        raise ConfigError(
            f"the student asks its network at time {time:.3f}: pipelines know whole times. Distil "
            "with --sigma of a whole time, or leave it out"
        )
    return int(time)


def told_levels(denoiser: PreconditionedDenoiser) -> None:
    r"""Refuses a denoiser that diffusers' consistency scheduler would tell other levels."""
    told = denoiser.network
    if not isinstance(told, Told) or told.factor != 1000.0 or told.sign != 1.0:
        raise ConfigError(
            "diffusers' consistency scheduler tells the network 250 log(sigma), this one was told "
            f"otherwise: {ELSEWHERE}"
        )
    if float(denoiser.mean.abs().max()) > 0:
        raise ConfigError("diffusers' consistency scheduler knows no mean of the data")


def stepping(student: FewStep) -> Stepping:
    r"""Returns the scheduler of a few-step student's own rule and levels.

    Raises:
        ConfigError: Stock diffusers has none; the message says why.
    """
    denoiser, rule = student.denoiser, student.rule
    if isinstance(denoiser, Steerable):  # of which the network itself is told the scale
        denoiser = denoiser.denoiser
    if student.floor:
        raise ConfigError(f"diffusers' schedulers add noise to clean samples: {ELSEWHERE}")
    if isinstance(denoiser, AdaptedDenoiser):
        coordinates = denoiser.coordinates
        if isinstance(coordinates, VariancePreserving) and denoiser.prediction in PREDICTED:
            return _latent(student, denoiser, coordinates)
        if isinstance(coordinates, Flow) and denoiser.prediction == "flow":
            return _straight(student, coordinates)
        what = f"{type(coordinates).__name__} levels"
    elif isinstance(denoiser, PreconditionedDenoiser) and rule == "renoise":
        return _exploding(student, denoiser)
    else:
        what = f"a {type(denoiser).__name__}"
    raise ConfigError(
        f"diffusers has no scheduler that takes the {student.calls} steps of the rule {rule!r} of "
        f"{what} from unit noise: {ELSEWHERE}"
    )


def _latent(
    student: FewStep, denoiser: AdaptedDenoiser, coordinates: VariancePreserving
) -> Stepping:
    diffusers = require("diffusers", "hub")
    times = [time_of(sigma, coordinates) for sigma in student.sigmas]
    steps = times[0] + 1
    given = {
        "num_train_timesteps": steps,
        "trained_betas": betas(coordinates, steps),
        "prediction_type": PREDICTED[denoiser.prediction],
    }
    if student.rule == "renoise":
        if times[-1] == 0:
            raise ConfigError(f"diffusers' LCMScheduler asks for nothing at time 0: {ELSEWHERE}")
        made = diffusers.LCMScheduler(
            **given,
            original_inference_steps=_known_times(student, coordinates, steps),
            timestep_scaling=BEYOND,
            clip_sample=False,
        )
    else:
        if math.isinf(student.sigmas[0]):
            raise ConfigError(
                "diffusers' first-order solver starts at a finite level: distil with --sigma of "
                f"the last but one time, or {ELSEWHERE}"
            )
        made = diffusers.DPMSolverMultistepScheduler(
            **given, solver_order=1, final_sigmas_type="zero"
        )
    return Stepping(made, times)


def _straight(student: FewStep, coordinates: Flow) -> Stepping:
    r"""On a straight line a step of DDIM is one of Euler's."""
    diffusers = require("diffusers", "hub")
    names = {"renoise": "FlowMatchLCMScheduler", "ddim": "FlowMatchEulerDiscreteScheduler"}
    made = getattr(diffusers, names[student.rule])(
        num_train_timesteps=int(coordinates.scale), shift=1.0
    )
    parts = [coordinates.time_and_scales(sigma)[2] for sigma in student.sigmas]
    return Stepping(made, parts, "sigmas")


def _known_times(student: FewStep, coordinates: VariancePreserving, steps: int) -> int:
    r"""Returns of how many times stock `LCMScheduler` takes some evenly: of those of the student's
    grid, if they are evenly spaced as it has them, so that a number of steps gives the student's
    own; else of all."""
    times = [coordinates.place(sigma) for sigma in student.grid]
    even = [steps - 1 - i * (steps // len(times)) for i in range(len(times))] if times else []
    return len(times) if times and times == even else steps


def _exploding(student: FewStep, denoiser: PreconditionedDenoiser) -> Stepping:
    told_levels(denoiser)
    high, *_ = student.sigmas
    places = [round((1 - (s / high) ** (1 / RHO)) * (PLACES - 1)) for s in student.sigmas]
    made = require("diffusers", "hub").CMStochasticIterativeScheduler(
        num_train_timesteps=PLACES,
        sigma_min=0.0,
        sigma_max=high,
        sigma_data=denoiser.sigma_data,
        rho=RHO,
        clip_denoised=False,
    )
    return Stepping(made, places[::-1])
