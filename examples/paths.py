"""The paths from noise to data: the states of a teacher's solver, one line a sample."""

import os
import sys

import torch
from matplotlib.figure import Figure

import vardiu
from vardiu.data import DENSITIES
from vardiu.denoisers.levels import karras_grid
from vardiu.samplers import trajectory

out = sys.argv[1] if len(sys.argv) > 1 else "paths.png"
fast = "VARDIU_FAST" in os.environ  # a few steps, for the tests

torch.manual_seed(0)
spec = DENSITIES["ring8"]()
teacher = vardiu.MixtureDenoiser(spec.means, spec.stds, sigma_min=0.02, sigma_max=10.0)
levels = karras_grid(8 if fast else 64, 0.02, 10.0).to(spec.means)
noise = 10.0 * torch.randn(20 if fast else 200, 2)
states = trajectory(teacher, noise.to(spec.means), levels, correct=True)
paths = torch.stack([getattr(state, "x", state) for state in states]).numpy()

figure = Figure(figsize=(6, 6), layout="constrained")
ax = figure.add_subplot()
ax.plot(paths[..., 0], paths[..., 1], color="#0072B2", alpha=0.25, linewidth=0.7)
ax.scatter(*paths[-1].T, s=9, color="#333333", zorder=3)
ax.set(xlim=(-12, 12), ylim=(-12, 12), aspect="equal", title="200 paths to eight Gaussians")
figure.savefig(out, dpi=120)
