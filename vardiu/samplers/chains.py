r"""Short chains of Langevin's method on the noise and the latent of a student's sample.

With :math:`x_t = g(z) + \sigma \varepsilon` and :math:`\Delta = \nabla \log q_\sigma - \nabla \log
p_\sigma` the law :math:`\rho(x_t, z) = q_\sigma(x_t) \, p_\sigma(z \mid x_t)` has the scores

.. math:: \nabla_\varepsilon \log \rho = \sigma \Delta(x_t) - \varepsilon, \qquad
    \nabla_z \log \rho = J_z^\top \Delta(x_t) - z

or, of the state and the latent, :math:`\Delta(x_t) - (x_t - g(z)) / \sigma^2` and
:math:`J_z^\top (x_t - g(z)) / \sigma^2 - z`. No score is differentiated.

References:
    | EM Distillation for One-step Diffusion Models (Xie et al., 2024)
    | https://arxiv.org/abs/2405.16852
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..functional.tensors import expand_like

__all__ = ["End", "gain", "run_chain", "within"]


class End(NamedTuple):
    r"""Where a chain ends.

    Arguments:
        z: The latents, `(B, *)`.
        eps: The noise :math:`(x_t - g(z)) / \sigma`, with the shape of a sample.
        residual: The same without the noise that is cancelled.
    """

    z: Tensor
    eps: Tensor
    residual: Tensor


def gain(steps: int, gamma_eps: float) -> float:
    r"""Returns what a chain has taken of a drift that stays the same:
    :math:`1 - (1 - \gamma)^K`."""
    return -math.expm1(steps * math.log1p(-gamma_eps))


def within(move: Tensor, gamma: float, trust: float | None) -> Tensor:
    r"""Returns moves, `(B, *)`, of which none is longer than `trust` times a step's noise, whose
    length is :math:`\sqrt{2 \gamma k}` in `k` dimensions.

    Of smaller steps fewer moves are shortened: a step's drift is of the order of the step size,
    its noise of that of the root.
    """
    if trust is None:
        return move
    longest = trust * math.sqrt(2 * gamma * move[0].numel())
    length = move.flatten(1).norm(dim=1).clamp_min(torch.finfo(move.dtype).tiny)
    return move * expand_like((longest / length).clamp_max(1.0), move)


def run_chain(
    g: Callable[[Tensor], Tensor],
    difference: Callable[[Tensor], Tensor],
    z: Tensor,
    eps: Tensor,
    sigma: Tensor,
    noise: Callable[[str, Tensor], Tensor],
    *,
    steps: int,
    gamma_eps: float,
    gamma_z: float,
    form: str = "noise",
    cancel: str = "all",
    trust: float | None = None,
) -> End:
    r"""Runs a chain; both variables of a step are moved from where they were before it.

    .. math:: \varepsilon' = (1 - \gamma) \varepsilon + \gamma \sigma \Delta + \sqrt{2 \gamma}
        \, n, \qquad z' = (1 - \gamma_z) z + \gamma_z J_z^\top \Delta + \sqrt{2 \gamma_z} \, n'

    The residual follows the first recursion from zero and without :math:`n`. In the form of states
    the state is pulled to :math:`g(z) + \sigma^2 \Delta`, with noise of :math:`\sigma n`.

    Arguments:
        g: The student.
        difference: The teacher's score less the student's, of states `(B, *)`.
        z: The latents, with shape :math:`(B, *)`.
        eps: The noise, with the shape of a sample.
        sigma: The levels, with shape :math:`(B)`.
        noise: Returns standard normal noise of a role, `state` or `latent`, like a tensor.
        steps: The number of steps.
        gamma_eps: The step size of the noise; of the state it is multiplied by :math:`\sigma^2`.
        gamma_z: The step size of the latent; at 0 it stays, and `g` is not differentiated.
        form: Which variable is moved beside the latent: `noise` or `state`.
        cancel: Which noise the residual is without: `none`, `last` of the steps, or `all`.
        trust: The longest move of a latent by its drift, in lengths of its noise; none for any.
    """
    s, states = expand_like(sigma, eps), form == "state"
    moved, quiet, fresh = eps, torch.zeros_like(eps), torch.zeros_like(eps)
    for i in range(steps):
        with torch.set_grad_enabled(gamma_z > 0):
            leaf = z.detach().requires_grad_(gamma_z > 0)
            made = g(leaf)
        x = made.detach()
        moved, quiet = (x + s * eps, x) if states and i == 0 else (moved, quiet)
        delta = difference(moved if states else x + s * moved)
        force = (moved - x) / s.square() if states else delta
        drift = x + s.square() * delta if states else s * delta
        fresh = (s if states else 1.0) * (math.sqrt(2 * gamma_eps) * noise("state", eps))
        moved = (1 - gamma_eps) * moved + gamma_eps * drift + fresh
        quiet = (1 - gamma_eps) * quiet + gamma_eps * drift
        if gamma_z > 0:
            (pull,) = torch.autograd.grad(made, leaf, force)
            pull = within(gamma_z * pull, gamma_z, trust)
            z = (1 - gamma_z) * z + pull + math.sqrt(2 * gamma_z) * noise("latent", z)
    left = {"none": moved, "last": moved - fresh, "all": quiet}[cancel]
    if states:
        x = g(z).detach()
        moved, left = (moved - x) / s, (left - x) / s
    return End(z.detach(), moved, left)
