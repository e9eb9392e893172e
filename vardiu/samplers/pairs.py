r"""Pairs of noise and sample: what the teacher's own sampler makes of a latent.

The probability-flow equation maps :math:`z` to one sample, deterministically. Pairs need no data,
only calls of the teacher; they are where a student starts that would otherwise collapse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..denoisers.base import Denoiser
from ..denoisers.levels import karras_grid
from ..functional.tensors import sent
from .ode import Heun

__all__ = ["Pairs", "teacher_pairs"]


class Pairs(NamedTuple):
    r"""Latents, the teacher's samples and their conditions, each with :math:`N` rows.

    Of whole paths `x` has the states of each level below the first, the sample last:
    :math:`(N, n, *)`.
    """

    z: Tensor
    x: Tensor
    cond: Mapping[str, Tensor]

    def select(self, rows: Tensor) -> Pairs:
        r"""Returns the pairs of these rows, an index `(B,)` on the pairs' own device."""
        cond = {name: value[rows] for name, value in self.cond.items()}
        return Pairs(self.z[rows], self.x[rows], cond)

    def to(self, device: torch.device | str) -> Pairs:
        r"""Returns the pairs on a device, which need not wait for them."""
        cond = {name: sent(value, device) for name, value in self.cond.items()}
        return Pairs(sent(self.z, device), sent(self.x, device), cond)


@torch.no_grad()
def teacher_pairs(
    teacher: Denoiser,
    z: Tensor,
    cond: Mapping[str, Tensor],
    *,
    steps: int,
    batch: int = 500,
    whole: bool = False,
) -> Pairs:
    r"""Returns the teacher's samples of latents, by Heun's method.

    Arguments:
        teacher: The teacher; :math:`2 n - 1` calls a batch.
        z: Standard normal latents of the teacher's shape, :math:`(N, *)`.
        cond: Their conditions.
        steps: The number :math:`n` of steps.
        batch: The number of rows solved at once.
        whole: Whether to return the states on the way as well.
    """
    sampler = Heun(teacher, karras_grid(steps, teacher.sigma_min, teacher.sigma_max))
    parts = []
    for i in range(0, len(z), batch):
        rows = {name: value[i : i + batch] for name, value in cond.items()}
        start = teacher.sigma_max * z[i : i + batch]
        if whole:
            _, *below = sampler.states(start, generator=None, **rows)
            parts.append(torch.stack(below, 1).to(z.dtype))
        else:  # which holds one state at a time
            parts.append(sampler(start, generator=None, **rows))
    return Pairs(z, torch.cat(parts), cond)
