r"""Adversarial losses, of logits.

A discriminator :math:`c` has large logits for what is real, :math:`y \sim p`, and small ones for
what is generated, :math:`x \sim q`. Every loss is per row; a discriminator's is of one real and
one generated row. With several heads a loss is that of each head's logits, averaged over heads:
the margins of a hinge loss are those of one logit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "ADVERSARIAL",
    "Adversarial",
    "gradient_penalty",
    "hinge_discriminator",
    "hinge_generator",
    "least_squares_discriminator",
    "least_squares_generator",
    "softplus_discriminator",
    "softplus_generator",
]


def softplus_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    r"""Returns the binary cross entropy, with shape :math:`(B)`.

    .. math:: \log(1 + e^{c(x)}) + \log(1 + e^{-c(y)})

    Over functions it is minimised by :math:`c = \log p - \log q`, where its mean is
    :math:`2 \log 2 - 2 \, \mathrm{JS}(p, q)`.

    References:
        | Generative Adversarial Networks (Goodfellow et al., 2014)
        | https://arxiv.org/abs/1406.2661

    Arguments:
        real: The logits :math:`c(y)`, with shape :math:`(B)`.
        fake: The logits :math:`c(x)`, with shape :math:`(B)`.
    """
    return F.softplus(fake) + F.softplus(-real)


def softplus_generator(fake: Tensor) -> Tensor:
    r"""Returns the non-saturating loss :math:`\log(1 + e^{-c(x)})`, with shape :math:`(B)`.

    Its gradient is that of :math:`-c(x)` times :math:`1 - \mathrm{sigmoid}(c(x))`. That of
    :math:`-c(x)` itself, at the optimal :math:`c`, is the gradient of :math:`\mathrm{KL}(q \| p)`.

    References:
        | Generative Adversarial Networks (Goodfellow et al., 2014)
        | https://arxiv.org/abs/1406.2661
    """
    return F.softplus(-fake)


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    r"""Returns the hinge loss, with shape :math:`(B)`.

    .. math:: \max(0, 1 + c(x)) + \max(0, 1 - c(y))

    Over functions it is minimised by :math:`c = \mathrm{sign}(p - q)`, where its mean is
    :math:`2 - 2 \, \mathrm{TV}(p, q)`.

    References:
        | Geometric GAN (Lim and Ye, 2017), https://arxiv.org/abs/1705.02894
    """
    return F.relu(1 + fake) + F.relu(1 - real)


def hinge_generator(fake: Tensor) -> Tensor:
    r"""Returns :math:`-c(x)`, with shape :math:`(B)`.

    References:
        | Geometric GAN (Lim and Ye, 2017), https://arxiv.org/abs/1705.02894
    """
    return -fake


def least_squares_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    r"""Returns the least-squares loss, with shape :math:`(B)`.

    .. math:: \tfrac12 c(x)^2 + \tfrac12 (c(y) - 1)^2

    Over functions it is minimised by :math:`c = p / (p + q)`, where its mean is
    :math:`\tfrac12 \int p \, q / (p + q)`.

    References:
        | Least Squares Generative Adversarial Networks (Mao et al., 2017)
        | https://arxiv.org/abs/1611.04076
    """
    return (fake.square() + (real - 1).square()) / 2


def least_squares_generator(fake: Tensor) -> Tensor:
    r"""Returns :math:`\tfrac12 (c(x) - 1)^2`, with shape :math:`(B)`.

    References:
        | Least Squares Generative Adversarial Networks (Mao et al., 2017)
        | https://arxiv.org/abs/1611.04076
    """
    return (fake - 1).square() / 2


def gradient_penalty(logit: Tensor, perturbed: Tensor, scale: float) -> Tensor:
    r"""Returns a penalty on the squared gradient of a logit, without a second derivative, `(B,)`.

    .. math:: \frac{(c(x + s \xi) - c(x))^2}{s^2}, \qquad \xi \sim \mathcal{N}(0, I)

    Its mean over :math:`\xi` is :math:`\|\nabla c(x)\|^2` for a linear :math:`c`, and tends to it
    as :math:`s \to 0`. On real rows it approximates the penalty R1, on generated ones R2.

    References:
        | Diffusion Adversarial Post-Training for One-Step Video Generation (Lin et al., 2025)
        | https://arxiv.org/abs/2501.08316, Section 3.3
        | Which Training Methods for GANs do actually Converge? (Mescheder et al., 2018)
        | https://arxiv.org/abs/1801.04406

    Arguments:
        logit: The logits :math:`c(x)`, with shape :math:`(B)`.
        perturbed: The logits :math:`c(x + s \xi)`, with shape :math:`(B)`.
        scale: The scale :math:`s > 0`.
    """
    return ((perturbed - logit) / scale).square()


class Adversarial(NamedTuple):
    r"""The two losses of a game.

    Attributes:
        discriminator: That of logits of real and of generated rows.
        generator: That of logits of generated rows.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


ADVERSARIAL: Mapping[str, Adversarial] = {
    "hinge": Adversarial(hinge_discriminator, hinge_generator),
    "least_squares": Adversarial(least_squares_discriminator, least_squares_generator),
    "softplus": Adversarial(softplus_discriminator, softplus_generator),
}
