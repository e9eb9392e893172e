r"""Networks whose features images are compared in: a small one on board, and VGG from a file.

The small one has three convolutions, and was trained by `benchmarks/patch_features.py` to tell
which of five photographs a patch is from and by how many quarter turns it is turned. The
photographs are those of scikit-learn (China by Daniel Büchele and Flower by vultilion, both CC BY
2.0) and of scikit-image (astronaut by NASA, public domain; Chelsea by Stefan van der Walt and
coffee by Rachel Michetti, both CC0). Its weights have this library's licence.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import ConfigError, shown
from .bundled import bundled

__all__ = ["SHA256", "SMALL", "WEIGHTS", "PerceptualNet", "perceptual_net"]


# The name of the network on board, its file, and what its bytes are.
SMALL = "small"
WEIGHTS = Path(__file__).with_name("perceptual.safetensors")
SHA256 = "fc295271dc2560fd4c3b71f829cf31a526dcc10d4bb75d3ea871879294d30bee"


# Of VGG-16 as torchvision numbers its layers: the convolutions of each of five blocks.
VGG_BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


# What VGG was shown: the mean and the deviation of each colour, of pixels in [0, 1].
VGG_MEAN, VGG_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SmoothPool(nn.Module):
    r"""Halves a map by the root of a local mean of squares, which does not alias as a maximum.

    References:
        | Image Quality Assessment: Unifying Structure and Texture Similarity (Ding et al., 2020)
        | https://arxiv.org/abs/2004.07728, Section 3.1
    """

    def forward(self, x: Tensor) -> Tensor:
        line = torch.hann_window(5, periodic=False, dtype=x.dtype, device=x.device)[1:-1]
        kernel = line[:, None] * line / line.sum().square()
        channels = x.shape[1]
        mean = nn.functional.conv2d(
            nn.functional.pad(x.square(), (1, 1, 1, 1), mode="replicate"),
            kernel.expand(channels, 1, 3, 3),
            stride=2,
            groups=channels,
        )
        return (mean + 1e-12).sqrt()


class PerceptualNet(nn.Module):
    r"""Blocks of convolutions with ReLU; its features are the image and each block's output.

    Arguments:
        widths: The channels of the convolutions of each block.
        name: The name to state beside what its features say.
        mean: What is taken off each colour of an image in [0, 1].
        std: What the rest is divided by.

    Attributes:
        weights: The weights of structure and texture for `dists`, where its file holds some.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        widths: Sequence[Sequence[int]],
        name: str,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        self.name, self.weights = name, tuple[Tensor, ...]()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        blocks, inputs = [], 3
        for i, block in enumerate(widths):
            layers: list[nn.Module] = [SmoothPool()] if i else []
            for width in block:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
                inputs = width
            blocks.append(nn.Sequential(*layers))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        r"""Returns the maps of images in [0, 1], `(B, 1 or 3, H, W)`, finest first, with their
        gradients; the first is the image. Of edges larger numbers are taken as they are."""
        x = x.expand(-1, 3, -1, -1)
        found = [x]
        # Computed in the type of the weights, and returned in that of the images.
        h = (x.to(self.mean) - self.mean) / self.std
        for block in self.blocks:
            h = block(h)
            found.append(h.to(x))
        return found

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        r"""The convolutions, in the order of a call."""
        return [m for m in self.modules() if isinstance(m, nn.Conv2d)]


def small_net() -> PerceptualNet:
    r"""Returns the network on board with fresh weights."""
    return PerceptualNet(((16,), (32,), (64,)), SMALL)


@functools.cache
def perceptual_net(source: str = SMALL) -> PerceptualNet:
    r"""Returns a frozen network to compare images in.

    Arguments:
        source: `small` for the one on board; or a file of VGG-16's weights in safetensors, with
            the names of torchvision (`features.0.weight`), and `alpha` and `beta` of DISTS where
            they are at hand.

    Raises:
        ConfigError: There is no such file, it holds something else, or the weights on board are
            not those that were shipped.
    """
    net = _bundled() if source == SMALL else _vgg(Path(source))
    return net.float().requires_grad_(False).eval()


def _bundled() -> PerceptualNet:
    net = small_net()
    net.load_state_dict(bundled(WEIGHTS, SHA256))
    net.name = f"small network on board, {SHA256[:12]}"
    return net


def _vgg(path: Path) -> PerceptualNet:
    r"""Returns VGG-16 with the weights of a file; its widths are those of the file."""
    cure = f"give VGG-16's weights as a .safetensors file, or {SMALL!r} for the network on board"
    if not path.is_file():
        raise ConfigError(f"there is no network to compare images in at {shown(path)}: {cure}")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"{shown(path)} is no file of safetensors: {cure}") from error
    names = [[f"features.{i}" for i in block] for block in VGG_BLOCKS]
    flat = [name for block in names for name in block]
    missing = [name for name in flat if not {f"{name}.weight", f"{name}.bias"} <= set(tensors)]
    if missing:
        raise ConfigError(f"{shown(path)} holds no {missing[0]}.weight and .bias: {cure}")
    widths = [[len(tensors[f"{name}.bias"]) for name in block] for block in names]
    net = PerceptualNet(widths, "", VGG_MEAN, VGG_STD)
    for name, layer in zip(flat, net.convolutions, strict=True):
        for part, own in layer.named_parameters():
            found = tensors[f"{name}.{part}"]
            if found.shape != own.shape or not bool(found.isfinite().all()):
                raise ConfigError(
                    f"{shown(path)}: {name}.{part} must be finite and of shape "
                    f"{tuple(own.shape)}, got {tuple(found.shape)}: {cure}"
                )
            own.data = found.float()
    if {"alpha", "beta"} <= set(tensors):
        net.weights = tensors["alpha"].float(), tensors["beta"].float()
    net.name = f"VGG-16, {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    return net
