r"""Rows of settings that several methods are run with: the same ground for all of them."""

from __future__ import annotations

from .fields import DensitySettings, ImageSettings, LevelSettings, WeightSettings

__all__ = ["AT_ONCE", "BOUNDED", "COARSE_TO_FINE", "MIXTURE", "MOG40", "PATCHES"]


MOG40 = DensitySettings(fourier=7, precision="bfloat16")


COARSE_TO_FINE = LevelSettings(sigma_min=0.2, sigma_max=20.0, start_min=10.0)


AT_ONCE = LevelSettings(sigma_min=0.2, sigma_max=10.0)


BOUNDED = WeightSettings(kind="bounded", scale=1.0)


# Unit scale, and a student that starts as spread as the data, see docs/dimensions.md.
MIXTURE = DensitySettings(
    name="mixture",
    dim=8,
    latent=8,
    fourier=0,
    residual=True,
    sigma_max=20.0,
    precision="bfloat16",
)


PATCHES = ImageSettings(name="patches", data="photos", widths=(24, 64), precision="bfloat16")
