r"""Affine students: their samples are Gaussian, and all about them is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..denoisers.base import Denoiser
from .base import Generator

__all__ = ["Affine", "AffineDenoiser"]


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
