r"""Features to compare images by. A distance is of no use without their name."""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from ..functional.tensors import covariance, placed
from ..nn.bundled import bundled
from .metric import fingerprint

__all__ = [
    "ClassifierFeatures",
    "DigitsClassifier",
    "PrincipalComponents",
    "RandomCosines",
    "RandomFeatures",
    "digits_classifier",
]


# Of `benchmarks/digits_classifier.py`, for the seeds 0 and 1, and what its bytes are. The data are
# those of scikit-learn, from the UCI repository (Alpaydin and Kaynak, 1998, CC BY 4.0).
WEIGHTS = Path(__file__).with_name("digits_classifier.safetensors")
SHA256 = "6bbd4c44db91a9c29326c9d18900556d8c0d06b3bd758365b920d64c932426dc"


class DigitsClassifier(nn.Module):
    r"""A small convolutional classifier of 8x8 digits, and its 64 penultimate features.

    Its last maps, `MAPS`, are of 64 channels and 4x4 positions.

    Attributes:
        accuracy: Its accuracy on the fifth of the data that it was not trained on, a scalar.
        name: The name to state beside a distance on its features.
    """

    MAPS = "trunk.pool"

    scale: Tensor
    accuracy: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(1, 32, 3, padding=1),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(32, 64, 3, padding=1),
                relu2=nn.ReLU(),
                pool=nn.MaxPool2d(2),
                flat=nn.Flatten(),
                linear=nn.Linear(64 * 16, 64),
                relu3=nn.ReLU(),
            )
        )
        self.head = nn.Linear(64, 10)
        # Distances are read more easily where the real features have unit variance on average.
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("accuracy", torch.tensor(math.nan, dtype=torch.float64))

    @property
    def name(self) -> str:
        weights = torch.cat([p.flatten() for p in self.parameters()])
        return f"digits classifier {fingerprint(weights)} (accuracy {self.accuracy.item():.3f})"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        r"""Returns the features of images `(N, 1, 8, 8)`, with shape `(N, 64)`.

        They are scaled so that those of the real digits have unit variance on average.
        """
        self._check(x)
        return self.scale * torch.cat([self.trunk(part) for part in x.float().split(2048)])

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        r"""Returns the classes of images, with shape `(N,)`."""
        self._check(x)
        return torch.cat([self(part).argmax(1) for part in x.float().split(2048)])

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or tuple(x.shape[1:]) != (1, 8, 8):
            raise ValueError(f"images must have shape (N, 1, 8, 8), got {tuple(x.shape)}")


class ClassifierFeatures:
    r"""The penultimate features of a classifier, as a space of features.

    Arguments:
        classifier: The classifier.
    """

    def __init__(self, classifier: DigitsClassifier) -> None:
        self.classifier, self.name = classifier, classifier.name

    def __call__(self, x: Tensor) -> Tensor:
        r"""Returns the features of images, with shape `(N, F)`."""
        return self.classifier.features(x)


@functools.cache
def digits_classifier(seed: int = 0) -> DigitsClassifier:
    r"""Returns a classifier that was trained on four fifths of the real digits. It comes with the
    library: its distances are the same everywhere.

    Arguments:
        seed: The seed of the training, 0 or 1. That of 0 measures; a student that is trained in a
            classifier's features is trained in those of the other one.

    Raises:
        ConfigError: The weights of this installation were changed.
    """
    tensors, own = bundled(WEIGHTS, SHA256), f"{seed}."
    with torch.device("meta"):  # no weights are drawn: the streams of a run stay as they are
        model = DigitsClassifier()
    model.load_state_dict(
        {name.removeprefix(own): x for name, x in tensors.items() if name.startswith(own)},
        assign=True,
    )
    return model.requires_grad_(False).eval()


class RandomFeatures:
    r"""Features of images of any size by random filters, the same for every seed of a run.

    Of an image, and of its half: the means over each quarter of rectified 3x3 filters (colours and
    shapes, and where they are), and the logarithms of the mean energy of 3x3 filters without a
    mean (edges and textures: what blur takes away and noise adds). Distances on random features
    tell distributions apart that differ, though not as people would.

    References:
        | On Random Weights and Unsupervised Feature Learning (Saxe et al., 2011)

    Arguments:
        shape: The shape of one image, :math:`(C, H, W)`.
        x: Images to scale by: each feature gets zero mean and unit variance on them. One that
            hardly any of them moves gets at least the deviation of the middle one: its own
            is not known, and next to zero.
        width: The number of filters of a kind.

    Attributes:
        name: The name to state beside a distance on these features.
    """

    # The energy of a flat image, far below that of a texture that can be seen.
    FLAT = 1e-3
    # Of images that move a feature: a deviation of fewer is not known.
    LEAST = 10

    def __init__(self, shape: tuple[int, int, int], x: Tensor, width: int = 32) -> None:
        c, height, side = shape
        generator = torch.Generator().manual_seed(0)
        size, scale = (width, c, 3, 3), 1 / (9 * c) ** 0.5
        self.raw = scale * torch.randn(size, generator=generator, dtype=torch.float32)
        self.shift = torch.randn(width, generator=generator, dtype=torch.float32) / 2
        self.edges = scale * torch.randn(size, generator=generator, dtype=torch.float32)
        self.edges -= self.edges.mean((2, 3), keepdim=True)
        self.halves = 2 if min(height, side) >= 16 else 1
        self.shape = tuple(shape)
        self.mean, self.std = torch.zeros(()), torch.ones(())
        found = self(x)
        self.mean, std = found.mean(0), found.std(0).clamp_min(1e-6)
        seldom = (found > found.amin(0)).sum(0) < self.LEAST
        self.std = torch.where(seldom, std.clamp_min(std.median()), std)
        seen = "x".join(map(str, shape))
        self.name = f"{len(self.mean)} random filters of {seen}, {fingerprint(self.raw)}"

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        r"""Returns the features of images in [-1, 1], with shape `(N, F)`."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"images must have shape (N, {self.shape}), got {tuple(x.shape)}")
        return torch.cat([self.of(part.float().cpu()) for part in x.split(1024)])

    def of(self, x: Tensor) -> Tensor:
        r"""Returns the features of images with their gradient, on the images' device."""
        found, pool = [], nn.functional.adaptive_avg_pool2d
        mean, std = placed(self.mean, x), placed(self.std, x)
        raw, shift, edges = (placed(t, x) for t in (self.raw, self.shift, self.edges))
        for _ in range(self.halves):
            shapes = nn.functional.conv2d(x, raw, shift, padding=1).relu()
            energy = pool(nn.functional.conv2d(x, edges).square(), 2)
            found += [pool(shapes, 2).flatten(1), (energy + self.FLAT).log().flatten(1)]
            x = nn.functional.avg_pool2d(x, 2)
        return (torch.cat(found, dim=1) - mean) / std


