r"""Any teacher in: folders, pickles, functions, runs; and a probe of what it is worth."""

from .functions import AzulaDenoiser, FunctionDenoiser, ddpm, flow
from .origin import Origin
from .probe import Probe, checked
from .readers import READERS, Reader, load

__all__ = [
    "AzulaDenoiser",
    "FunctionDenoiser",
    "ddpm",
    "flow",
    "Origin",
    "Probe",
    "checked",
    "READERS",
    "Reader",
    "load",
]
