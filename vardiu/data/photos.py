r"""Patches of the photographs that scikit-learn and scikit-image carry in their wheels.

==========  ======================================================================
photograph  source, as the packages state it
==========  ======================================================================
china       scikit-learn; Daniel Büchele, CC BY 2.0
flower      scikit-learn; vultilion, CC BY 2.0
astronaut   scikit-image; NASA, public domain
chelsea     scikit-image; Stefan van der Walt, CC0
coffee      scikit-image; Rachel Michetti, CC0
rocket      scikit-image; SpaceX, CC0
motorcycle  scikit-image; Middlebury stereo data (Scharstein et al., 2014), no licence stated
==========  ======================================================================

Each photograph is reduced by averaging blocks of pixels; patches are taken at a regular stride.
The right fifth of each is held out: no pixel of a held-out patch is in one of the training set.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import ConfigError

__all__ = ["PHOTOS", "patches", "photo", "photos"]


PHOTOS = ("china", "flower", "astronaut", "chelsea", "coffee", "rocket", "motorcycle_left")


SUFFIXES = {"china": ".jpg", "flower": ".jpg", "rocket": ".jpg"}


# Blocks of pixels, and the stride of patches in reduced pixels, by the side of a patch.
REDUCTIONS = {8: ((4, 3), (8, 2)), 16: ((2, 6), (4, 3)), 32: ((1, 12), (2, 6))}


@functools.cache
def photo(name: str) -> Tensor:
    r"""Returns a photograph in [-1, 1], with shape `(3, H, W)`.

    Raises:
        ConfigError: The package that carries it is not installed, or does not carry it.
    """
    if name in ("china", "flower"):
        import sklearn.datasets

        folder = Path(sklearn.datasets.__file__).parent / "images"
    else:
        try:
            import skimage.data
        except ModuleNotFoundError as error:
            raise ConfigError(
                "the photographs need scikit-image: pip install 'vardiu[metrics]'"
            ) from error
        folder = Path(skimage.data.__file__).parent
    path = folder / f"{name}{SUFFIXES.get(name, '.png')}"
    if not path.is_file():
        raise ConfigError(f"this version of the package does not carry {path.name}")
    with Image.open(path, formats=("PNG", "JPEG")) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1).contiguous()


@functools.cache
def photos(side: int = 16, held_out: bool = False) -> Tensor:
    r"""Returns patches in [-1, 1], with shape `(N, 3, side, side)`, photograph by photograph.

    Arguments:
        side: The side of a patch: 8, 16 or 32.
        held_out: Whether those of the held-out fifth are returned.

    Raises:
        ConfigError: There are no patches of this side.
    """
    return torch.cat([patches(name, side, held_out) for name in PHOTOS])


def patches(name: str, side: int = 16, held_out: bool = False) -> Tensor:
    r"""Returns the patches of one photograph, see `photos`."""
    if side not in REDUCTIONS:
        raise ConfigError(f"patches of photographs have a side of 8, 16 or 32, got {side}")
    found = [torch.empty(0, 3, side, side)]
    for block, stride in REDUCTIONS[side]:
        small = torch.nn.functional.avg_pool2d(photo(name)[None], block)[0]
        edge = int(0.8 * small.shape[2])
        region = small[:, :, edge:] if held_out else small[:, :, :edge]
        if min(region.shape[1:]) >= side:
            cut = region.unfold(1, side, stride).unfold(2, side, stride)
            found.append(cut.permute(1, 2, 0, 3, 4).reshape(-1, 3, side, side))
    return torch.cat(found)
