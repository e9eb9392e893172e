"""Bias and variance of gradients where everything is known: a linear student, a Gaussian teacher.

    python benchmarks/gradients.py [--out runs/gradients]

The student walks down the *exact* gradient of the weighted divergence, so that all methods are
measured at the same students. Beside it each method trains what it needs, a posterior or a fake,
as many updates a student update as it asks for. At fixed checkpoints its estimate is compared
with the closed form.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vardiu.comparison.tables import markdown
from vardiu.data.batch import Batch
from vardiu.denoisers.exact import GaussianDenoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.functional.bounds import gaussian_kl
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.methods.vardiu import VarDiU
from vardiu.monitoring.gradients import gradient_quality
from vardiu.nn import MLP
from vardiu.posteriors.encoder import Encoder, UnitScale
from vardiu.posteriors.families import (
    CholeskyPosterior,
    FlowPosterior,
    GaussianPosterior,
    MixturePosterior,
)
from vardiu.reports.comparisons import gradients
from vardiu.storage.provenance import provenance
from vardiu.students.base import Generator
from vardiu.training.objective import Objective, only

D, BATCH, RATE = 4, 256, 0.02
LEVELS = LogUniform(0.3, 3.0)
CHECKPOINTS = (20, 100, 400)


class Affine(Generator):
    """x = A z + b."""

    def __init__(self, matrix: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.matrix, self.shift = nn.Parameter(matrix), nn.Parameter(shift)
        self.latent_shape = self.shape = (len(matrix),)

    def forward(self, z: Tensor, **cond: Tensor) -> Tensor:
        return z @ self.matrix.T + self.shift


class Known:
    """The teacher, where the student begins, and the exact gradient."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        root = torch.randn(D, D, generator=random)
        self.mean = torch.randn(D, generator=random)
        self.covariance = root @ root.T / D + 0.2 * torch.eye(D)
        self.begin = 0.7 * torch.randn(D, D, generator=random), torch.zeros(D)
        self.teacher = GaussianDenoiser(self.mean, self.covariance, sigma_min=0.1, sigma_max=10.0)

    def student(self) -> Affine:
        matrix, shift = self.begin
        return Affine(matrix.clone(), shift.clone())

    def gradient(self, student: Affine) -> Tensor:
        """The gradient of E[sigma^2 KL], by 64 midpoints of the levels' quantiles."""
        matrix = student.matrix.detach().double().requires_grad_(True)
        shift = student.shift.detach().double().requires_grad_(True)
        total, eye = torch.zeros((), dtype=torch.float64), torch.eye(D, dtype=torch.float64)
        sigmas = LEVELS((torch.arange(64, dtype=torch.float64) + 0.5) / 64, 0)
        for sigma in sigmas:
            noise = sigma**2 * eye
            mine = matrix @ matrix.T + noise
            theirs = self.covariance.double() + noise
            kl = gaussian_kl(shift, mine, self.mean.double(), theirs)
            total = total + sigma**2 * kl / 64
        parts = torch.autograd.grad(total, (matrix, shift))
        return torch.cat([part.flatten() for part in parts]).float()


def encoder(width: int = 64) -> Encoder:
    network = MLP((D,), (width,), width=width, depth=2, noisy=True, final=False)
    return Encoder(network, width, UnitScale(1.0))


def vardiu(known: Known, posterior: nn.Module | None, **options: Any) -> VarDiU:
    return VarDiU(
        known.teacher, known.student(), posterior, levels=LEVELS, lattice=True, **options
    )


def fake(known: Known, ratio: int) -> DiffInstruct:
    network = MLP((D,), (D,), width=64, depth=2, noisy=True)
    denoiser = PreconditionedDenoiser(
        network, shape=(D,), sigma_data=1.0, sigma_min=0.1, sigma_max=10.0
    )
    return DiffInstruct(
        known.teacher, known.student(), denoiser, levels=LEVELS, ratio=ratio, lattice=True
    )


ARMS: dict[str, Callable[[Known], Objective]] = {
    "VarDiU, Gaussian": lambda known: vardiu(known, GaussianPosterior(encoder(), D)),
    "VarDiU, full Gaussian": lambda known: vardiu(known, CholeskyPosterior(encoder(), D)),
    "VarDiU, mixture": lambda known: vardiu(known, MixturePosterior(encoder(), D)),
    "VarDiU, flow": lambda known: vardiu(known, FlowPosterior(encoder(), D)),
    "VarDiU, Gaussian, 4 particles": lambda known: vardiu(
        known, GaussianPosterior(encoder(), D), particles=4
    ),
    "VarDiU, minibatch mixture": lambda known: vardiu(known, None, shared=True),
    "Diff-Instruct, 1 fake": lambda known: fake(known, 1),
    "Diff-Instruct, 5 fake": lambda known: fake(known, 5),
    "Diff-Instruct, 10 fake": lambda known: fake(known, 10),
}


def helper(objective: Objective) -> tuple[str, int] | None:
    """The network that is trained beside the student, and its updates a student update."""
    if isinstance(objective, DiffInstruct):
        return "fake", objective.ratio
    return None if objective.shared else ("posterior", 1)


def train_helper(objective: Objective, name: str, optimizer: torch.optim.Optimizer) -> None:
    batch = Batch(BATCH)
    drawn = objective.prepare(batch, 0)
    phase = next(phase for phase in objective.phases if name in phase.updates)
    with only(objective, (name,)):
        loss = phase.loss(drawn, 0).value
        optimizer.zero_grad()
        loss.backward()
    optimizer.step()


def course(known: Known, objective: Objective, warm: int = 300) -> list[dict[str, Any]]:
    """Walks the student down the exact gradient; returns the quality at the checkpoints."""
    rows, beside = [], helper(objective)
    student = objective.generator
    if beside is not None:
        parameters = objective.network(beside[0]).parameters()
        optimizer = torch.optim.Adam(parameters, lr=2e-3)
        for _ in range(warm):  # all begin with a helper that knows the first student
            train_helper(objective, beside[0], optimizer)
    for step in range(1, CHECKPOINTS[-1] + 1):
        exact = known.gradient(student)
        if step in CHECKPOINTS:
            quality = gradient_quality(objective, Batch(BATCH), 0, exact, draws=256)
            rows.append({"progress": step / CHECKPOINTS[-1], **dataclasses.asdict(quality)})
        with torch.no_grad():
            student.matrix -= RATE * exact[: D * D].view(D, D)
            student.shift -= RATE * exact[D * D :]
        if beside is not None:
            for _ in range(beside[1]):
                train_helper(objective, beside[0], optimizer)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/gradients"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    known, found = Known(), {}
    for title, make in ARMS.items():
        torch.manual_seed(0)
        found[title] = course(known, make(known))
        print(title, [(round(r["bias"], 3), round(r["deviation"], 2)) for r in found[title]])
    about = provenance(["python", "benchmarks/gradients.py"], 0)
    content = {"provenance": about, "checkpoints": CHECKPOINTS, "arms": found}
    (args.out / "gradients-linear.json").write_text(json.dumps(content, indent=1) + "\n")
    gradients(found, args.out / "gradients-linear.png")
    lines = [
        {
            "arm": title,
            **{
                f"{kind} at step {step}": f"{row[kind]:.3f}"
                + (f" ± {row['bias_error']:.3f}" if kind == "bias" else "")
                for kind in ("bias", "deviation")
                for step, row in zip(CHECKPOINTS, rows, strict=True)
            },
        }
        for title, rows in found.items()
    ]
    print(markdown(lines))


if __name__ == "__main__":
    main()
