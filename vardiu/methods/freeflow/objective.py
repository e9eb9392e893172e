r"""Prediction and correction of a flow map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ...data.batch import Batch
from ...denoisers.base import Denoiser
from ...denoisers.levels import Levels
from ...functional.derivatives import DERIVATIVES
from ...functional.scores import denoising, edm_weight, surrogate
from ...functional.tensors import expand_like, sent
from ...functional.trajectories import step as moved
from ...students.flow_map import FlowMap
from ...training.objective import Loss, Objective, Phase
from .settings import forward_mode

__all__ = ["Drawn", "FreeFlow"]


class Drawn(NamedTuple):
    r"""What a step is made of."""

    batch: Batch
    """The conditions of the rows."""
    z: Tensor
    """The latents of all rows: those of the prediction first, then those of the correction."""
    x: Tensor
    """What the student makes of the correction's latents."""


class FreeFlow(Objective):
    r"""FreeFlow.

    .. math:: \mathcal{L} = \mathbb{E} \, w \, F^\top \mathrm{sg}[v_G - u] + \lambda \, \mathbb{E}
        \, F^\top \mathrm{sg}[v_N - u], \qquad w = \big( \tfrac1d \| v_G - u \|^2 + c \big)^{-k}

    (Equations 9 and 11.) :math:`F = (G / \sigma_d - y_T) / \tau(T)` is the mean velocity of the
    student in flow coordinates :math:`y = x / (\sigma_d + s)`, so that :math:`v_G - u = R /
    (\sigma_d \tau(s))`, :math:`v_N - u = (D_\psi - D) / (\sigma_d \tau(r))`, and
    :math:`\lambda = a \, \mathbb{E} \| w (v_G - u) \| / \mathbb{E} \| v_N - u \|`.

    Needs:
        No data, no gradient of the teacher, one or two of its calls a row.

    Deviations:
        - A share of the rows starts at a lower level :math:`t`, at the student's own samples of
          one call, noised and without a gradient: so the map is learned from any level, and one
          network makes samples in any number of calls. In the paper all start at noise.
        - :math:`\lambda` balances the two directions as they are applied, :math:`w` included.
        - Prediction may train alone at first (`lead`); in the paper both start together.
        - The fake's loss has EDM's weight; in the paper it is flow matching.

    References:
        | Flow Map Distillation Without Data (Tong et al., 2025), https://arxiv.org/abs/2511.19428

    Arguments:
        teacher: The denoiser to distil.
        generator: The flow map.
        fake: The denoiser :math:`D_\psi` of the student's samples; none without correction.
        levels: The distribution of the ends :math:`s`, and of the lower levels of a start.
        noise_levels: The distribution of the levels :math:`r` of correction and fake.
        correction: The share of a batch's rows that correct; 0 for prediction alone, 1 for
            correction alone.
        balance: The factor :math:`a`.
        adaptive: The power :math:`k`.
        lead: The steps in which prediction trains alone; the fake learns meanwhile.
        below: The share of the rows that start below :math:`T`.
        derivative: `forward` or `difference`.
        ratio: The number of the fake's updates for each update of the student.
        sigma_data: The data's standard deviation :math:`\sigma_d`.

    Raises:
        ValueError: There is a fake without correction, or the reverse; or a number is out of its
            range.
    """

    FLOOR = 1e-3  # c, in units of the velocity

    def __init__(
        self,
        teacher: Denoiser,
        generator: FlowMap,
        fake: Denoiser | None = None,
        *,
        levels: Levels,
        noise_levels: Levels,
        correction: float = 0.25,
        balance: float = 1.0,
        adaptive: float = 1.0,
        lead: int = 0,
        below: float = 0.25,
        derivative: str = "forward",
        ratio: int = 1,
        sigma_data: float = 1.0,
    ) -> None:
        super().__init__(teacher, generator)
        if (fake is not None) != (correction > 0):
            raise ValueError("a fake and a positive correction go together")
        if not (0 <= correction <= 1 and 0 <= below < 1 and ratio >= 1 and sigma_data > 0):
            raise ValueError(
                "correction must be within [0, 1], below within [0, 1), ratio at least 1 and "
                f"sigma_data positive, got {correction}, {below}, {ratio} and {sigma_data}"
            )
        if lead and correction == 1:
            raise ValueError(
                f"correction alone has no prediction that could lead, got lead={lead}"
            )
        if fake is not None:
            self.fake = fake
        self.levels, self.noise_levels = levels, noise_levels
        self.correction, self.balance, self.adaptive = correction, balance, adaptive
        self.lead, self.forward_mode = lead, forward_mode(derivative, correction)
        self.below, self.derivative, self.ratio = below, DERIVATIVES[derivative], ratio
        self.sigma_data = sigma_data

    @property
    def flow(self) -> FlowMap:
        r"""The student."""
        assert isinstance(self.generator, FlowMap)
        return self.generator

    @property
    def phases(self) -> tuple[Phase, ...]:
        student = Phase("student", self.student_loss, updates=("generator",), every=self.ratio)
        if not self.correction:
            return (student,)
        return (student, Phase("fake", self.fake_loss, updates=("fake",)))

    @property
    def row_coupling(self) -> str:
        if 0 < self.correction < 1:
            return "the weight of FreeFlow's correction is of the means over a batch"
        return ""

    def prepare(self, batch: Batch, step: int) -> Drawn:
        z = self.noise_like(self.like.new_empty(batch.rows, *self.flow.shape), "latent")
        rows = self.correcting(batch.rows)
        return Drawn(batch, z, self.sample(z[rows], cut(batch.cond, rows), step)[0])

    def correcting(self, n: int) -> slice:
        r"""The rows of a batch that correct, at least one where any do."""
        count = round(n * self.correction)
        return slice(n - max(count, 1 if self.correction else 0), n)

    def predicting(self, n: int) -> slice:
        r"""The rows of a batch that predict: the others, at least one where any do."""
        return slice(0, max(n - round(n * self.correction), 1 if self.correction < 1 else 0))

    def time(self, sigma: Tensor) -> Tensor:
        r"""Returns :math:`\tau = \sigma / (\sigma_d + \sigma)`, the time of flow matching."""
        return sigma / (self.sigma_data + sigma)

    def sample(self, z: Tensor, cond: Mapping[str, Tensor], step: int) -> tuple[Tensor, Tensor]:
        r"""Returns samples, `(B, *)`: of one call, and of a second one where a row starts below
        :math:`T`; and the levels of the last call's start, `(B,)`."""
        x_t, t = self.starts(z, cond, step)
        return self.flow.sampled(x_t, t, **cond), t

    def starts(self, z: Tensor, cond: Mapping[str, Tensor], step: int) -> tuple[Tensor, Tensor]:
        r"""Returns the states to start from, `(B, *)`, and their levels, `(B,)`: noise, and of
        some rows the student's own noised samples."""
        x_t = self.flow.start(z)
        t = z.new_full((len(z),), self.flow.sigmas[0])
        if self.below == 0:
            return x_t, t
        # Each row draws for itself: processes choose as one would. Drawn on the host, the number
        # of those chosen is known without waiting for an accelerator.
        u = self.streams.uniform("start", len(z), dtype=z.dtype)
        chosen = sent(u < self.below, z.device)
        rows = sent((u < self.below).nonzero().flatten(), z.device)
        lower = self.levels(self.uniform(len(z), "start level"), step).minimum(t)
        noise = self.noise_like(z, "start noise")[rows]
        if len(rows):
            kept = {name: value[rows] for name, value in cond.items()}
            with torch.no_grad():
                x = self.flow.sampled(x_t[rows], t[rows], **kept)
            x_t[rows] = x + expand_like(lower[rows], x) * noise
        return x_t, torch.where(chosen, lower, t)

    def predicted(
        self, z: Tensor, cond: Mapping[str, Tensor], step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns the answers :math:`G` with their graph, the velocity's error :math:`v_G - u`,
        each `(B, *)`, and the levels of the starts, `(B,)`."""
        x_t, t = self.starts(z, cond, step)
        share = self.levels(self.quantiles(len(z)), step) / self.flow.sigmas[0]
        s = (t * share).clamp_min(self.teacher.module.sigma_min).minimum(t)
        answer, along = self.derivative(
            lambda level: self.flow.answer(x_t, t, level, **cond), s, s * (1 - s / t)
        )
        with torch.no_grad():
            denoised = self.teacher(moved(x_t, t, s, answer), s, **cond)
            error = (answer - denoised - along) / self.sigma_data
        return answer, error / expand_like(self.time(s), error), t

    def corrected(
        self, z: Tensor, cond: Mapping[str, Tensor], step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns samples with their graph, :math:`v_N - u`, each `(B, *)`, and the levels of the
        starts, `(B,)`."""
        x, t = self.sample(z, cond, step)
        r = self.noise_levels(self.uniform(len(z), "noise level"), step)
        x_r = x.detach() + expand_like(r, x) * self.noise_like(x)
        with torch.no_grad():
            fake, real = (d(x_r, r, **cond) for d in (self.fake, self.teacher))
        gap = (fake - real) / self.sigma_data
        return x, gap / expand_like(self.time(r), gap), t

    def applied(self, x: Tensor, direction: Tensor, t: Tensor) -> Tensor:
        r"""Returns the loss whose gradient by the mean velocity is a direction, a scalar."""
        scale = 1 / (self.sigma_data * self.time(t))
        return (scale * surrogate(x, direction)).mean() / x[0].numel()

    def student_loss(self, drawn: Drawn, step: int) -> Loss:
        z, cond, n = drawn.z, drawn.batch.cond, len(drawn.z)
        value, info, size = z.new_zeros(()), {}, None
        if self.correction < 1:
            rows = self.predicting(n)
            answer, error, t = self.predicted(z[rows], cut(cond, rows), step)
            square = error.flatten(1).square().mean(1)
            weighted = error * expand_like((square + self.FLOOR) ** -self.adaptive, error)
            size = weighted.flatten(1).norm(dim=1).mean()
            value = (1 - self.correction) * self.applied(answer, weighted, t)
            info["prediction"] = square.mean()
        if self.correction > 0 and step >= self.lead:
            rows = self.correcting(n)
            x, gap, t = self.corrected(z[rows], cut(cond, rows), step)
            length = gap.flatten(1).norm(dim=1).mean()
            factor = 1.0 if size is None else self.balance * size / (length + 1e-6)
            value = value + (self.correction or 1.0) * self.applied(x, factor * gap, t)
            info["correction"] = gap.square().mean()
        return Loss(value, info)

    def fake_loss(self, drawn: Drawn, step: int) -> Loss:
        x, cond = drawn.x, cut(drawn.batch.cond, self.correcting(len(drawn.z)))
        r = self.noise_levels(self.uniform(len(x), "fake level"), step)
        x_r = x + expand_like(r, x) * self.noise_like(x, "fake noise")
        weight = edm_weight(r, self.sigma_data)
        error = denoising(self.fake(x_r, r, **cond), x, weight).mean()
        return Loss(error, {"error": error.detach()})


def cut(cond: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    r"""Returns some rows of conditions."""
    return {name: value[rows] for name, value in cond.items()}
