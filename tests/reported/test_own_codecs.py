"""Own code between images and latents: `decode=` and `compress=` of a wrapper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vardiu.problems.images import ImageProblem
from vardiu.settings.fields import ImageSettings
from vardiu.storage.code import load_code

CODE = """
import torch
import vardiu
from torch.nn import functional as F


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, sigma):
        return x / (1 + sigma**2).view(-1, 1, 1, 1) + 0.0 * self.layer(x)


def decode(x):
    return F.interpolate(x / 2, scale_factor=2)


def compress(images):
    return {compress}


def make():
    levels = dict(sigma_min=0.05, sigma_max=20.0)
    return vardiu.FunctionDenoiser(
        Net(), shape={shape}, **levels, decode=decode, compress=compress
    )
"""


def written(compress="2 * F.avg_pool2d(images, 2)", shape="(1, 4, 4)"):
    with open("mine.py", "w") as file:
        file.write(CODE.format(compress=compress, shape=shape))
    return "mine.py:make"


def test_images_of_a_data_set_are_compressed_by_own_code(here):
    """Into the latents that a method learns from, the probe judges on, and a batch brings."""
    source = written()
    x = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 1), "uint8")
    np.savez("images.npz", x=x)
    row = ImageSettings(teacher=source, data="images.npz", reference=400)
    problem = ImageProblem(row, own={"teacher": load_code(source)})
    assert problem.space.latent and problem.space.image_shape == (1, 8, 8)
    images = torch.from_numpy(x).float().permute(0, 3, 1, 2) / 127.5 - 1
    latents = 2 * torch.nn.functional.avg_pool2d(images, 2)
    known, _ = problem.data.reference(64)
    assert torch.allclose(known, latents, atol=1e-5)
    batch = problem.data.clean(8, 0).at(0).x
    assert batch.shape == (8, 1, 4, 4)
    assert (
        torch.cdist(batch.flatten(1), latents.flatten(1)).min(1).values.max() < 0.01
    )  # others are 2 away
    # And images that are measured are decoded ones: constant over blocks of 2x2.
    shown = problem.space.images(latents[:4])
    assert torch.allclose(shown, (latents[:4] / 2).repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize(
    "compress, said",
    [
        ("F.avg_pool2d(images, 4)", "compress makes latents (2, 1, 4, 4) of two images"),
        ("None", "compress makes latents (2, 1, 4, 4) of two images (2, 1, 8, 8), got NoneType"),
        ("images @ torch.zeros(3, 3)", "its compress of images (2, 1, 8, 8)"),
    ],
)
def test_what_makes_no_latents_is_refused_before_any_training(here, refused, compress, said):
    source = written(compress)
    assert said in refused("distill", "images", "--teacher", source, "--out", "run")
    assert not (here / "run").exists()


def test_vector_latents_with_a_decoder_are_refused_with_the_cure(here, refused):
    source = written()
    line = refused("distill", "vectors", "--teacher", source, "--out", "run")
    assert "its samples stand for images: vardiu distill images" in line
    text = CODE.format(compress="2 * F.avg_pool2d(images, 2).flatten(1)", shape="(16,)")
    text = text.replace("x / 2, scale", "x.view(-1, 1, 4, 4) / 2, scale")
    text = text.replace("view(-1, 1, 1, 1) + 0.0 * self.layer(x)", "view(-1, 1)")
    (here / "mine.py").write_text(text)
    for preset in ("images", "vectors"):
        line = refused("distill", preset, "--teacher", source, "--out", "run")
    assert "its latents are vectors, of shape (16,)" in line and "leave decode out" in line
    assert not (here / "run").exists()
