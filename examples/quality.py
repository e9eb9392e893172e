"""Quality against calls with its error: MMD^2 of a teacher, beside that of true samples."""

import os
import sys

import torch
from matplotlib.figure import Figure

import vardiu
from vardiu.data import DENSITIES
from vardiu.denoisers.levels import karras_grid
from vardiu.metrics import mmd2

out = sys.argv[1] if len(sys.argv) > 1 else "quality.png"
fast = "VARDIU_FAST" in os.environ  # a few steps, for the tests

torch.manual_seed(0)
spec = DENSITIES["spiral"]()
n = 200 if fast else 2000
teacher = vardiu.MixtureDenoiser(spec.means, spec.stds, sigma_min=0.02, sigma_max=20.0)
true = spec.sample(n)
measured = {}
for levels in (2, 3, 5, 9, 17):
    x = vardiu.Heun(teacher, karras_grid(levels, 0.02, 20.0)).sample(n)
    measured[2 * levels - 1] = mmd2(x, true)[0]
floor = mmd2(spec.sample(n), true)[0]
figure = Figure(figsize=(6, 4), layout="constrained")
ax = figure.add_subplot()
values, errors = ([getattr(m, key) for m in measured.values()] for key in ("value", "error"))
ax.errorbar(list(measured), values, errors, marker="o", color="#0072B2", label="teacher")
ax.axhline(floor.value, color="#333333", linestyle="--", label="true samples")
ax.set(xscale="log", yscale="log", xlabel="calls a sample", ylabel="MMD\u00b2")
ax.set_xticks(list(measured), [str(calls) for calls in measured])
ax.minorticks_off()
ax.legend()
figure.savefig(out, dpi=120)
