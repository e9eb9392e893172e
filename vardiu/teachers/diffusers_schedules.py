r"""What the times of diffusers' schedulers mean, and what their networks predict.

A scheduler is made by its own class of diffusers, one of `SCHEDULERS` or `EDM`, and only what it
says of a training is read: levels, times, prediction. How many steps it samples with, and where,
is the sampler's business.

==============================  ==============================================================
schedulers                      coordinates
==============================  ==============================================================
DDPM's and its kin              whole times, the levels of `alphas_cumprod`
the same, `use_flow_sigmas`     :math:`x_s = (1 - t) x + t \varepsilon`, told :math:`N t`
EulerDiscrete, continuous v     variance-preserving, told :math:`\tfrac14 \log \sigma`
FlowMatch                       :math:`N t`; with `invert_sigmas` :math:`N (1 - t)`
EDM                             EDM's preconditioning, told :math:`\tfrac14 \log \sigma`
CMStochasticIterative           the same, told :math:`250 \log \sigma`
ScoreSdeVe                      variance-exploding, told :math:`\sigma`
==============================  ==============================================================

With zero terminal signal-to-noise ratio the last squared scale is zero. Schedulers that cannot
divide by it put :math:`2^{-24}` in its place; here it is zero in all of them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..denoisers.adapted import AdaptedDenoiser
from ..denoisers.base import Denoiser
from ..denoisers.preconditioned import PreconditionedDenoiser
from ..denoisers.schedules import (
    Coordinates,
    Flow,
    Logarithmic,
    VarianceExploding,
    VariancePreserving,
)
from ..errors import ConfigError, nearest, require, shown
from ..nn.diffusers import DiffusersNetwork, Told
from ..storage.bounded import DAMAGED
from ..storage.limits import refuse_beyond

__all__ = ["SCHEDULERS", "denoiser_of"]


# Names of a scheduler's predictions, and ours.
PREDICTED = {
    "epsilon": "epsilon",
    "v_prediction": "v",
    "sample": "sample",
    "flow_prediction": "flow",
}


# Coordinates, and what is predicted in them unless the user says otherwise.
Reading = tuple[Coordinates, str]


def denoiser_of(
    network: DiffusersNetwork,
    settings: Mapping[str, Any],
    shape: Sequence[int],
    prediction: str | None = None,
) -> Denoiser:
    r"""Returns the denoiser that a network and the configuration of its scheduler make.

    Arguments:
        network: The network.
        settings: What `scheduler_config.json` holds.
        shape: The shape of one sample.
        prediction: What the network predicts, where the scheduler says it wrong.

    Raises:
        ConfigError: The scheduler, its settings or its prediction are of no known kind.
    """
    name = settings.get("_class_name")
    if not isinstance(name, str) or name not in (*SCHEDULERS, *EDM):
        known = [*SCHEDULERS, *EDM]
        offer = nearest(name[:80], known) if isinstance(name, str) else "it names none"
        raise ConfigError(f"the times of the scheduler {shown(name)} are not known; {offer}")
    scheduler = _made(name, settings)
    if name in EDM:
        return _edm(network, scheduler.config, prediction, shape, EDM[name])
    try:
        coordinates, told = SCHEDULERS[name](scheduler, name)
    except (TypeError, OverflowError, RuntimeError) as error:
        raise ConfigError(f"the settings of {name} make no schedule: {shown(error)}") from error
    return AdaptedDenoiser(
        network,
        coordinates,
        prediction=prediction or told,
        shape=shape,
        conditions=network.conditions,
    )


def _made(name: str, settings: Mapping[str, Any]) -> Any:  # noqa: ANN401 (a scheduler)
    r"""Returns the scheduler of settings, whose number of times is within the limit."""
    times = settings.get("num_train_timesteps", 1000)
    if not isinstance(times, int) or isinstance(times, bool) or times < 1:
        raise ConfigError(f"num_train_timesteps must be a whole number, got {shown(times)}")
    refuse_beyond("schedule times", times, "num_train_timesteps")
    betas = settings.get("trained_betas")
    if betas is not None:
        if not isinstance(betas, list) or not all(isinstance(b, int | float) for b in betas):
            raise ConfigError(f"trained_betas must be a list of numbers, got {shown(betas)}")
        refuse_beyond("schedule times", len(betas), "trained_betas")
        if len(betas) != times:
            raise ConfigError(
                f"trained_betas has {len(betas):,} numbers and num_train_timesteps is {times:,}: "
                "state as many of one as of the other"
            )
    try:
        return getattr(require("diffusers", "hub"), name).from_config(dict(settings))
    except DAMAGED as error:
        raise ConfigError(
            f"diffusers makes no {name} of these settings: {shown(str(error))}"
        ) from error


def _told(scheduler: Any, name: str) -> str:  # noqa: ANN401 (a scheduler)
    told = scheduler.config.get("prediction_type", "epsilon")
    if not isinstance(told, str) or told not in PREDICTED:
        raise ConfigError(
            f"{name} has the prediction_type {shown(told)}, expected one of: "
            f"{', '.join(PREDICTED)}"
        )
    return PREDICTED[told]


def _has(scheduler: Any, setting: str) -> bool:  # noqa: ANN401 (a scheduler)
    r"""Whether a class knows a setting, and it is on; others carry it along unread."""
    known = inspect.signature(type(scheduler).__init__).parameters
    return setting in known and bool(scheduler.config.get(setting))


def _table(scheduler: Any, name: str) -> Reading:  # noqa: ANN401 (a scheduler)
    told = _told(scheduler, name)
    if _has(scheduler, "use_flow_sigmas"):
        if told == "v":
            raise ConfigError(
                f"{name} with use_flow_sigmas and v_prediction has no velocity of flows; state "
                "flow_prediction, or give --prediction"
            )
        return Flow(float(scheduler.config.num_train_timesteps), terminal=True), told
    if told == "flow":
        raise ConfigError(
            f"{name} with prediction_type flow_prediction and without use_flow_sigmas has no line "
            "to follow: set use_flow_sigmas in scheduler_config.json"
        )
    squares = scheduler.alphas_cumprod.double()
    if _has(scheduler, "rescale_betas_zero_snr"):
        squares[-1] = 0.0
    preserving = VariancePreserving.from_alphas_cumprod(squares)
    # diffusers tells whole times unless both are stated.
    if told == "v" and scheduler.config.get("timestep_type") == "continuous":
        if name == "EulerDiscreteScheduler":
            low, high = (scheduler.config.get(key) for key in ("sigma_min", "sigma_max"))
            return Logarithmic(
                preserving.sigma_min if low is None else float(low),
                preserving.sigma_max if high is None else float(high),
            ), told
    return preserving, told


def _flow(scheduler: Any, name: str) -> Reading:  # noqa: ANN401 (a scheduler)
    inverted = _has(scheduler, "invert_sigmas")
    times = float(scheduler.config.num_train_timesteps)
    coordinates = Flow(times, noise_first=inverted, terminal=True)
    return coordinates, "flow_to_data" if inverted else "flow"


def _exploding(scheduler: Any, name: str) -> Reading:  # noqa: ANN401 (a scheduler)
    config = scheduler.config
    return VarianceExploding(float(config.sigma_min), float(config.sigma_max)), "score"


def _edm(
    network: DiffusersNetwork,
    config: Mapping[str, Any],
    prediction: str | None,
    shape: Sequence[int],
    factor: float,
) -> Denoiser:
    r"""EDM's preconditioning; `factor` is how many times a quarter of the logarithm is told."""
    signs = {"epsilon": 1.0, "v_prediction": -1.0, "v": -1.0}
    told = prediction or config.get("prediction_type", "epsilon")
    if not isinstance(told, str) or told not in signs:
        raise ConfigError(f"EDM's schedulers predict epsilon or v_prediction, got {shown(told)}")
    values = {}
    for key, default in (("sigma_data", 0.5), ("sigma_min", 0.002), ("sigma_max", 80.0)):
        value = config.get(key, default)
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ConfigError(f"{key} must be a number above zero, got {shown(value)}")
        values[key] = float(value)
    return PreconditionedDenoiser(
        Told(network, factor, signs[told]), shape=shape, conditions=network.conditions, **values
    )


# EDM's: how many times a quarter of the logarithm of the level their networks are told.
EDM: Mapping[str, float] = {
    "EDMEulerScheduler": 1.0,
    "EDMDPMSolverMultistepScheduler": 1.0,
    "CMStochasticIterativeScheduler": 1000.0,
}


DISCRETE = (
    *("DDIM", "DDIMInverse", "DDIMParallel", "DDPM", "DDPMParallel", "PNDM", "LCM", "TCD"),
    *("EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete"),
    *("KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverMultistep", "DPMSolverSinglestep"),
    *("DPMSolverMultistepInverse", "DPMSolverSDE", "DEISMultistep", "UniPCMultistep"),
    *("SASolver", "RePaint", "UnCLIP", "CogVideoXDDIM", "CogVideoXDPM"),
)


FLOWS = ("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "FlowMatchLCM")


# The classes of diffusers that a folder may name, and nothing else of it.
SCHEDULERS: Mapping[str, Callable[[Any, str], Reading]] = {
    **{f"{name}Scheduler": _table for name in DISCRETE},
    **{f"{name}Scheduler": _flow for name in FLOWS},
    "ScoreSdeVeScheduler": _exploding,
}
