r"""Projections of a gradient on the leading singular directions of a state.

A channel of a state is a matrix, :math:`Z = U \, \mathrm{diag}(s) \, V^\top`. With the first
:math:`r` columns of each side

.. math:: P(G) = U_r U_r^\top G \, V_r V_r^\top

is the orthogonal projection on the span of :math:`u_i v_j^\top`, of dimension :math:`r^2`;
:math:`P_\mathrm{tan}(G) = P_U G + G P_V - P_U G P_V` is that on the tangent space of the matrices
of rank :math:`r`, of dimension :math:`r (H + W - r)`.

References:
    | Diffusion State-Guided Projected Gradient for Inverse Problems (Zirvi et al., 2025)
    | https://arxiv.org/abs/2410.03463
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "MODES",
    "RANK_RULES",
    "Subspace",
    "energy_rank",
    "leading_subspace",
    "projected",
    "random_subspace",
    "shared_rank",
]


MODES = ("core", "tangent")


RANK_RULES = ("per_channel", "concat")


class Subspace(NamedTuple):
    r"""Orthonormal columns of both sides of each channel, with zeros beyond the rank.

    Arguments:
        left: With shape :math:`(B, C, H, q)`.
        right: With shape :math:`(B, C, W, q)`.
        rank: The rank of each row, with shape :math:`(B)`.
    """

    left: Tensor
    right: Tensor
    rank: Tensor


def energy_rank(values: Tensor, tau: float) -> Tensor:
    r"""Returns the least number of singular values that have a share of the energy.

    .. math:: r = \min \Big\{ r : \sum_{i \leq r} s_i^2 \geq \tau \sum_i s_i^2 \Big\}

    It is at least one and at most :math:`q`; one where there is no energy.

    Arguments:
        values: Singular values, largest first, with shape :math:`(*, q)`.
        tau: The share :math:`\tau \in (0, 1]`.
    """
    energy = values.square().cumsum(-1)
    below = (energy < tau * energy[..., -1:]).sum(-1)
    return (below + 1).clamp(1, values.shape[-1])


def shared_rank(values: Tensor, tau: float, rule: str = "per_channel") -> Tensor:
    r"""Returns one rank for all channels of a row, `(B,)`.

    Arguments:
        values: Singular values, with shape :math:`(B, C, q)`.
        tau: The share of the energy.
        rule: `per_channel`, the whole part of the mean of the channels' ranks; or `concat`, what
            the authors' released function makes of it, whose sum runs over the spectra of all
            channels one after the other: nearly :math:`q` whatever the state.

    Raises:
        ValueError: The share is out of its range, or the rule unknown.
    """
    if not 0 < tau <= 1:
        raise ValueError(f"tau must be above 0 and at most 1, got {tau:g}")
    if rule == "per_channel":
        total = energy_rank(values, tau).sum(-1)
    elif rule == "concat":
        total = energy_rank(values.flatten(-2), tau)
    else:
        raise ValueError(f"rank_rule must be one of {', '.join(RANK_RULES)}, got {rule!r}")
    return (total // values.shape[-2]).clamp_min(1)


@torch.no_grad()
def leading_subspace(state: Tensor, tau: float, rule: str = "per_channel") -> Subspace:
    r"""Returns the leading singular directions of each channel of each row.

    The state is not centred: its range is part of the answer. A channel of zeros has no
    directions. Nothing is differentiated.

    Arguments:
        state: The state, with shape :math:`(B, C, H, W)`.
        tau: The share of the energy that they have, see `shared_rank`.
        rule: See `shared_rank`.

    Raises:
        ValueError: The state is no batch of images.
    """
    if state.ndim != 4:
        raise ValueError(f"a state to project on must be (B, C, H, W), got {tuple(state.shape)}")
    single = state if state.dtype == torch.float64 else state.float()  # half has no such routine
    u, s, vh = torch.linalg.svd(single, full_matrices=False)
    rank = shared_rank(s, tau, rule)
    kept = torch.arange(s.shape[-1], device=s.device) < rank[:, None]
    mask = (kept[:, None] & (s[..., :1] > 0)).to(s)[:, :, None]
    return Subspace(u * mask, vh.mT * mask, rank)


@torch.no_grad()
def random_subspace(like: Subspace, generator: torch.Generator) -> Subspace:
    r"""Returns uniformly random directions, as many as another subspace has: a control."""

    def side(columns: Tensor) -> Tensor:
        drawn = torch.randn(columns.shape, generator=generator, dtype=torch.float64)
        turned = torch.linalg.qr(drawn).Q.to(columns)
        return turned * (columns.square().sum(-2, keepdim=True) > 0.5)

    return Subspace(side(like.left), side(like.right), like.rank)


def projected(gradient: Tensor, subspace: Subspace, mode: str = "core") -> Tensor:
    r"""Returns :math:`P(G)`, with the gradient's shape and type.

    Linear, idempotent, self-adjoint; no norm grows, and a direction of descent stays one.

    Arguments:
        gradient: The gradient :math:`G`, with shape :math:`(B, C, H, W)`.
        subspace: The directions.
        mode: `core` (the published one) or `tangent`.

    Raises:
        ValueError: The shapes differ, or the mode is unknown.
    """
    u, v = subspace.left, subspace.right
    expected = (*u.shape[:3], v.shape[2])
    if tuple(gradient.shape) != expected:
        raise ValueError(
            f"the gradient has shape {tuple(gradient.shape)} and the state {expected}: they must "
            "be of one space"
        )
    g = gradient.to(u.dtype)
    inner = u @ ((u.mT @ g @ v) @ v.mT)
    if mode == "core":
        return inner.to(gradient.dtype)
    if mode == "tangent":
        return (u @ (u.mT @ g) + (g @ v) @ v.mT - inner).to(gradient.dtype)
    raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
