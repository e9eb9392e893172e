r"""Posterior sampling with latent diffusion: the misfit, and that the latent is a fixed point.

.. math:: \omega \| y - A \, \mathrm{Dec}(\hat z_0) \| + \gamma \, \big\| \mathrm{Enc} \big(
    A^\top y + (I - A^\top A) \, \mathrm{Dec}(\hat z_0) \big) - \hat z_0 \big\|

Its gradient is taken off a deterministic step. Where samples are images, the second term is
:math:`\| A^\top (y - A \hat x_0) \|`.

References:
    | Solving Linear Inverse Problems Provably via Posterior Sampling with Latent Diffusion Models
    | (Rout et al., 2023), https://arxiv.org/abs/2307.00619
"""

from __future__ import annotations

from torch import Tensor

from ...functional.inverse import row_norm
from .dps import DPS

__all__ = ["PSLD"]


class PSLD(DPS):
    r"""`step` multiplies the gradient of both terms. See `vardiu.samplers.inverse.Solver` for the
    arguments; the operator needs an adjoint."""

    NAME, STEPS, STEP = "psld", 1000, 1.0
    ETA, NEEDS_ADJOINT = 0.0, True
    OMEGA, GAMMA = 1.0, 0.1

    def error(self, y: Tensor, clean: Tensor) -> Tensor:
        return self.OMEGA * self.misfit(y, clean) + self.GAMMA * row_norm(self.gluing(y, clean))

    def gluing(self, y: Tensor, clean: Tensor) -> Tensor:
        r"""Returns what a round through the measurement and the codec changes of a sample."""
        image, adjoint = self.codec.decode(clean), self.adjoint
        glued = adjoint(y) + image - adjoint(self.operator.A(image))
        return self.codec.encode(glued) - clean

    def adjoint(self, y: Tensor) -> Tensor:
        r"""Returns :math:`A^\top y`."""
        found: Tensor = self.operator.A_adjoint(y)  # type: ignore[attr-defined]  # asked before
        return found
