r"""The anchored posterior with a bank: the anchor's law from its samples, without a network.

The anchor's posterior needs the law :math:`p_{a, \sigma}` of its noisy samples. Let
:math:`z_1, \ldots, z_N \sim p(z)` be drawn afresh, independently of the latent :math:`z_0` that
made :math:`x_t`, and of its noise. With :math:`w_j = \mathcal{N}(x_t; g_a(z_j), \sigma^2 I)`,

.. math:: r(z_0 \mid x_t) = p(z_0) \, \mathbb{E}_{z_1, \ldots, z_N} \left[ \frac{w_0}
    {\tfrac{1}{N + 1} \sum_{j=0}^{N} w_j} \right]

is a normalised density of :math:`z_0`: under the prior all :math:`N + 1` latents are alike, so
that its integral is the mean of :math:`\tfrac{1}{N + 1} \sum_j w_j` over itself, one. By the
convexity of :math:`- \log`

.. math:: U_{a, N} = \mathbb{E} \frac{\| g(z_0) - g_a(z_0) \|^2}{2 \sigma^2} + \mathbb{E} \left[
    \log \frac{1}{N + 1} \sum_{j=0}^{N} \mathcal{N}(x_t; g_a(z_j), \sigma^2 I) - \log
    q_\sigma(x_t) \right] \geq \mathrm{KL}(p_\sigma \,\|\, q_\sigma),

and it tends to :math:`U_a` as :math:`N` grows. Its gradient is that of the anchored bound, with
the mean of the bank in the place of :math:`D_a`; no gradient goes through the bank. With the
anchor at the student it is the minibatch mixture's bound, of as many samples as one can afford.

It is a bound only where all samples are of *one* anchor, the row's own among them with equal
weight, and the bank is independent of the row and of the student. Samples that are kept from
earlier steps are of other anchors; without the row's own the value is below the bound's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..functional.bounds import same_condition, shared_mean
from ..functional.tensors import expand_like
from ..students.base import Generator
from ..training.objective import Loss, Phase
from ..training.streams import StreamDraws
from .anchored import AnchoredVarDiU
from .diff_instruct import Fakes

__all__ = ["BankedVarDiU"]


class BankedVarDiU(AnchoredVarDiU):
    r"""The anchored bound, with a bank of the anchor's samples at large levels and the fake at
    small ones.

    A row's bank is the anchor's samples of the batch, its own among them, and `bank` further ones
    for each row, with that row's condition; samples of other conditions do not count.

    Needs:
        No data, no gradient of the teacher.

    Deviations:
        - It is not in the paper of VarDiU: it was derived here.
        - With an `own` weight other than one there is no bound, and with a `lattice` none is
          shown: the batch's latents are then no independent draws.

    References:
        | VarDiU: A Variational Diffusive Upper Bound for One-Step Diffusion Distillation
        | (Wang, Zhang, Ou and Barber, 2025), https://arxiv.org/abs/2508.20646
        | Semi-Implicit Variational Inference (Yin and Zhou, 2018)
        | https://arxiv.org/abs/1805.11183

    Arguments:
        teacher: The denoiser to distil.
        generator: The student.
        fake: The denoiser of the anchor's samples at levels below `above`.
        bank: The further samples for each row.
        above: The smallest level at which the bank is taken.
        own: The weight of a row's own sample, see
            `vardiu.functional.bounds.shared_log_marginal`.
        options: See `AnchoredVarDiU`.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        fake: Denoiser,
        *,
        bank: int,
        above: float = 0.0,
        own: float = 1.0,
        **options: Any,  # noqa: ANN401 (those of the anchored bound)
    ) -> None:
        super().__init__(teacher, generator, fake, **options)
        if bank < 0 or not 0 <= above < math.inf or not 0 <= own <= 1:
            raise ValueError(
                "bank and above must be finite and at least 0, own within [0, 1], "
                f"got {bank}, {above} and {own}"
            )
        self.bank, self.above, self.own = bank, above, own

    @property
    def phases(self) -> tuple[Phase, ...]:
        # A fake that no level asks is not trained.
        return super().phases if self.above else super().phases[1:]

    @property
    def row_coupling(self) -> str:
        return "the bank is made of samples of all rows of a batch"

    def bounded(
        self,
        drawn: Fakes,
        x: Tensor,
        sigma: Tensor,
        noise: Tensor,
        cond: Mapping[str, Tensor],
        gap: Tensor,
    ) -> Loss:
        x_t = (x + expand_like(sigma, x) * noise).detach()
        with torch.no_grad():
            mean = self.denoised(self.samples(drawn), x_t, sigma, cond, drawn.batch.rows)
        return self.directed(x, x_t, sigma, cond, mean + gap)

    def samples(self, drawn: Fakes) -> Tensor:
        r"""Returns the anchor's samples: those of the batch, then the bank's."""
        if not self.bank:
            return drawn.x
        cond, rows = drawn.batch.cond, drawn.batch.rows
        tiled = {k: v.repeat(self.bank, *[1] * (v.ndim - 1)) for k, v in cond.items()}
        # Independent of the batch's own latents, which may be a lattice.
        draws = StreamDraws(self.streams, "bank", self.bank * rows, self.like)
        z = self.generator.latent_from(draws)
        z = self.generator.simulated(drawn.call, z, **tiled)
        return torch.cat([drawn.x, self.anchored(drawn.call, z, tiled)])

    def denoised(
        self, samples: Tensor, x_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor], rows: int
    ) -> Tensor:
        r"""Returns the mean of the bank, at small levels what the fake makes, `(B, *)`."""
        same = same_condition(cond, rows)
        if same is not None:
            same = same.repeat(1, self.bank + 1)
        mean = shared_mean(x_t, samples, sigma, same, self.own, rows)
        if not self.above:
            return mean
        small = sigma < self.above
        if bool(small.any()):
            at = {name: value[small] for name, value in cond.items()}
            mean[small] = self.fake(x_t[small], sigma[small], **at).to(mean)
        return mean

    def diagnostics(self, batch: Batch, step: int) -> dict[str, Tensor]:
        values = super().diagnostics(batch, step)
        if self.above:
            return values
        return {name: value for name, value in values.items() if not name.startswith("fake")}
