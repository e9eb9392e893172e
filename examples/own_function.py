"""A function of your own as the teacher: a ring, whose denoiser is four lines."""

import os
import sys

import torch

import vardiu
from vardiu.denoisers.levels import karras_grid
from vardiu.reports.samples import scatter_grid

out = sys.argv[1] if len(sys.argv) > 1 else "own_function.png"
fast = "VARDIU_FAST" in os.environ  # a few steps, for the tests

torch.manual_seed(0)
angles = torch.linspace(0, 2 * torch.pi, 361)[:-1]
circle = torch.stack([torch.cos(angles), torch.sin(angles)], dim=1)


def denoised(x_t, sigma):
    """The mean of the points of the circle, each weighted by how likely it made x_t."""
    distance = torch.cdist(x_t, circle.to(x_t)).square()
    return torch.softmax(-distance / (2 * sigma[:, None] ** 2), dim=1) @ circle.to(x_t)


teacher = vardiu.FunctionDenoiser(denoised, shape=(2,), sigma_min=0.02, sigma_max=10.0)
solver = vardiu.Heun(teacher, karras_grid(4 if fast else 32, 0.02, 10.0))
x = solver.sample(200 if fast else 2000)
noisy = circle + 0.3 * torch.randn_like(circle)
mended = teacher(noisy, torch.full((len(noisy),), 0.3))
panels = [("noisy", noisy), ("denoised", mended), ("samples of the teacher", x)]
scatter_grid([(title, points.numpy()) for title, points in panels], None, 2.0, out)
