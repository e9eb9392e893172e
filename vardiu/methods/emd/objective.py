r"""The direction that ends of chains give the student."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...denoisers.base import Denoiser
from ...errors import Diverged
from ...functional.scores import score_difference, surrogate, tempered
from ...functional.tensors import expand_like
from ...samplers.chains import gain, run_chain
from ...settings.fields import ChainSettings
from ...students.base import Generator
from ...training.objective import Loss
from ..diff_instruct import DiffInstruct, Fakes

__all__ = ["EMD"]


class EMD(DiffInstruct):
    r"""EM distillation.

    .. math:: \mathcal{L}_g = \mathbb{E} \left[ w(\sigma) \, \Big\langle \mathrm{sg} \Big[
        - \tfrac{R^K}{\sigma (1 - (1 - \gamma)^K)} \Big], g(z^K) \Big\rangle \right]

    with the end :math:`z^K` and the residual :math:`R^K` of a chain, see `vardiu.samplers.chains`.
    A step is one update of the fake; each `ratio`-th step also updates the student. With one step
    of a chain and a latent that stays it is Diff-Instruct on the same draws; with many short ones,
    and no noise taken out, the gradient of the forward divergence.

    Needs:
        No data. A gradient of the student with respect to its latent.

    Deviations:
        - The residual is divided by what a chain has taken of a drift that stays the same, so that
          a learning rate holds for any number of steps.
        - Levels, weight and optimisers are those of the problem.

    References:
        | EM Distillation for One-step Diffusion Models (Xie et al., 2024)
        | https://arxiv.org/abs/2405.16852

    Arguments:
        teacher: The denoiser to distil.
        generator: The student, of normal latents.
        fake: The denoiser of the student's samples.
        chain: How chains are run.
        options: See `DiffInstruct`.

    Raises:
        ValueError: The student's input is the index of a row.
    """

    # The mean square of a chain's latents is one, and of one that runs away above this.
    GUARD = 4.0

    def __init__(
        self,
        teacher: Denoiser,
        generator: Generator,
        fake: Denoiser,
        *,
        chain: ChainSettings,
        **options: Any,  # noqa: ANN401 (those of Diff-Instruct)
    ) -> None:
        super().__init__(teacher, generator, fake, **options)
        if not generator.latent_shape:
            raise ValueError(
                f"a chain needs a student of normal latents, got a {type(generator).__name__}, "
                "whose input is the index of a row: take diff_instruct"
            )
        self.chain = chain

    def student_loss(self, drawn: Fakes, step: int) -> Loss:
        cond, row = drawn.batch.cond, self.chain
        sigma = self.levels(self.quantiles(len(drawn.z)), step)
        eps, sizes = self.noise_like(drawn.x), list[Tensor]()

        @torch.no_grad()
        def difference(x_t: Tensor) -> Tensor:
            real = self.teacher(x_t, sigma, **cond)
            if not sizes:
                sizes.append(expand_like(self.size(real, drawn.x), real))
            own = tempered(self.fake(x_t, sigma, **cond), x_t, self.temperature)
            return score_difference(real, own, sigma)

        end = run_chain(
            lambda z: self.generator(z, **cond),
            difference,
            drawn.z,
            eps,
            sigma,
            lambda role, like: self.noise_like(like, f"chain {role}"),
            steps=row.steps,
            gamma_eps=row.gamma_eps,
            gamma_z=row.gamma_z,
            form=row.form,
            cancel=row.cancel,
            trust=row.trust,
        )
        scale = self.weight(sigma) / sigma / gain(row.steps, row.gamma_eps)
        direction = -expand_like(scale, eps) * end.residual / sizes[0]
        value = surrogate(self.generator(end.z, **cond), direction).mean()
        info = {
            "direction": direction.flatten(1).norm(dim=1).mean(),
            "latent": self.guarded(end.z),
            "noise": end.eps.square().mean(),
        }
        return self.regressed(Loss(value, info), drawn.batch.rows)

    def guarded(self, z: Tensor) -> Tensor:
        r"""Returns the mean square of the latents at the ends of chains, a scalar.

        Raises:
            Diverged: It is too large, by more than chance: the chains are not stable.
        """
        found = z.square().mean()
        # Ten standard deviations of the mean square of so many normal numbers.
        largest = self.GUARD + 10 * math.sqrt(2 / z.numel())
        if not float(found) <= largest:
            raise Diverged(
                f"the latents at the ends of chains have a mean square of {float(found):.3g} in "
                f"place of 1: the chains are not stable. Lower --chain.gamma-z, which is "
                f"{self.chain.gamma_z:g}, --chain.trust or --chain.steps"
            )
        return found
