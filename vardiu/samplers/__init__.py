r"""Many calls of a denoiser, from noise to a sample."""

from ..functional.trajectories import step
from .chains import run_chain
from .guided import TeacherGuide
from .multistep import DPMSolver, Multistep, UniPC
from .ode import DDIM, Ancestral, Euler, Heun, Sampler
from .pairs import Pairs, teacher_pairs
from .policy import Episode, StepPolicy
from .products import product_sample
from .trajectories import trajectory

__all__ = [
    "Ancestral",
    "DDIM",
    "DPMSolver",
    "Euler",
    "Heun",
    "Multistep",
    "Sampler",
    "TeacherGuide",
    "UniPC",
    "Pairs",
    "teacher_pairs",
    "Episode",
    "StepPolicy",
    "product_sample",
    "trajectory",
    "step",
    "run_chain",
]
