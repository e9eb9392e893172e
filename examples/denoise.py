"""What a denoiser does: digits under noise of four levels, and the mean of what may be below."""

import os
import sys

import numpy as np
import torch

import vardiu
from vardiu.data.digits import digits
from vardiu.reports.samples import image_grid

out = sys.argv[1] if len(sys.argv) > 1 else "denoise.png"
fast = "VARDIU_FAST" in os.environ  # a few steps, for the tests

torch.manual_seed(0)
x, _ = digits()
held_out, points = x[:20].double(), x[20:].double()
teacher = vardiu.EmpiricalDenoiser(points, sigma_min=0.05)
rows: list[tuple[str, np.ndarray]] = [("held out", held_out.numpy())]
for sigma in (0.3,) if fast else (0.3, 0.6, 1.2):
    noisy = held_out + sigma * torch.randn_like(held_out)
    level = torch.full((len(noisy),), sigma, dtype=noisy.dtype)
    rows.append((f"noise of {sigma}", noisy.numpy()))
    rows.append((f"denoised at {sigma}", teacher(noisy, level).numpy()))
image_grid(rows, out)
