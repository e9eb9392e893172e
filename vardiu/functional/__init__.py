r"""Pure functions of tensors: scores, bounds, steps of a solver, adversarial losses, sums."""

from .adversarial import (
    ADVERSARIAL,
    Adversarial,
    gradient_penalty,
    hinge_discriminator,
    hinge_generator,
    least_squares_discriminator,
    least_squares_generator,
    softplus_discriminator,
    softplus_generator,
)
from .bounds import (
    diagonal_normal_log_prob,
    entropy_constant,
    gaussian_kl,
    importance_log_marginal,
    same_condition,
    shared_log_marginal,
    standard_normal_log_prob,
)
from .divergences import DIVERGENCES, Divergence
from .perception import dists, edge_aware_dists, high_frequency_energy, sobel
from .scores import (
    Weight,
    denoised_to_score,
    denoising,
    edm_weight,
    score,
    surrogate,
    teacher_direction,
)
from .tensors import dot, expand_like, lattice_normal, log_sum_exp, pairwise_square, scale_gradient
from .trajectories import fresh_noise, slope, step, step_target

__all__ = [
    "ADVERSARIAL",
    "Adversarial",
    "gradient_penalty",
    "hinge_discriminator",
    "hinge_generator",
    "least_squares_discriminator",
    "least_squares_generator",
    "softplus_discriminator",
    "softplus_generator",
    "diagonal_normal_log_prob",
    "entropy_constant",
    "gaussian_kl",
    "importance_log_marginal",
    "same_condition",
    "shared_log_marginal",
    "standard_normal_log_prob",
    "DIVERGENCES",
    "Divergence",
    "dists",
    "edge_aware_dists",
    "high_frequency_energy",
    "sobel",
    "Weight",
    "denoised_to_score",
    "denoising",
    "edm_weight",
    "score",
    "surrogate",
    "teacher_direction",
    "dot",
    "expand_like",
    "lattice_normal",
    "log_sum_exp",
    "pairwise_square",
    "scale_gradient",
    "fresh_noise",
    "slope",
    "step",
    "step_target",
]
