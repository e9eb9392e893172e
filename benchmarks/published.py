r"""The published procedures on MoG-40, written anew from their descriptions: what we compare with.

    python benchmarks/published.py --seconds 60 [--procedure vardiu|diff-instruct]

One step of VarDiU with a Gaussian posterior (Wang et al., 2025, https://arxiv.org/abs/2508.20646)
as a plain eager script of float32 takes it: 512 latents, repeated so that each meets its noise
with both signs and both halves go through the student; the exact score of the noised mixture by
automatic differentiation of a `torch.distributions` mixture; a plain Adam for each network, whose
gradients are clipped one after the other; the time of each iteration written to a log.

Diff-Instruct (Luo et al., 2023, https://arxiv.org/abs/2305.18455) with the same student, teacher
and levels: some steps of a fake denoiser at 5e-5, then one of the student.

Deviation: the weight sigma^2 multiplies each row, as the paper says; the script's broadcasts over
the batch, and acts as a constant. Nothing here imports an objective, network or trainer of ours.
"""

from __future__ import annotations

import argparse
import math
import time
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

WIDTH, ROWS, LATENT = 400, 1024, 2
SIGMA_MIN, SIGMA_MAX = 0.1, 20.0
RATE, FAKE_RATE, CLIP = 1e-4, 5e-5, 10.0


