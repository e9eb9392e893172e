r"""Solvers of several steps: one call of the denoiser a step, and the estimates of the last two.

With the logarithm :math:`\lambda = -\log \sigma`, a step :math:`h = \lambda' - \lambda` of the
probability-flow equation is, exactly,

.. math:: x' = e^{-h} x + \int_0^h e^{s - h} D_s \, \mathrm{d} s ,

and the clean estimate :math:`D_s` is taken to be a straight line through those at this level and
at the one before.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..denoisers.base import Denoiser
from .noise import RowNoise
from .ode import Sampler

__all__ = ["DPMSolver", "Multistep", "UniPC"]


class Multistep(Sampler):
    r"""DPM-Solver++ of order two with several steps, and UniPC of order two with a corrector.

    .. math:: x' = \frac{\sigma'}{\sigma} x + \left( 1 - \frac{\sigma'}{\sigma} \right)
        \left( D + \frac{h}{2 h_-} (D - D_-) \right)

    where :math:`D_-` is the clean estimate one step before, which was of length :math:`h_-`. The
    first step and the last one are of order one. The corrector goes through the step again once
    :math:`D'` at its end is known, which is asked for anyway, with the curve through all three.

    References:
        | DPM-Solver++: Fast Solver for Guided Sampling (Lu et al., 2022)
        | https://arxiv.org/abs/2211.01095, Algorithm 2
        | UniPC: A Unified Predictor-Corrector Framework (Zhao et al., 2023)
        | https://arxiv.org/abs/2302.04867, with :math:`B(h) = e^h - 1`

    Arguments:
        denoiser: The denoiser.
        sigmas: The levels, finite and decreasing.
        correct: Whether steps are corrected, as UniPC's are.
    """

    def __init__(self, denoiser: Denoiser, sigmas: Tensor, *, correct: bool = False) -> None:
        super().__init__(denoiser, sigmas)
        if not bool(self.sigmas.isfinite().all()):
            raise ValueError("a solver of several steps starts from a finite level")
        self.correct = correct

    def states(
        self,
        x: Tensor,
        *,
        generator: torch.Generator | RowNoise | None = None,
        **cond: Tensor,
    ) -> Iterator[Tensor]:
        r"""Yields the states in float64, see `Sampler.states`: each as it is when the next is
        asked for, with `correct` not yet corrected.

        Arguments:
            x: The state at the first level, with shape :math:`(B, *)`.
            generator: Not used: nothing here is drawn.
            cond: The denoiser's conditions.
        """
        state, last = x.double(), len(self.sigmas) - 2
        yield state
        known: list[Tensor] = []
        before, order = state, 0
        for index in range(last + 1):
            sigma = self.sigmas[index].to(x.dtype).expand(len(x)).to(x.device)
            self.calls += 1
            known = [*known, self.denoiser(state.to(x.dtype), sigma, **cond).double()][-3:]
            if self.correct and index:
                state = self._corrected(before, known[-order - 1 :], index)
            order = 1 if index in (0, last) else 2
            before, state = state, self._predicted(state, known[-order:], index)
            yield state

    def _steps(self, index: int) -> Tensor:
        r"""The lengths of all steps up to this one, in the logarithm of the level."""
        return -self.sigmas[: index + 2].log().diff()

    def _predicted(self, x: Tensor, known: list[Tensor], index: int) -> Tensor:
        r"""Returns the state one step on, of the clean estimates at its start and before."""
        ratio, clean = self.sigmas[index + 1] / self.sigmas[index], known[-1]
        if len(known) == 2:
            *_, shorter, h = self._steps(index)
            clean = clean + h / (2 * shorter) * (clean - known[0])
        return ratio * x + (1 - ratio) * clean

    def _corrected(self, before: Tensor, known: list[Tensor], index: int) -> Tensor:
        r"""Returns the state at a level anew, from the one before it and the clean estimates up to
        it: of the last step if that was of order one, and of the last two."""
        ratio = self.sigmas[index] / self.sigmas[index - 1]
        if len(known) == 2:
            return ratio * before + (1 - ratio) * (known[0] + known[1]) / 2
        earlier, start, end = known
        *_, shorter, h = self._steps(index - 1)
        # The weights of both differences are exact where clean estimates are a parabola in the
        # logarithm of the level.
        line = 1 / (1 - ratio) - 1 / h
        parabola = 1 / (1 - ratio) - 2 * line / h
        back = (line - parabola) / (1 + shorter / h)
        bent = (line - back) * (end - start) - back * h / shorter * (earlier - start)
        return ratio * before + (1 - ratio) * (start + bent)


def DPMSolver(denoiser: Denoiser, sigmas: Tensor) -> Multistep:  # noqa: N802 (as `Euler`)
    r"""Returns DPM-Solver++ of order two with several steps: `Multistep` without corrector."""
    return Multistep(denoiser, sigmas)


def UniPC(denoiser: Denoiser, sigmas: Tensor) -> Multistep:  # noqa: N802
    r"""Returns UniPC of order two: `Multistep` with its corrector."""
    return Multistep(denoiser, sigmas, correct=True)
