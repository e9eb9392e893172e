r"""One-step generators from diffusion models.

Names are imported when they are first used, so that `import vardiu` and the command line's help do
not pay for torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "AdaptedDenoiser": "denoisers.adapted",
    "Autoguided": "denoisers.guidance",
    "AzulaDenoiser": "teachers.functions",
    "Batch": "data.batch",
    "CholeskyPosterior": "posteriors.families",
    "Denoiser": "denoisers.base",
    "DiffInstruct": "methods.diff_instruct",
    "EmpiricalDenoiser": "denoisers.exact",
    "Encoder": "posteriors.encoder",
    "FewStep": "students.few_step",
    "FlowPosterior": "posteriors.families",
    "Frozen": "training.frozen",
    "FunctionDenoiser": "teachers.functions",
    "GaussianDenoiser": "denoisers.exact",
    "GaussianPosterior": "posteriors.families",
    "Generator": "students.base",
    "Guided": "denoisers.guidance",
    "Heun": "samplers.ode",
    "LogUniform": "denoisers.levels",
    "Loss": "training.objective",
    "MLP": "nn",
    "MixtureDenoiser": "denoisers.exact",
    "MixturePosterior": "posteriors.families",
    "Objective": "training.objective",
    "OneStep": "students.few_step",
    "Optimisation": "training.optimizers",
    "Phase": "training.objective",
    "PreconditionedDenoiser": "denoisers.preconditioned",
    "Pushforward": "students.pushforward",
    "Trainer": "training.trainer",
    "UnitScale": "posteriors.encoder",
    "VarDiU": "methods.vardiu",
}

# The rooms of the library, and its errors: `vardiu.models.load` needs no import of its own.
_ROOMS = frozenset(
    ["comparison", "data", "denoisers", "discriminators", "errors", "export", "functional"]
    + ["methods", "metrics", "models", "monitoring", "nn", "posteriors", "problems", "reports"]
    + ["resources", "runs", "samplers", "settings", "storage", "students", "teachers", "training"]
)

__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module 'vardiu' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_ROOMS]
