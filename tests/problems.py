"""Exact problems, so that nothing has to be trained to be tested."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vardiu.posteriors.affine import AffinePosterior
from vardiu.problems.linear import LinearProblem
from vardiu.problems.toy import mixture_teacher
from vardiu.students.affine import Affine

__all__ = ["Affine", "ExactPosterior", "LinearGaussian", "mixture_teacher", "standard_error"]


class ExactPosterior(AffinePosterior):
    """The posterior of an affine generator; `inflate` and `move` make it wrong on purpose."""

    def __init__(self, generator: Affine, *, inflate: float = 1.0, move: float = 0.0) -> None:
        super().__init__(generator)
        self.inflate, self.move = inflate, move

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> MultivariateNormal:
        mean, covariance = self.moments(x_t, sigma)
        return MultivariateNormal(mean + self.move, covariance * self.inflate**2)


class LinearGaussian(LinearProblem):
    """An affine student against a Gaussian teacher: everything in closed form."""

    def __init__(self, d: int = 3, k: int = 2, seed: int = 0) -> None:
        super().__init__(d, k, seed)
        self.d, self.k = d, k
        self.matrix, self.shift = self.law.matrix, self.law.shift
        self.mean, self.covariance = self.law.mean, self.law.covariance
        self.generator = self.networks.student()

    def kl_gradient(self, sigma: float) -> tuple[Tensor, Tensor]:
        a = self.matrix.clone().requires_grad_(True)
        b = self.shift.clone().requires_grad_(True)
        return torch.autograd.grad(self.kl(a, b, sigma), (a, b))


def standard_error(x: Tensor, dim: int = 0) -> Tensor:
    return x.std(dim) / math.sqrt(x.shape[dim])
