"""A one-step student of eight Gaussians, from `vardiu distill` to samples in Python."""

import os
import sys
from pathlib import Path

import torch

from vardiu import models
from vardiu.cli.main import main
from vardiu.data import DENSITIES
from vardiu.reports.samples import scatter_grid

out = sys.argv[1] if len(sys.argv) > 1 else "one_step.png"
fast = "VARDIU_FAST" in os.environ  # a few steps, for the tests

words = ["--steps", "4" if fast else "800", "--threads", "1", "--evaluations", "1"]
words += ["--samples", "300", "--width", "8", "--batch", "16"] if fast else []
assert main(["distill", "ring8", "--out", "runs/ring8", *words]) == 0

# The folder has weights and settings and no code: this is all that it takes to use them.
student = models.load("runs/ring8/student")
torch.manual_seed(0)
z = torch.randn(2000, *student.latent_shape)
with torch.no_grad():
    x = student(z)  # one network call
data = DENSITIES["ring8"]().sample(2000)
panels = [("data", data.numpy()), ("student, one call", x.numpy())]
scatter_grid(panels, None, 5.0, Path(out))
