r"""Features to compare images by. A distance is of no use without their name."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from ..data.digits import digits
from .metric import fingerprint

__all__ = ["DigitsClassifier", "digits_classifier"]


class DigitsClassifier(nn.Module):
    r"""A small convolutional classifier of 8x8 digits, and its 64 penultimate features.

    Attributes:
        accuracy: Its accuracy on the fifth of the data that it was not trained on.
        name: The name to state beside a distance on its features.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 16, 64),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 10)
        # Distances are read more easily where the real features have unit variance on average.
        self.register_buffer("scale", torch.ones(()))
        self.accuracy = float("nan")

    @property
    def name(self) -> str:
        weights = torch.cat([p.flatten() for p in self.parameters()])
        return f"digits classifier {fingerprint(weights)} (accuracy {self.accuracy:.3f})"

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


@functools.cache
@torch.enable_grad()
def digits_classifier() -> DigitsClassifier:
    r"""Trains the classifier on four fifths of the real digits, with a fixed seed, in seconds.

    Also where it is first asked for under `no_grad`.
    """
    x, label = digits()
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(x), generator=generator)
    held, used = order[: len(x) // 5], order[len(x) // 5 :]
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float32)  # other types draw other weights
        try:
            model = DigitsClassifier()
        finally:
            torch.set_default_dtype(default)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(15):
        epoch = used[torch.randperm(len(used), generator=generator)]
        for rows in epoch.split(64):
            # A little noise keeps the features smooth off the grid of sixteen greys.
            noise = torch.randn(x[rows].shape, generator=generator, dtype=torch.float32)
            logits = model(x[rows].float() + 0.1 * noise)
            loss = nn.functional.cross_entropy(logits, label[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.requires_grad_(False).eval()
    model.scale = model.features(x).var(0).mean().rsqrt()
    model.accuracy = (model.predict(x[held]) == label[held]).double().mean().item()
    return model
