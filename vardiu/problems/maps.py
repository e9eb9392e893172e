r"""Feature maps of samples: what a student may be taught relations in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..metrics.sets import TrainingSpace
from ..nn.taps import Activation
from ..storage.code import CODE_ERRORS, OwnCode

__all__ = ["FeatureMaps", "SpaceFeatures", "maps_of_code"]


class SpaceFeatures(nn.Module):
    r"""A space of features as a module: one position a sample, `(B, C)`.

    Arguments:
        space: The features.
    """

    def __init__(self, space: TrainingSpace) -> None:
        super().__init__()
        self.space = space

    def forward(self, x: Tensor) -> Tensor:
        return self.space.of(x).to(x.dtype)


class FeatureMaps(nn.Module):
    r"""What a frozen network makes of samples, with its gradient.

    Arguments:
        network: The network, of images in [-1, 1], or of points.
        decode: From samples to what they stand for, see `Space.decode`.
    """

    def __init__(self, network: nn.Module, decode: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.decode = network, decode

    def forward(self, x: Tensor) -> Tensor:
        r"""Returns maps, with shape `(B, C, *)`, of which positions may be missing."""
        maps: Tensor = self.network(self.decode(x))
        return maps


def maps_of_code(
    code: OwnCode, tap: str, shape: tuple[int, ...], decode: Callable[[Tensor], Tensor]
) -> FeatureMaps:
    r"""Returns the maps of a classifier of the user's own, tried on two samples.

    Arguments:
        code: The code: a module, or a function without arguments that returns one.
        tap: The name of its part whose maps are taken.
        shape: The shape of a sample.
        decode: From samples to images.

    Raises:
        ConfigError: It is no module, has no such part, cannot be called with images, or makes no
            maps that have a gradient.
    """
    module = code.made()
    if not isinstance(module, nn.Module):
        kind = type(module).__name__
        raise ConfigError(f"{code.source} makes a {kind}, and a classifier is a torch.nn.Module")
    try:
        found = FeatureMaps(Activation(module.float(), tap), decode)
    except ValueError as error:
        raise ConfigError(f"--relations.tap of {code.source}: {error}") from error
    x = torch.zeros(2, *shape, dtype=torch.float32, requires_grad=True)
    try:
        with torch.enable_grad():
            maps = found(x)
    except CODE_ERRORS as error:
        raise code.failure(error, "calling the classifier with images") from error
    if not (maps.ndim >= 2 and len(maps) == 2 and maps.is_floating_point()):
        raise ConfigError(
            f"{code.source}: the tap {tap!r} returns {tuple(maps.shape)} of 2 images, and maps "
            "have a row an image, and channels: give another --relations.tap"
        )
    if not maps.requires_grad:
        raise ConfigError(
            f"{code.source}: the maps at {tap!r} have no gradient by the image, and a student is "
            "trained by it: take out no_grad and detach"
        )
    return found
