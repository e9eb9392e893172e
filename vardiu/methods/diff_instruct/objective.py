r"""The fake, which is fitted to the samples, and the student, which follows two scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ...data.batch import Batch
from ...denoisers.base import Denoiser
from ...denoisers.levels import Levels
from ...functional.distances import pseudo_huber
from ...functional.scores import (
    Weight,
    check_temperature,
    denoising,
    edm_weight,
    mean_correction,
    score_difference,
    surrogate,
    tempered,
)
from ...functional.tensors import expand_like
from ...samplers.pairs import Pairs
from ...students.base import Generator
from ...training.objective import Loss, Objective, Phase
from ..regression import drawn_pairs

__all__ = ["DiffInstruct", "Fakes", "shown"]


class Fakes(NamedTuple):
    r"""Samples of the student, drawn without a graph."""

    z: Tensor
    """What the network was shown: the latents; of a later call the states, see `DMD2`."""
    x: Tensor
    """What the network made of what it was shown."""
    batch: Batch
    """The conditions of the rows, and clean samples where there are any."""
    call: int = 0
    """The call of a few-step student that made the samples, from zero."""
    real: Batch | None = None
    """Clean samples and their own conditions, where the rows have others."""


def shown(objective: Objective, batch: Batch) -> tuple[Tensor, int]:
    r"""Draws what the student is shown, and the place of the call that sees it, from zero.

    Latents; before a later call of a few-step student the state that its own calls make of them.
    """
    z, calls = objective.latents(batch.rows), objective.generator.calls
    # One index a step: rows of a batch, and processes, make the same calls.
    index = int(objective.streams.uniform("call", 1, shared=True) * calls) if calls > 1 else 0
    return objective.generator.simulated(index, z, **batch.cond), index


class DiffInstruct(Objective):
    r"""Diff-Instruct.

    .. math:: \mathcal{L}_\mathrm{fake} = \mathbb{E} \left[ \lambda(\sigma) \,
        \| D_\phi(x_t, \sigma) - g(z) \|^2 \right], \qquad
        \mathcal{L}_g = \mathbb{E} \left[ w(\sigma) \, \langle \mathrm{sg} \big[
        \tfrac{D_\phi(x_t, \sigma) - D(x_t, \sigma)}{\sigma^2} \big], g(z) \rangle \right]

    (Algorithm 1 of the paper.) A step is one update of the fake; each `ratio`-th step also updates
    the student, on draws that the fake has not seen.

    A temperature :math:`\tau` multiplies the fake's score. What is descended at each level is then

    .. math:: \mathrm{KL}(p_\sigma \,\|\, q_\sigma) - (\tau - 1) \, \mathrm{H}(p_\sigma) = \tau
        \, \mathrm{KL} \big( p_\sigma \,\|\, q_\sigma^{1 / \tau} / Z \big) - \log Z^\tau

    so that above 1 entropy is rewarded and the samples spread.

    Needs:
        No data, no gradient of the teacher.

    Deviations:
        - The weight is an argument; :math:`w(\sigma) = \sigma^2` by default, as in the comparison
          of VarDiU (Wang et al., 2025).
        - The temperature is not in the paper: it is this library's.

    References:
        | Diff-Instruct: A Universal Approach for Transferring Knowledge From Pre-trained Diffusion
        | Models (Luo et al., 2023), https://arxiv.org/abs/2305.18455

    Arguments:
        teacher: The denoiser to distil.
        generator: The student :math:`g`.
        fake: The denoiser :math:`D_\phi` of the student's samples, best a copy of the teacher.
        levels: The distribution of noise levels for the student.
        fake_levels: That for the fake; the same by default.
        weight: The weight :math:`w(\sigma)` of a level, applied to the difference of scores.
        ratio: The number of fake updates a student update.
        normalised: Whether each row's direction is divided by the mean of
            :math:`| D(x_t, \sigma) - x |` over its dimensions (Yin et al., 2023, Equation 8,
            https://arxiv.org/abs/2311.18828).
        regression: Pairs of the teacher that the student keeps to (the regression of DMD).
        regression_weight: The weight of that regression, see `vardiu.methods.regression`.
        temperature: The temperature :math:`\tau` of the law that is matched at each level.
        lattice: Whether latents and levels are spread evenly, see `Objective`.
        sigma_data: The data's standard deviation in :math:`\lambda`, EDM's weight.
        unit: The length that directions, `FLOOR` and the regression's distance are measured in.

    See also:
        `vardiu.methods.vardiu`, which needs no fake.
    """

    # The smallest divisor of a normalised direction, in `unit`.
    FLOOR = 0.02

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        fake: Denoiser,
        *,
        levels: Levels,
        fake_levels: Levels | None = None,
        weight: Weight = torch.square,
        ratio: int = 5,
        normalised: bool = False,
        regression: Pairs | None = None,
        regression_weight: float = 0.0,
        temperature: float = 1.0,
        lattice: bool = False,
        sigma_data: float = 0.5,
        unit: float = 1.0,
    ) -> None:
        super().__init__(teacher, generator)
        if ratio < 1:
            raise ValueError(f"ratio must be at least 1, got {ratio}")
        if not (sigma_data > 0 and unit > 0):
            raise ValueError(f"sigma_data and unit must be positive, got {sigma_data} and {unit}")
        check_temperature(temperature)
        self.fake = fake
        self.levels, self.fake_levels = levels, levels if fake_levels is None else fake_levels
        self.weight, self.ratio, self.sigma_data, self.unit = weight, ratio, sigma_data, unit
        self.normalised, self.regression_weight = normalised, regression_weight
        self.temperature, self.lattice = temperature, lattice
        if (regression is None) != (regression_weight == 0):
            raise ValueError("pairs for regression and a positive regression_weight go together")
        # An artefact of the run: known to whoever made the objective, and in no checkpoint.
        self.regression = regression

    @property
    def phases(self) -> tuple[Phase, ...]:
        return (
            Phase("fake", self.fake_loss, updates=("fake",)),
            Phase("student", self.student_loss, updates=("generator",), every=self.ratio),
        )

    def prepare(self, batch: Batch, step: int) -> Fakes:
        z = self.latents(batch.rows)
        return Fakes(z, self.generator(z, **batch.cond), batch)

    def fake_loss(self, drawn: Fakes, step: int) -> Loss:
        x, cond = drawn.x, drawn.batch.cond
        sigma = self.fake_levels(self.quantiles(len(x), "fake level", "fake order"), step)
        x_t = x + expand_like(sigma, x) * self.noise_like(x, "fake noise")
        weight = edm_weight(sigma, self.sigma_data)
        error = denoising(self.fake(x_t, sigma, **cond), x, weight).mean()
        return Loss(error, {"error": error.detach()})

    def student_loss(self, drawn: Fakes, step: int) -> Loss:
        cond = drawn.batch.cond
        loss = self.matching(self.generator(drawn.z, **cond), cond, step)
        return self.regressed(loss, drawn.batch.rows)

    def matching(self, x: Tensor, cond: Mapping[str, Tensor], step: int) -> Loss:
        r"""Returns the loss whose gradient moves samples of the student by their direction."""
        sigma = self.levels(self.quantiles(len(x)), step)
        return self.matched(x, sigma, self.noise_like(x), cond)

    def matched(
        self,
        x: Tensor,
        sigma: Tensor,
        noise: Tensor,
        cond: Mapping[str, Tensor],
        offset: Tensor | float = 0.0,
    ) -> Loss:
        r"""Returns the loss of given random numbers.

        Arguments:
            x: Samples of the student, with shape :math:`(B, *)`.
            sigma: Their levels, with shape :math:`(B)`.
            noise: Their noises, with shape :math:`(B, *)`.
            cond: Their conditions.
            offset: What is added to the fake's mean, with the shape of `x`.
        """
        x_t = (x + expand_like(sigma, x) * noise).detach()
        with torch.no_grad():
            mean = self.fake(x_t, sigma, **cond) + offset
        return self.directed(x, x_t, sigma, cond, mean)

    def directed(
        self, x: Tensor, x_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor], mean: Tensor
    ) -> Loss:
        r"""Returns the loss whose gradient moves samples against the difference of scores.

        Arguments:
            x: Samples of the student, with shape :math:`(B, *)`.
            x_t: Noisy ones, with shape :math:`(B, *)`.
            sigma: Their levels, with shape :math:`(B)`.
            cond: Their conditions.
            mean: What the fake makes of the noisy samples, with shape :math:`(B, *)`.
        """
        with torch.no_grad():
            real = self.teacher(x_t, sigma, **cond)
            own = tempered(mean, x, self.temperature)
            difference = score_difference(own, real, sigma)
            factor = self.weight(sigma) * self.importance(x_t, sigma, cond) / self.size(real, x)
        direction = expand_like(factor, x) * difference
        value = surrogate(x, direction).mean()
        # The surrogate's value means nothing; the size of the direction tells of convergence.
        return Loss(value, {"direction": direction.flatten(1).norm(dim=1).mean()})

    def size(self, denoised: Tensor, x: Tensor) -> Tensor:
        r"""Returns what rows' directions are divided by, `(B,)`: DMD's divisor or the unit."""
        if not self.normalised:
            return x.new_full((len(x),), self.unit**2)
        return mean_correction(denoised, x, self.FLOOR * self.unit) * self.unit

    def importance(self, x_t: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        r"""Returns the factor of each row's direction beside its level's weight, `(B,)`: one.

        Arguments:
            x_t: Noisy samples of the student, with shape :math:`(B, *)`.
            sigma: Their levels, with shape :math:`(B)`.
            cond: Their conditions.
        """
        return torch.ones_like(sigma)

    def regressed(self, loss: Loss, n: int) -> Loss:
        r"""Returns a loss of the student, and beside it that of its regression if there is one."""
        if self.regression is None:
            return loss
        distance = self.distance(self.regression, n)
        info = {**loss.info, "regression": distance.detach()}
        return Loss(loss.value + self.regression_weight * distance, info)

    def distance(self, known: Pairs, n: int) -> Tensor:
        r"""Returns the distance of the student to some of the teacher's pairs, a scalar."""
        pairs = drawn_pairs(self, known, n, "regression")
        difference = (self.generator(pairs.z, **pairs.cond) - pairs.x) / self.unit
        return pseudo_huber(difference).mean()
