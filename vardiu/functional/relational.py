r"""Relations of feature maps: what a student is taught about positions, not about values.

A position of a map is its vector of channels, of unit length here. A row of relations is the
softmax of its cosines to other positions, and a student's rows are compared with the teacher's by
the Kullback-Leibler divergence, the teacher's first.

The two sums over pairs of positions are taken some rows at a time, and their gradient in closed
form with them: nothing as large as all pairs is kept for a backward pass.

References:
    | Relational Diffusion Distillation for Efficient Image Generation (Feng et al., 2024)
    | https://arxiv.org/abs/2410.07679
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["feature_divergence", "pair_relations", "positions", "queue_relations"]


# Numbers of a block of relations: what is held at once is a few times as many.
BLOCK = 4_194_304


def positions(maps: Tensor) -> Tensor:
    r"""Returns the positions of maps `(B, C, *)`, of unit length, with shape `(B, A, C)`.

    The length is over channels; a position of zeros stays one.
    """
    return torch.nn.functional.normalize(maps.flatten(2), dim=1).transpose(1, 2)


def feature_divergence(student: Tensor, teacher: Tensor, sharpness: float = 1.0) -> Tensor:
    r"""Returns the divergence of pooled features, a scalar.

    .. math:: \mathcal{L} = \frac1B \sum_b \mathrm{KL} \big( \mathrm{softmax}(f_T^b / \tau) \,\|\,
        \mathrm{softmax}(f_S^b) \big), \qquad \frac{\partial \mathcal{L}}{\partial f_S^b} =
        \frac1B \big( \mathrm{softmax}(f_S^b) - \mathrm{softmax}(f_T^b / \tau) \big)

    The temperature is the teacher's alone: below one it sharpens, and the optimum is then at
    :math:`f_S = f_T / \tau` up to a constant, not where the features are equal.

    Arguments:
        student: Features of the student, with shape :math:`(B, C)`.
        teacher: Those of the teacher, with that shape.
        sharpness: The temperature :math:`\tau`.
    """
    target = (teacher / sharpness).log_softmax(1)
    return (target.exp() * (target - student.log_softmax(1))).sum(1).mean()


def pair_relations(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Returns the divergence of the relations of all pairs of maps of a batch, a scalar.

    .. math:: \frac{1}{B^2 A} \sum_{b, d, a} \mathrm{KL} \big( \mathrm{softmax}(R^T_{bd}[a, :])
        \,\|\, \mathrm{softmax}(R^S_{bd}[a, :]) \big), \qquad R_{bd}[a, c] = \frac{\langle \hat
        m_{ba}, \hat m_{dc} \rangle}{\tau}

    The softmax is over the positions of map :math:`d`; :math:`b = d` is included. It is unchanged
    by one rotation of the channels of all maps. Of maps with one position it is zero.

    Arguments:
        student: Positions of unit length, see `positions`, with shape :math:`(B, A, C)`.
        teacher: Those of the teacher, with as many positions.
        temperature: The temperature :math:`\tau`.
    """
    (b, a), s = student.shape[:2], student.reshape(-1, student.shape[-1])
    t = teacher.detach().reshape(b * a, -1)
    with torch.no_grad():
        value, gradient = s.new_zeros(()), torch.zeros_like(s)
        for rows in torch.arange(b * a, device=s.device).split(max(1, BLOCK // (b * a))):
            log_p, log_q = (
                (x[rows] @ x.T / temperature).view(-1, b, a).log_softmax(2) for x in (t, s)
            )
            p = log_p.exp()
            value += (p * (log_p - log_q)).sum()
            moved = (log_q.exp() - p).view(-1, b * a)
            gradient[rows] += moved @ s
            gradient += moved.T @ s[rows]
        scale = 1 / (b * b * a)
        gradient *= scale / temperature
    return valued(scale * value, s, gradient)


def queue_relations(
    student: Tensor, teacher: Tensor, queue: Tensor, temperature: float = 0.1
) -> Tensor:
    r"""Returns the divergence of the relations of positions to a queue of others, a scalar.

    .. math:: \frac{1}{N} \sum_n \mathrm{KL} \big( \mathrm{softmax}(Q \, \hat m^T_n / \tau) \,\|\,
        \mathrm{softmax}(Q \, \hat m^S_n / \tau) \big)

    Arguments:
        student: Positions of unit length, with shape :math:`(N, C)`.
        teacher: Those of the teacher, with that shape.
        queue: What both are compared with, of unit length, with shape :math:`(K, C)`.
        temperature: The temperature :math:`\tau`.
    """
    with torch.no_grad():
        value, gradient = student.new_zeros(()), torch.zeros_like(student)
        every = torch.arange(len(student), device=student.device)
        for rows in every.split(max(1, BLOCK // max(1, len(queue)))):
            log_p, log_q = (
                (x[rows] @ queue.T / temperature).log_softmax(1) for x in (teacher, student)
            )
            p = log_p.exp()
            value += (p * (log_p - log_q)).sum()
            gradient[rows] = (log_q.exp() - p) @ queue
        gradient /= temperature * len(student)
    return valued(value / len(student), student, gradient)


def valued(value: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
    r"""Returns a value whose gradient with respect to a tensor is the one given."""
    moved = (x * gradient).sum()
    return value + moved - moved.detach()
