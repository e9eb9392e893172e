r"""What does a teacher's guide bring students of a known fault, on forty modes?

    python benchmarks/guided.py docs/results/guided.json --seeds 3

Forty equal Gaussians of standard deviation 0.15 with means uniform in [-4, 4]^2, and endpoint
students of four calls at u = 1, 3/4, 1/2 and 1/4 of alpha = cos(pi u / 2): the exact map of the
probability-flow equation of a corrupted mixture. The teacher is exact. Sliced Wasserstein-2
distance of 4,000 samples to as many true ones; a seed draws means, latents and true samples.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.exact import MixtureDenoiser
from vardiu.denoisers.levels import log_grid
from vardiu.metrics.transport import wasserstein2_sliced
from vardiu.samplers import Heun, TeacherGuide
from vardiu.students import FewStep, GuidedStudent

ROWS, STD, TOP = 4_000, 0.15, 200.0
LEVELS = [TOP, *(math.tan(math.pi * u / 2) for u in (0.75, 0.5, 0.25))]
KINDS: Mapping[str, Mapping | None] = {
    "plain": None,
    "fresh": {"renoise": "fresh"},
    "shared": {"renoise": "shared"},
    "same level": {"renoise": "fresh", "level": "same"},
}


class End(Denoiser):
    """Where a state ends: by many steps of Heun's method, or as a denoiser's own estimate."""

    def __init__(self, inner: Denoiser, steps: int = 40, bias: Tensor | None = None) -> None:
        super().__init__()
        self.inner, self.steps, self.bias = inner, steps, bias
        self.shape, self.sigma_min, self.sigma_max = inner.shape, 0.02, TOP

    def forward(self, x_t: Tensor, sigma: Tensor) -> Tensor:
        if not self.steps:
            return self.inner(x_t, sigma)
        grid = torch.cat([log_grid(self.steps, 0.03, float(sigma[0])), torch.zeros(1)])
        x = Heun(self.inner, grid.unique().flip(0))(x_t)
        return x if self.bias is None else x + self.bias


def distances(seed: int) -> dict[str, dict[str, float]]:
    """The distance of each student, by the kind of its guide."""
    random = torch.Generator().manual_seed(seed)
    means = 8 * torch.rand(40, 2, generator=random) - 4

    def true() -> Tensor:
        chosen = torch.randint(40, (ROWS,), generator=random)
        return means[chosen] + STD * torch.randn(ROWS, 2, generator=random)

    truth, teacher = true(), MixtureDenoiser(means, STD)
    students = {
        "exact": End(teacher),
        "means shrunk by 0.9": End(MixtureDenoiser(0.9 * means, STD)),
        "10 modes missing": End(MixtureDenoiser(means[:30], STD)),
        "a constant bias of 0.3": End(teacher, bias=torch.tensor([0.3, 0.0])),
        "undistilled": End(teacher, steps=0),
    }

    def distance(x: Tensor) -> float:
        slices = torch.Generator().manual_seed(0)
        return wasserstein2_sliced(x, truth, projections=256, generator=slices).value

    found = {"true samples": {"plain": distance(true())}}
    for name, inner in students.items():
        row = found[name] = {}
        for kind, options in KINDS.items():
            student = FewStep(inner, LEVELS)
            if options is not None:
                student = GuidedStudent(student, TeacherGuide(teacher, 0.3, (0, 1), **options))
            row[kind] = distance(draw(student, seed))
    return found


@torch.no_grad()
def draw(student: FewStep | GuidedStudent, seed: int) -> Tensor:
    """Samples of one latent for all kinds."""
    random = torch.Generator().manual_seed(1_000 + seed)

    class Draws:
        def normal(self, shape: tuple[int, ...]) -> Tensor:
            return torch.randn(ROWS, *shape, generator=random)

    return student(student.latent_from(Draws()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    runs = [distances(seed) for seed in range(chosen.seeds)]
    rows = {}
    for name, kinds in runs[0].items():
        values = {kind: [run[name][kind] for run in runs] for kind in kinds}
        rows[name] = {
            kind: [statistics.mean(v), statistics.stdev(v) / len(v) ** 0.5 if len(v) > 1 else None]
            for kind, v in values.items()
        }
    about = {"seeds": chosen.seeds, "rows": ROWS, "strength": 0.3, "steps": [0, 1]}
    chosen.out.write_text(json.dumps({**about, "distances": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
