r"""Denoisers, E[x | x_t], of every kind, and noise levels."""

from .adapted import AdaptedDenoiser
from .base import Denoiser
from .exact import EmpiricalDenoiser, ExactDenoiser, GaussianDenoiser, MixtureDenoiser
from .guidance import Autoguided, Guided
from .levels import (
    Geometric,
    Levels,
    Linear,
    LogNormal,
    LogUniform,
    PowerLaw,
    Schedule,
    Staircase,
    karras_grid,
    log_grid,
)
from .lora import LoRA, adapt, adapters, merge
from .preconditioned import PreconditionedDenoiser
from .prompts import Captioned, Captions, LookedUp
from .rescaled import Rescaled
from .schedules import Coordinates, Flow, Logarithmic, VarianceExploding, VariancePreserving

__all__ = [
    "AdaptedDenoiser",
    "Denoiser",
    "EmpiricalDenoiser",
    "ExactDenoiser",
    "GaussianDenoiser",
    "MixtureDenoiser",
    "Autoguided",
    "Guided",
    "Geometric",
    "Levels",
    "Linear",
    "LogNormal",
    "LogUniform",
    "PowerLaw",
    "Schedule",
    "Staircase",
    "karras_grid",
    "log_grid",
    "LoRA",
    "adapt",
    "adapters",
    "merge",
    "PreconditionedDenoiser",
    "Captioned",
    "Captions",
    "LookedUp",
    "Rescaled",
    "Coordinates",
    "Flow",
    "Logarithmic",
    "VarianceExploding",
    "VariancePreserving",
]
