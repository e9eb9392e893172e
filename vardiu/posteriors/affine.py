r"""The exact posterior of an affine student."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ..students.affine import Affine
from .encoder import Posterior

__all__ = ["AffinePosterior"]


class AffinePosterior(Posterior):
    r"""The posterior of :math:`z` given :math:`x_t = A z + b + \sigma \varepsilon`, a Gaussian.

    .. math:: C = (I + A^\top A / \sigma^2)^{-1}, \qquad m = C A^\top (x_t - b) / \sigma^2

    Its one parameter changes nothing, so that a training of it is one of the exact posterior.

    Arguments:
        student: The student.
        follows: Whether it is of the student as it is at each call, or as it was at first.
    """

    matrix: Tensor
    shift: Tensor

    def __init__(self, student: Affine, *, follows: bool = False) -> None:
        super().__init__()
        # Out of the parameters and the state: a training of this posterior is none of the student.
        self.__dict__["followed"] = student if follows else None
        self.register_buffer("matrix", student.matrix.detach().clone())
        self.register_buffer("shift", student.shift.detach().clone())
        self.unused = nn.Parameter(student.shift.new_zeros(()))

    def moments(self, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns the mean :math:`m`, `(B, k)`, and the covariance :math:`C`, `(B, k, k)`."""
        student = self.__dict__["followed"]
        a = self.matrix if student is None else student.matrix.detach()
        b = self.shift if student is None else student.shift.detach()
        k = a.shape[1]
        precision = torch.eye(k).to(a) + (a.T @ a) / sigma.square()[:, None, None]
        covariance = torch.linalg.inv(precision)
        pulled = (x_t - b) @ a / sigma.square()[:, None]
        return (covariance @ pulled[..., None]).squeeze(-1), covariance

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> MultivariateNormal:
        mean, covariance = self.moments(x_t, sigma)
        return MultivariateNormal(mean + 0 * self.unused, covariance)
