"""The published procedure of VarDiU on MoG-40, written from its description, to compare with.

It shares no code with the library's objectives: eager float32, plain modules, plain Adam. Where
the description leaves a choice, the cheaper one is taken: the student sees each latent of an
antithetic pair once, and the mixture's score is its closed form, not automatic differentiation.

    VarDiU: A Variational Diffusive Upper Bound for One-Step Diffusion Distillation
    (Wang, Zhang, Ou and Barber, 2025), https://arxiv.org/abs/2508.20646
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SIGMA_MIN, SIGMA_MAX = 0.1, 20.0


def mlp(inputs: int, outputs: int, width: int = 400, depth: int = 4) -> nn.Sequential:
    """Returns a perceptron of so many hidden layers, with SiLU."""
    sizes = [inputs, *[width] * depth]
    layers: list[nn.Module] = []
    for a, b in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


class Mixture:
    """The score of the noised mixture of equal Gaussians of one standard deviation."""

    def __init__(self, means: Tensor, std: float) -> None:
        self.means, self.std = means, std

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        variance = self.std**2 + sigma.square()
        difference = self.means[None] - x[:, None]
        exponents = -0.5 * difference.square().sum(-1) / variance[:, None]
        share = torch.softmax(exponents, dim=1)
        return (share[..., None] * difference).sum(1) / variance[:, None]


class Published:
    """Student, posterior, their optimisers, and one iteration.

    Arguments:
        target: The teacher's score.
        seed: The seed of the networks and of the draws.
        batch: The rows of an iteration, half as many antithetic pairs.
        device: Where to train.
    """

    def __init__(
        self, target: Mixture, seed: int = 0, batch: int = 1024, device: str = "cpu"
    ) -> None:
        torch.manual_seed(seed)
        self.target, self.batch, self.device = target, batch, torch.device(device)
        self.student = mlp(2, 2).to(self.device)
        self.posterior = mlp(3, 4).to(self.device)
        self.optimizers = [
            torch.optim.Adam(net.parameters(), lr=1e-4) for net in (self.student, self.posterior)
        ]
        self.iteration = 0

    def rho(self) -> float:
        """The exponent of the noise level: from 0.1 by 0.01 every 1,000 iterations to 2."""
        return min(2.0, 0.1 + 0.01 * (self.iteration // 1000))

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        half = self.batch // 2
        z = torch.randn(half, 2, device=self.device)
        noise = torch.randn(half, 2, device=self.device)
        u = torch.rand(half, device=self.device)
        return z, noise, SIGMA_MIN + u ** self.rho() * (SIGMA_MAX - SIGMA_MIN)

    def loss(self, z: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        x = self.student(z)
        z, x = torch.cat([z, z]), torch.cat([x, x])
        noise, sigma = torch.cat([noise, -noise]), torch.cat([sigma, sigma])
        x_t = x + sigma[:, None] * noise
        output = self.posterior(torch.cat([x_t, sigma[:, None]], dim=1))
        mean, raw = output.chunk(2, dim=1)
        std = nn.functional.softplus(raw) * sigma[:, None]
        log_r = (-0.5 * ((z - mean) / std).square() - std.log()).sum(1) - math.log(2 * math.pi)
        with torch.no_grad():
            score = self.target.score(x_t, sigma)
        value = -log_r - (score * x).sum(1)
        return (sigma.square() * value).mean()

    def step(self) -> None:
        loss = self.loss(*self.draw())
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for net, optimizer in zip((self.student, self.posterior), self.optimizers, strict=True):
            nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            optimizer.step()
        self.iteration += 1

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.student(torch.randn(n, 2, generator=generator).to(self.device)).cpu()


def mog40(device: str = "cpu") -> Mixture:
    """The target: 40 means uniform in [-40, 40]^2 from seed 0, standard deviation softplus(1)."""
    generator = torch.Generator().manual_seed(0)
    means = (torch.rand(40, 2, generator=generator) - 0.5) * 2 * 40
    return Mixture(means.to(device), math.log1p(math.e))
