r"""Affine students: their samples are Gaussian, and all about them is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ..denoisers.base import Denoiser
from ..denoisers.exact import GaussianDenoiser
from .base import Generator

__all__ = ["Affine", "AffineDenoiser", "AffineRatio"]


class Affine(Generator):
    r"""An affine map, :math:`g(z) = A z + b`; its samples are
    :math:`\mathcal{N}(b, A A^\top)`.

    Arguments:
        matrix: The matrix :math:`A`, with shape :math:`(d, k)`.
        shift: The shift :math:`b`, with shape :math:`(d)`.
    """

    def __init__(self, matrix: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.matrix, self.shift = nn.Parameter(matrix.clone()), nn.Parameter(shift.clone())
        self.latent_shape, self.shape = (matrix.shape[1],), (matrix.shape[0],)

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        return z @ self.matrix.T + self.shift


class AffineDenoiser(Denoiser):
    r"""The exact denoiser of an affine student's samples: a fake that needs no training.

    .. math:: D(x_t, \sigma) = b + A A^\top (A A^\top + \sigma^2 I)^{-1} (x_t - b)

    Its one parameter changes nothing, so that a training of it is one of the exact fake.

    Arguments:
        student: The student.
        follows: Whether it is of the student as it is at each call, or as it was at first.
        sigma_min: The smallest noise level.
        sigma_max: The largest noise level.
    """

    matrix: Tensor
    shift: Tensor
    followed: Affine | None

    def __init__(
        self, student: Affine, *, follows: bool = False, sigma_min: float, sigma_max: float
    ) -> None:
        super().__init__()
        self.shape = student.shape
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        # Out of the parameters and the state: a training of this denoiser is none of the student.
        self.__dict__["followed"] = student if follows else None
        self.register_buffer("matrix", student.matrix.detach().clone())
        self.register_buffer("shift", student.shift.detach().clone())
        self.unused = nn.Parameter(student.shift.new_zeros(()))

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        self.check(x_t, sigma)
        student = self.followed
        a = self.matrix if student is None else student.matrix.detach()
        b = self.shift if student is None else student.shift.detach()
        covariance = a @ a.T
        noise = torch.eye(len(b)).to(b) * sigma.square()[:, None, None]
        solved = torch.linalg.solve(covariance + noise, (x_t - b)[..., None])
        return b + (covariance @ solved).squeeze(-1) + 0 * self.unused


class AffineRatio(nn.Module):
    r"""The exact log-ratio of a Gaussian teacher's noisy density to an affine student's.

    .. math:: c(x_t, \sigma) = \log \mathcal{N}(x_t; m, C + \sigma^2 I)
        - \log \mathcal{N}(x_t; b, A A^\top + \sigma^2 I)

    It is the best discriminator of real and generated noisy samples, called as one, and has
    nothing to train. It is of the student as it is at each call.

    Arguments:
        student: The student.
        teacher: The teacher.
    """

    def __init__(self, student: Affine, teacher: GaussianDenoiser) -> None:
        super().__init__()
        # Out of the modules: their weights are trained and saved elsewhere.
        self.__dict__["both"] = student, teacher

    def forward(self, denoiser: object, y_t: Tensor, sigma: Tensor) -> list[Tensor]:
        r"""Returns the log-ratio of each row, `(B,)`; `denoiser` is not looked at."""
        student, teacher = self.__dict__["both"]
        a, b = student.matrix.detach(), student.shift.detach()
        noise = torch.eye(len(b)).to(b) * sigma.square()[:, None, None]
        own = MultivariateNormal(b, a @ a.T + noise)
        return [teacher.log_prob(y_t, sigma) - own.log_prob(y_t)]