class PrincipalComponents:
    r"""Features of images of any size: the leading principal components of their pixels.

    They see where what is, which filters that are averaged over a quarter of an image do not, and
    nothing of fine texture: images are reduced to at most 16 by 16 pixels before.

    Arguments:
        x: Images to fit to, with shape :math:`(N, C, H, W)`; each component gets zero mean and
            unit variance on them.
        count: The largest number of components.

    Attributes:
        name: The name to state beside a distance on these features.
    """

    SIDE = 16
    # Of the largest variance: a component with less is rounding.
    LEAST = 1e-6

    def __init__(self, x: Tensor, count: int = 64) -> None:
        self.shape = tuple(x.shape[1:])
        pixels = torch.cat([self._pixels(part.float().cpu()) for part in x.split(1024)])
        self.mean = pixels.mean(0)
        values, vectors = torch.linalg.eigh(covariance(pixels - self.mean))
        keep = values > self.LEAST * values[-1]
        keep[:-count] = False
        self.matrix = vectors[:, keep] / values[keep].sqrt()
        seen = "x".join(map(str, self.shape))
        kept = self.matrix.shape[1]
        self.name = f"{kept} principal components of {seen}, {fingerprint(self.mean)}"

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        r"""Returns the features of images, with shape `(N, F)`."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"images must have shape (N, {self.shape}), got {tuple(x.shape)}")
        return torch.cat([self.of(part.float().cpu()) for part in x.split(1024)])

    def of(self, x: Tensor) -> Tensor:
        r"""Returns the features of images with their gradient, in float64, on their device."""
        pixels = self._pixels(x)
        return (pixels - placed(self.mean, pixels)) @ placed(self.matrix, pixels)

    def _pixels(self, x: Tensor) -> Tensor:
        size = min(x.shape[2], self.SIDE), min(x.shape[3], self.SIDE)
        return nn.functional.adaptive_avg_pool2d(x, size).flatten(1).double()


class RandomCosines:
    r"""Features of points: random cosines at several lengths, and the coordinates.

    .. math:: \sqrt2 \cos \left( \langle w, x - m \rangle / \ell + b \right), \qquad
        w \sim \mathcal{N}(0, I), \quad b \sim \mathcal{U}[0, 2 \pi)

    Two moments of cosines hold those of their sums and differences: what they miss is much finer
    than the smallest length.

    References:
        | Random Features for Large-Scale Kernel Machines (Rahimi and Recht, 2007)

    Arguments:
        x: Points to scale by, with shape :math:`(N, *)`: lengths are shares of their standard
            deviation a dimension.
        lengths: The shares.
        count: The number of cosines of each length.

    Attributes:
        name: The name to state beside a distance on these features.
    """

    def __init__(
        self, x: Tensor, lengths: tuple[float, ...] = (1.0, 0.25, 0.06), count: int = 64
    ) -> None:
        flat = x.flatten(1).double()
        generator = torch.Generator().manual_seed(0)
        d, self.mean = flat.shape[1], flat.mean(0)
        self.std = (flat - self.mean).square().mean().sqrt()
        scale = torch.tensor(lengths, dtype=torch.float64).repeat_interleave(count)
        w = torch.randn(len(scale), d, generator=generator, dtype=torch.float64)
        self.matrix = w / (scale[:, None] * self.std)
        u = torch.rand(len(scale), generator=generator, dtype=torch.float64)
        self.phase = 2 * math.pi * u
        self.shape = tuple(x.shape[1:])
        self.name = f"{len(self.phase)} random cosines, {fingerprint(self.matrix)}"

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        r"""Returns the features of points, with shape `(N, F)`."""
        return self.of(x.cpu())

    def of(self, x: Tensor) -> Tensor:
        r"""Returns the features of points with their gradient, in float64, on their device."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"points must have shape (N, {self.shape}), got {tuple(x.shape)}")
        flat = x.flatten(1).double()
        moved = flat - placed(self.mean, flat)
        angles = moved @ placed(self.matrix, flat).T + placed(self.phase, flat)
        return torch.cat([moved / placed(self.std, flat), 2**0.5 * angles.cos()], dim=1)
