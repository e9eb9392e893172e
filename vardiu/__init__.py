r"""One-step generators from diffusion models.

Names are imported when they are first used, so that `import vardiu` and the command line's help do
not pay for torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "AdaptedDenoiser": "coordinates",
    "Autoguided": "guidance",
    "AzulaDenoiser": "plugins.functions",
    "Batch": "objective",
    "CholeskyPosterior": "posterior",
    "Denoiser": "denoise",
    "DiffInstruct": "methods.diff_instruct",
    "EmpiricalDenoiser": "denoise",
    "Encoder": "posterior",
    "FewStep": "generate",
    "FlowPosterior": "posterior",
    "Frozen": "objective",
    "FunctionDenoiser": "plugins.functions",
    "GaussianDenoiser": "denoise",
    "GaussianPosterior": "posterior",
    "Generator": "generate",
    "Guided": "guidance",
    "Heun": "sample",
    "LogUniform": "noise",
    "Loss": "objective",
    "MLP": "nn",
    "MixtureDenoiser": "denoise",
    "MixturePosterior": "posterior",
    "Objective": "objective",
    "OneStep": "generate",
    "Optimisation": "train",
    "Phase": "objective",
    "PreconditionedDenoiser": "denoise",
    "Pushforward": "generate",
    "Trainer": "train",
    "UnitScale": "posterior",
    "VarDiU": "methods.vardiu",
}

__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name == "teachers":
        return importlib.import_module(".teachers", __name__)
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module 'vardiu' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
