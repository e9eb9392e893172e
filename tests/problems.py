"""Exact problems, so that nothing has to be trained to be tested."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from vardiu.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from vardiu.functional.bounds import gaussian_kl
from vardiu.posteriors.encoder import Posterior
from vardiu.students.base import Generator


class Affine(Generator):
    """x = A z + b."""

    def __init__(self, matrix: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.matrix, self.shift = nn.Parameter(matrix.clone()), nn.Parameter(shift.clone())
        self.latent_shape, self.shape = (matrix.shape[1],), (matrix.shape[0],)

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        return z @ self.matrix.T + self.shift


class ExactPosterior(Posterior):
    """The posterior of an affine generator; `inflate` and `move` make it wrong on purpose."""

    def __init__(self, generator: Affine, *, inflate: float = 1.0, move: float = 0.0) -> None:
        super().__init__()
        self.matrix = generator.matrix.detach().clone()
        self.shift = generator.shift.detach().clone()
        self.inflate, self.move = inflate, move
        self.unused = nn.Parameter(torch.zeros(()))

    def moments(self, x_t: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        a, k = self.matrix, self.matrix.shape[1]
        precision = torch.eye(k) + (a.T @ a) / sigma.square()[:, None, None]
        covariance = torch.linalg.inv(precision)
        pulled = (x_t - self.shift) @ a / sigma.square()[:, None]
        return (covariance @ pulled[..., None]).squeeze(-1), covariance

    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> MultivariateNormal:
        mean, covariance = self.moments(x_t, sigma)
        return MultivariateNormal(mean + self.move, covariance * self.inflate**2)


class LinearGaussian:
    """An affine student against a Gaussian teacher: everything in closed form."""

    def __init__(self, d: int = 3, k: int = 2, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.d, self.k = d, k
        self.matrix = torch.randn(d, k, generator=g)
        self.shift = torch.randn(d, generator=g)
        root = torch.randn(d, d, generator=g)
        self.mean = torch.randn(d, generator=g)
        self.covariance = root @ root.T / d + 0.3 * torch.eye(d)
        self.teacher = GaussianDenoiser(self.mean, self.covariance, sigma_min=0.1, sigma_max=10.0)
        self.generator = Affine(self.matrix, self.shift)

    def kl(self, matrix: Tensor, shift: Tensor, sigma: float) -> Tensor:
        noise = sigma**2 * torch.eye(self.d)
        return gaussian_kl(shift, matrix @ matrix.T + noise, self.mean, self.covariance + noise)

    def kl_gradient(self, sigma: float) -> tuple[Tensor, Tensor]:
        a = self.matrix.clone().requires_grad_(True)
        b = self.shift.clone().requires_grad_(True)
        return torch.autograd.grad(self.kl(a, b, sigma), (a, b))


def mixture_teacher(labels: bool = False) -> MixtureDenoiser:
    means = 2.0 * torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    label = torch.tensor([0, 1, 0, 1]) if labels else None
    return MixtureDenoiser(means, 0.3, labels=label, sigma_min=0.1, sigma_max=8.0)


def standard_error(x: Tensor, dim: int = 0) -> Tensor:
    return x.std(dim) / math.sqrt(x.shape[dim])
