r"""Restoring what was measured: four solvers, and one projection around the gradient of each."""

from ..noise import RowNoise
from .base import IDENTITY, Codec, Moment, Operator, Solver, is_linear
from .daps import DAPS, GaussianInner
from .dps import DPS
from .projection import DiffStateGrad, Gradients, Unprojected
from .psld import PSLD
from .resample import ReSample

__all__ = [
    "IDENTITY",
    "Codec",
    "Moment",
    "Operator",
    "RowNoise",
    "Solver",
    "is_linear",
    "DAPS",
    "GaussianInner",
    "DPS",
    "DiffStateGrad",
    "Gradients",
    "Unprojected",
    "PSLD",
    "ReSample",
    "SOLVERS",
]


SOLVERS: dict[str, type[Solver]] = {"dps": DPS, "psld": PSLD, "resample": ReSample, "daps": DAPS}
