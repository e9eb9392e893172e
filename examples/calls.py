"""What fewer calls cost a teacher: its own solver with 3, 4, 8 and 32 levels."""

import os
import sys

import torch

import vardiu
from vardiu.data import DENSITIES
from vardiu.denoisers.levels import karras_grid
from vardiu.reports.samples import scatter_grid

out = sys.argv[1] if len(sys.argv) > 1 else "calls.png"
fast = "VARDIU_FAST" in os.environ  # a few steps, for the tests

torch.manual_seed(0)
spec = DENSITIES["two_moons"]()
teacher = vardiu.MixtureDenoiser(spec.means, spec.stds, sigma_min=0.02, sigma_max=20.0)
panels = []
for n in (3, 4, 8, 32):
    solver = vardiu.Heun(teacher, karras_grid(n, 0.02, 20.0))
    x = solver.sample(200 if fast else 2000)
    panels.append((f"{2 * n - 1} calls", x.numpy()))
scatter_grid(panels, None, 4.0, out)
