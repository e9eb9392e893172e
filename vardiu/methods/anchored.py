r"""The anchored posterior: a bound that is tight where the student stands.

The anchor :math:`g_a` is a lagging copy of the student :math:`g`. Its own posterior

.. math:: r_a(z \mid x_t) = \frac{\mathcal{N}(x_t; g_a(z), \sigma^2 I) \, p(z)}
    {p_{a, \sigma}(x_t)}, \qquad
    p_{a, \sigma}(x_t) = \int \mathcal{N}(x_t; g_a(z), \sigma^2 I) \, p(z) \, \mathrm{d}z

is normalised in :math:`z`, and makes the variational bound

.. math:: U_a = \mathbb{E} \frac{\| g(z) - g_a(z) \|^2}{2 \sigma^2} + \mathbb{E}_{x_t \sim
    p_\sigma} \big[ \log p_{a, \sigma}(x_t) - \log q_\sigma(x_t) \big]
    = \mathrm{KL}(p_\sigma \,\|\, q_\sigma)
    + \mathbb{E} \, \mathrm{KL} \big( p(z \mid x_t) \,\|\, r_a(z \mid x_t) \big)

whose slack is zero at :math:`g = g_a`. Nobody knows :math:`\log p_{a, \sigma}`, and nobody needs
it: its gradient is the score of the anchor's noisy samples, hence a denoiser :math:`D_a` of them.
The two scores' :math:`x_t / \sigma^2` cancel, and what is left of the noise has zero mean:

.. math:: \frac{\partial U_a}{\partial g(z)} = \frac{1}{\sigma^2} \, \mathbb{E}_\varepsilon \big[
    g(z) - g_a(z) + D_a(x_t, \sigma) - D(x_t, \sigma) \big].

At :math:`g = g_a` this is Diff-Instruct's gradient. With the teacher's own probability-flow map in
the anchor's place :math:`p_{a, \sigma} = q_\sigma`, and it is that of a regression on pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..data.batch import Batch
from ..denoisers.base import Denoiser
from ..denoisers.levels import Levels
from ..functional.scores import denoising, edm_weight
from ..functional.tensors import expand_like
from ..students.base import Generator
from ..training.distributed import standard_error
from ..training.objective import Loss, Phase
from ..training.streams import StreamDraws
from .diff_instruct import DiffInstruct, Fakes, shown
from .lagging import Anchor, nats

__all__ = ["AnchoredVarDiU"]


class AnchoredVarDiU(DiffInstruct):
    r"""The variational bound with the anchor's posterior.

    .. math:: \mathcal{L}_\mathrm{fake} = \mathbb{E} \left[ \lambda(\sigma) \, \| D_a(g_a(z) +
        \sigma \varepsilon, \sigma) - g_a(z) \|^2 \right], \qquad
        \mathcal{L}_g = \mathbb{E} \left[ w(\sigma) \, \Big\langle \mathrm{sg} \Big[
        \tfrac{g(z) - g_a(z) + D_a(x_t, \sigma) - D(x_t, \sigma)}{\sigma^2} \Big], g(z)
        \Big\rangle \right]

    A step is one update of the fake, on the *anchor's* samples; each `ratio`-th step also updates
    the student. While an anchor is held, descent of the weighted bound lowers a majorant of the
    weighted divergence that touches it at the anchor. A moving average is a valid anchor as far
    as the fake is the denoiser of its samples.

    Needs:
        No data, no gradient of the teacher.

    Deviations:
        - The anchored posterior is not in the paper of VarDiU: it is this library's.
        - `normalised` divides by a number that depends on the noise: the direction is then that
          of no bound. So it is with a `gain` other than one.

    References:
        | VarDiU: A Variational Diffusive Upper Bound for One-Step Diffusion Distillation
        | (Wang, Zhang, Ou and Barber, 2025), https://arxiv.org/abs/2508.20646

    Arguments:
        teacher: The denoiser to distil.
        generator: The student. Of a few-step one, one call a step is trained, the same for all
            rows: its latent is the student's own state before that call.
        fake: The denoiser :math:`D_a` of the anchor's samples.
        anchor: The lagging copy of the student.
        gain: What :math:`g - g_a` is multiplied by.
        antithetic: Whether each sample and level is used with :math:`\pm \varepsilon`.
        options: See `DiffInstruct`.

    Raises:
        ValueError: The gain is not finite.
    """

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        fake: Denoiser,
        *,
        levels: Levels,
        anchor: Anchor,
        gain: float = 1.0,
        antithetic: bool = True,
        **options: Any,  # noqa: ANN401 (those of Diff-Instruct)
    ) -> None:
        super().__init__(teacher, generator, fake, levels=levels, **options)
        if not math.isfinite(gain):
            raise ValueError(f"the gain must be finite, got {gain}")
        self.anchor, self.gain, self.antithetic = anchor, gain, antithetic

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase("fake", self.fake_loss, updates=("fake",)),
            Phase(
                "student",
                self.student_loss,
                updates=("generator",),
                when=self.anchor.moves,
                period=self.anchor.period,
                turns=self.anchor.turns,
            ),
        )

    def prepare(self, batch: Batch, step: int) -> Fakes:
        state, index = shown(self, batch)
        return Fakes(state, self.anchored(index, state, batch.cond), batch, index)

    def anchored(self, index: int, state: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        r"""Returns what the anchor makes of a state, `(B, *)`."""
        network = self.anchor.network
        assert isinstance(network, Generator)
        return network.call(index, state, **cond)

    def student_loss(self, drawn: Fakes, step: int) -> Loss:
        cond = drawn.batch.cond
        x = self.generator.call(drawn.call, drawn.z, **cond)
        gap = x.detach() - drawn.x
        sigma, noise = self.levels(self.quantiles(len(x)), step), self.noise_like(x)
        info = {"trust": nats(x.detach(), drawn.x, sigma).mean()}
        if self.antithetic:
            x, gap, sigma = torch.cat([x, x]), torch.cat([gap, gap]), torch.cat([sigma, sigma])
            noise = torch.cat([noise, -noise])
            cond = {name: torch.cat([value, value]) for name, value in cond.items()}
        loss = self.bounded(drawn, x, sigma, noise, cond, self.gain * gap)
        loss = Loss(loss.value, {**loss.info, **info})
        return self.regressed(loss, drawn.batch.rows)

    def bounded(
        self,
        drawn: Fakes,
        x: Tensor,
        sigma: Tensor,
        noise: Tensor,
        cond: Mapping[str, Tensor],
        gap: Tensor,
    ) -> Loss:
        r"""Returns the loss of given random numbers, see `matched`, of what was drawn."""
        return self.matched(x, sigma, noise, cond, gap)

    def diagnostics(self, batch: Batch, step: int) -> dict[str, Tensor]:
        r"""Returns how far the student has left its anchor, in nats at eight levels, each with
        its standard error over the batch, of latents that are independent here; and at three
        quantiles of the levels these nats, and the fake's error on the anchor's samples, which it
        is trained on, and on the student's.

        What the second error has above the first is the part of the bias that the fake adds.
        """
        n, cond, values = batch.rows, batch.cond, {}
        # Rows of a lattice are spread evenly: their mean is closer than its stated error.
        z = self.generator.latent_from(StreamDraws(self.streams, "diagnostic", n, self.like))
        call = self.generator.calls - 1
        z = self.generator.simulated(call, z, **cond)
        x, anchored = self.generator.call(call, z, **cond), self.anchored(call, z, cond)
        ends = torch.tensor([0.0, 1 - 1e-6], dtype=torch.float64)
        low, high = self.levels(ends, 2**62).log10().tolist()
        for sigma in torch.logspace(low, high, 8).tolist():
            value = nats(x, anchored, x.new_full((n,), sigma))
            values[f"trust/{sigma:.3g}"] = value.mean()
            values[f"trust_error/{sigma:.3g}"] = standard_error(value)
        noise = self.noise_like(x, "diagnostic")
        for u in (0.1, 0.5, 0.9):
            sigma = self.levels(x.new_full((n,), u), step)
            values[f"trust_quantile/{u}"] = nats(x, anchored, sigma).mean()
            for name, y in (("anchor", anchored), ("student", x)):
                denoised = self.fake(y + expand_like(sigma, y) * noise, sigma, **cond)
                error = denoising(denoised, y, edm_weight(sigma, self.sigma_data))
                values[f"fake_error_{name}_quantile/{u}"] = error.mean()
        return values
