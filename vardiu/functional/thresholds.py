r"""Thresholds of clean estimates: what a reflected diffusion is in a solver of few steps.

Data in a box have posterior means in the box. An estimate that is brought back into it, and a step
that is taken with what it is then, stand for the reflection of the process at the walls.

References:
    | Reflected Diffusion Models (Lou and Ermon, 2023), https://arxiv.org/abs/2304.04740
    | Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding (Saharia et
    | al., 2022), https://arxiv.org/abs/2205.11487, Section 2.3
"""

from __future__ import annotations

import math

from torch import Tensor

from .tensors import expand_like

__all__ = ["thresholded"]


def thresholded(denoised: Tensor, bound: float, quantile: float = 1.0) -> Tensor:
    r"""Returns clean estimates within :math:`[-c, c]`.

    With a quantile below one the threshold is a row's own, :math:`s = \max(c, Q_p |x|)`, and the
    row is clipped to :math:`[-s, s]` and multiplied by :math:`c / s`. Inside the box it is the
    same tensor, bit for bit. The gradient outside is zero: it is for targets, not for what is
    trained.

    Arguments:
        denoised: The estimates, with shape :math:`(B, *)`.
        bound: The half-width :math:`c` of the box; infinite for none.
        quantile: The quantile :math:`p`; one for the box itself.
    """
    if quantile >= 1 or bound == math.inf:
        return denoised.clamp(-bound, bound)
    wide = denoised.abs().flatten(1).quantile(quantile, dim=1).clamp_min(bound)
    wide = expand_like(wide, denoised)
    return denoised.clamp(-wide, wide) * (bound / wide)
