r"""The Fréchet distance of Gaussians, and the optimal transport that is its gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .tensors import covariance

__all__ = ["Moments", "frechet_square", "square_of_cross", "symmetric_root", "transport"]


# Of the largest eigenvalue: a smaller one of the generated covariance counts as this much.
LEAST = 1e-8


class Moments(NamedTuple):
    r"""A mean and a covariance.

    Attributes:
        mean: With shape :math:`(d)`.
        covariance: With shape :math:`(d, d)`.
    """

    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        r"""Returns the moments of rows `(N, d)`, the covariance over :math:`N - 1`."""
        return cls(x.mean(0), covariance(x))


def symmetric_root(covariance: Tensor) -> Tensor:
    r"""Returns :math:`C^{1/2}`, symmetric; negative eigenvalues, which are rounding, count as
    zero."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T


def frechet_square(x: Moments, y: Moments, root: Tensor | None = None) -> Tensor:
    r"""Returns the squared 2-Wasserstein distance of two Gaussians, a scalar.

    .. math:: \| m_x - m_y \|^2 + \mathrm{tr} \left( C_x + C_y - 2 (C_x^{1/2} C_y C_x^{1/2})^{1/2}
        \right)

    Arguments:
        x: The moments of one.
        y: Those of the other one.
        root: :math:`C_x^{1/2}` where it is known: it takes as long as the rest.
    """
    root = symmetric_root(x.covariance) if root is None else root
    cross = torch.linalg.eigvalsh(root @ y.covariance @ root).clamp_min(0).sqrt().sum()
    return square_of_cross(x, y, cross)


def square_of_cross(x: Moments, y: Moments, cross: Tensor) -> Tensor:
    r"""Returns `frechet_square` of moments whose trace :math:`\mathrm{tr} \, (C_x^{1/2} C_y
    C_x^{1/2})^{1/2}` is known, a scalar; `transport` returns it too."""
    square = (x.mean - y.mean).square().sum()
    return square + x.covariance.trace() + y.covariance.trace() - 2 * cross


def transport(root: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns the matrix of the optimal transport between centred Gaussians, and a trace.

    .. math:: T = C_r^{1/2} (C_r^{1/2} C \, C_r^{1/2})^{-1/2} C_r^{1/2}, \qquad T C T = C_r, \qquad
        \frac{\partial}{\partial C} \mathrm{FD} = I - T

    Where :math:`C` has no variance and :math:`C_r` has some, :math:`T` would be infinite: the
    eigenvalues of the product are at least `LEAST` times the largest one.

    Arguments:
        root: :math:`C_r^{1/2}`, symmetric, with shape :math:`(d, d)`.
        covariance: :math:`C`, with shape :math:`(d, d)`.

    Returns:
        :math:`T`, symmetric, and :math:`\mathrm{tr} (C_r^{1/2} C \, C_r^{1/2})^{1/2}`.
    """
    values, vectors = torch.linalg.eigh(root @ covariance @ root)
    trace = values.clamp_min(0).sqrt().sum()
    inner = vectors * values.maximum(LEAST * values[-1]).rsqrt() @ vectors.T
    return root @ inner @ root, trace