def network(inputs: int, outputs: int, width: int = WIDTH) -> nn.Sequential:
    """Four hidden layers with SiLU, on raw inputs."""
    sizes = [inputs] + [width] * 4
    layers: list[nn.Module] = []
    for a, b in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def rho(iteration: int) -> float:
    """The exponent of the levels: 0.1, and 0.01 more every 1,000 iterations, to 2.0."""
    return min(0.1 + 0.01 * (iteration // 1000), 2.0)


def mixture_means() -> Tensor:
    """The forty means, which torch's generator draws from seed 0 in float32."""
    uniform = torch.rand(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    return (uniform - 0.5) * 80


def mixture_score(x_t: Tensor, sigma: Tensor, means: Tensor) -> Tensor:
    """The score of the noised mixture, by automatic differentiation of its log-density."""
    x_t = x_t.detach().requires_grad_(True)
    std = (math.log1p(math.e) ** 2 + sigma.square()).sqrt()
    parts = Normal(means.expand(len(x_t), -1, -1), std[:, :, None].expand(-1, *means.shape))
    weights = Categorical(torch.ones(len(x_t), len(means), device=x_t.device, dtype=x_t.dtype))
    log_prob = MixtureSameFamily(weights, Independent(parts, 1)).log_prob(x_t)
    return torch.autograd.grad(log_prob.sum(), x_t)[0].detach()


def bound(
    student: nn.Module, posterior: nn.Module, z: Tensor, e: Tensor, sigma: Tensor, means: Tensor
) -> Tensor:
    """The published loss of 512 draws: latents `(n, 2)`, noise `(n, 2)`, levels `(n, 1)`."""
    z = torch.cat([z, z])
    sigma = torch.cat([sigma, sigma])
    x = student(z)
    x_t = x + torch.cat([e, -e]) * sigma
    mean, raw = posterior(torch.cat([x_t, sigma], dim=1)).chunk(2, dim=1)
    std = nn.functional.softplus(raw) * sigma
    log_r = Normal(mean, std).log_prob(z).sum(1)
    score = mixture_score(x_t, sigma, means)
    weight = sigma.square().squeeze(1)
    return -(weight * (log_r + (score * x).sum(1))).mean()


class Published:
    """What both procedures share: the student, its draws and the log.

    Arguments:
        seed: The seed of weights and draws.
        device: Where to run.
        rows: The rows of a batch: pairs of both signs count twice.
        log: A file to which each iteration's time is written; none for no such line.
    """

    def __init__(
        self, seed: int = 0, device: str = "cpu", rows: int = ROWS, log: Path | None = None
    ) -> None:
        torch.manual_seed(seed)
        self.device, self.rows, self.iteration = device, rows, 0
        self.means = mixture_means().to(device)
        self.student = network(LATENT, 2).to(device)
        self.optimizer = torch.optim.Adam(self.student.parameters(), lr=RATE)
        self.log = None if log is None else log.open("a")

    def levels(self, n: int) -> Tensor:
        u = torch.rand(n, 1, device=self.device)
        return SIGMA_MIN + u ** rho(self.iteration) * (SIGMA_MAX - SIGMA_MIN)

    def update(self) -> None:
        raise NotImplementedError

    def step(self) -> None:
        """One iteration, with its line in the log."""
        started = time.perf_counter()
        self.update()
        self.iteration += 1
        if self.log is not None:
            elapsed = time.perf_counter() - started
            now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
            self.log.write(f"[{now}] Iteration {self.iteration}: {elapsed:.4f} seconds\n")

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws samples in one call each, as the metrics of both procedures see them."""
        return self.student(torch.randn(n, LATENT, generator=generator).to(self.device)).cpu()


class PublishedVarDiU(Published):
    """VarDiU with a Gaussian posterior, one update of both networks a step."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.posterior = network(2 + 1, 2 * LATENT).to(self.device)
        self.posterior_optimizer = torch.optim.Adam(self.posterior.parameters(), lr=RATE)

    def update(self) -> None:
        half = self.rows // 2
        z = torch.randn(half, LATENT, device=self.device)
        e = torch.randn(half, 2, device=self.device)
        sigma = self.levels(half)
        self.posterior_optimizer.zero_grad()
        self.optimizer.zero_grad()
        bound(self.student, self.posterior, z, e, sigma, self.means).backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), CLIP)
        nn.utils.clip_grad_norm_(self.posterior.parameters(), CLIP)
        self.posterior_optimizer.step()
        self.optimizer.step()


class PublishedDiffInstruct(Published):
    """Diff-Instruct: `ratio` steps of the fake, then one of the student on its difference.

    The fake is a raw denoiser of `(x_t, sigma)`, fresh where the published one starts from a
    learned teacher's weights: a step takes as long.
    """

    def __init__(self, *args, ratio: int = 5, sigma_data: float = 10.0, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.ratio, self.sigma_data = ratio, sigma_data
        self.fake = network(2 + 1, 2).to(self.device)
        self.fake_optimizer = torch.optim.Adam(self.fake.parameters(), lr=FAKE_RATE)

    def update_fake(self) -> None:
        with torch.no_grad():
            x = self.student(torch.randn(self.rows, LATENT, device=self.device))
        sigma = self.levels(self.rows)
        x_t = x + sigma * torch.randn_like(x)
        weight = (sigma.square() + self.sigma_data**2) / (sigma * self.sigma_data).square()
        error = (self.fake(torch.cat([x_t, sigma], dim=1)) - x).square()
        self.fake_optimizer.zero_grad()
        (weight * error).mean().backward()
        nn.utils.clip_grad_norm_(self.fake.parameters(), CLIP)
        self.fake_optimizer.step()

    def update(self) -> None:
        for _ in range(self.ratio):
            self.update_fake()
        half = self.rows // 2
        z = torch.randn(half, LATENT, device=self.device).repeat(2, 1)
        e = torch.randn(half, 2, device=self.device)
        sigma = self.levels(half).repeat(2, 1)
        x = self.student(z)
        x_t = x + torch.cat([e, -e]) * sigma
        real = mixture_score(x_t, sigma, self.means)
        with torch.no_grad():
            fake = (self.fake(torch.cat([x_t, sigma], dim=1)) - x_t) / sigma.square()
        self.optimizer.zero_grad()
        (sigma.square() * (fake - real) * x).sum(1).mean().backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), CLIP)
        self.optimizer.step()


PROCEDURES = {"vardiu": PublishedVarDiU, "diff-instruct": PublishedDiffInstruct}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--procedure", choices=PROCEDURES, default="vardiu")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    run = PROCEDURES[chosen.procedure](device=chosen.device)
    started, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - started < chosen.seconds:
        run.step()
    wall, used = time.perf_counter() - started, time.process_time() - used
    print(f"{run.iteration} iterations in {wall:.1f} s, {used:.1f} s of processor")


if __name__ == "__main__":
    main()
