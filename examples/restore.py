"""A square of a digit is hidden, and a teacher restores it: diffusion posterior sampling."""

import os
import sys

import torch

import vardiu
from vardiu.data.digits import digits
from vardiu.data.operators import Inpainting, box_mask
from vardiu.reports.samples import image_grid
from vardiu.samplers.inverse import DPS, RowNoise

out = sys.argv[1] if len(sys.argv) > 1 else "restore.png"
fast = "VARDIU_FAST" in os.environ  # a few steps, for the tests

torch.manual_seed(0)
x = digits()[0].double()
truth, points = x[:10], x[10:]
teacher = vardiu.EmpiricalDenoiser(points, bandwidth=0.1, sigma_min=0.02, sigma_max=20.0)
hidden = Inpainting(box_mask(4, (1, 8, 8)).double(), (1, 8, 8))
y = hidden.A(truth)
solver = DPS(teacher, hidden, steps=5 if fast else 200, step=1.0, noise=0.02)
*_, last = solver(y, RowNoise(range(len(truth))))
rows = [("measured", y), ("restored", last.state), ("truth", truth)]
image_grid([(title, images.detach().numpy()) for title, images in rows], out, columns=10)
