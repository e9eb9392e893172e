r"""How VarDiU enters the contests."""

from __future__ import annotations

from dataclasses import replace

from ...settings.fields import AnchorSettings, LevelSettings, NetworkOptimizer
from ..base import Arm
from .presets import PRESETS
from .rows import ANCHORED, FRAMED, GAUSSIAN, SHARED, SMALL, TEXTURES

__all__ = ["ARMS"]


CONTENDER = replace(GAUSSIAN, posterior_optimizer=NetworkOptimizer())

# What brought samples of patches nearest to those of the training in the contest's time, see
# docs/comparison.md: larger levels too, and for recall an anchor that follows sooner. The preset's
# row, without them, is nearer to patches that were held out.
SOON = replace(
    TEXTURES,
    levels=LevelSettings(sigma_min=0.02, sigma_max=6.0),
    anchor=AnchorSettings(rate=0.5),
)

IMAGE_FRAME = Arm("VarDiU, framed", PRESETS["images-framed"].settings)

ARMS = {
    "mog40": {
        "gaussian": Arm("VarDiU, Gaussian", CONTENDER),
        "mixture": Arm("VarDiU, mixture", replace(CONTENDER, posterior="mixture")),
        "flow": Arm("VarDiU, flow", replace(CONTENDER, posterior="flow")),
        "particles": Arm("VarDiU, Gaussian, 4 particles", replace(CONTENDER, particles=4)),
        "shared": Arm("VarDiU, minibatch mixture", SHARED),
    },
    "digits": {
        "anchored": Arm("VarDiU, anchored", SMALL),
        "framed": Arm("VarDiU, framed", FRAMED),
    },
    "patches": {"anchored": Arm("VarDiU, anchored", SOON), "framed": IMAGE_FRAME},
    "images": {"anchored": Arm("VarDiU, anchored", ANCHORED), "framed": IMAGE_FRAME},
    "vectors": {"shared": Arm("VarDiU, minibatch mixture", PRESETS["vectors-vardiu"].settings)},
}
