"""Guidance by a worse denoiser: samples move to where the better one is surer."""

import os
import sys

import torch

import vardiu
from vardiu.data import DENSITIES
from vardiu.denoisers.levels import karras_grid
from vardiu.reports.samples import scatter_grid

out = sys.argv[1] if len(sys.argv) > 1 else "guidance.png"
fast = "VARDIU_FAST" in os.environ  # a few steps, for the tests

torch.manual_seed(0)
spec = DENSITIES["pinwheel"]()
good = vardiu.MixtureDenoiser(spec.means, spec.stds, sigma_min=0.02, sigma_max=20.0)
# The worse one sees every Gaussian three times as wide.
weak = vardiu.MixtureDenoiser(spec.means, 3 * spec.stds, sigma_min=0.02, sigma_max=20.0)
panels = []
for scale in (1.0, 2.0, 4.0):
    guided = vardiu.Autoguided(good, weak, scale)
    solver = vardiu.Heun(guided, karras_grid(4 if fast else 32, 0.02, 20.0))
    panels.append((f"scale {scale:g}", solver.sample(200 if fast else 2000).numpy()))
scatter_grid(panels, None, 2 * spec.spread, out)
