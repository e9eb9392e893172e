# For type checkers: the names that `__init__.py` imports when they are first used, no others.

from . import comparison as comparison
from . import data as data
from . import denoisers as denoisers
from . import discriminators as discriminators
from . import errors as errors
from . import export as export
from . import functional as functional
from . import methods as methods
from . import metrics as metrics
from . import models as models
from . import monitoring as monitoring
from . import nn as nn
from . import posteriors as posteriors
from . import problems as problems
from . import reports as reports
from . import resources as resources
from . import runs as runs
from . import samplers as samplers
from . import settings as settings
from . import storage as storage
from . import students as students
from . import teachers as teachers
from . import training as training
from .data.batch import Batch
from .denoisers.adapted import AdaptedDenoiser
from .denoisers.base import Denoiser
from .denoisers.exact import EmpiricalDenoiser, GaussianDenoiser, MixtureDenoiser
from .denoisers.guidance import Autoguided, Guided
from .denoisers.levels import LogUniform
from .denoisers.preconditioned import PreconditionedDenoiser
from .methods.diff_instruct import DiffInstruct
from .methods.vardiu import VarDiU
from .nn import MLP
from .posteriors.encoder import Encoder, UnitScale
from .posteriors.families import (
    CholeskyPosterior,
    FlowPosterior,
    GaussianPosterior,
    MixturePosterior,
)
from .samplers.ode import Heun
from .students.base import Generator
from .students.few_step import FewStep, OneStep
from .students.pushforward import Pushforward
from .teachers.functions import AzulaDenoiser, FunctionDenoiser
from .training.frozen import Frozen
from .training.objective import Loss, Objective, Phase
from .training.optimizers import Optimisation
from .training.trainer import Trainer

__version__: str

__all__ = [
    "__version__",
    "AdaptedDenoiser",
    "Autoguided",
    "AzulaDenoiser",
    "Batch",
    "CholeskyPosterior",
    "Denoiser",
    "DiffInstruct",
    "EmpiricalDenoiser",
    "Encoder",
    "FewStep",
    "FlowPosterior",
    "Frozen",
    "FunctionDenoiser",
    "GaussianDenoiser",
    "GaussianPosterior",
    "Generator",
    "Guided",
    "Heun",
    "LogUniform",
    "Loss",
    "MLP",
    "MixtureDenoiser",
    "MixturePosterior",
    "Objective",
    "OneStep",
    "Optimisation",
    "Phase",
    "PreconditionedDenoiser",
    "Pushforward",
    "Trainer",
    "UnitScale",
    "VarDiU",
]
