r"""What consistency functions are trained with: scalings, curricula, shares of levels, places.

Pure functions; nothing here draws random numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "doubling",
    "evenly_from_the_top",
    "growing_decay",
    "index_scalings",
    "log_normal_shares",
    "square_root",
]


def index_scalings(
    left: Tensor, scaling: float = 10.0, sigma_data: float = 0.5
) -> tuple[Tensor, Tensor]:
    r"""Returns the factors of a state and of its clean estimate, each with the shape of `left`.

    .. math:: c_\mathrm{skip} = \frac{\sigma_d^2}{(s \tau)^2 + \sigma_d^2}, \qquad
        c_\mathrm{out} = \frac{s \tau}{\sqrt{(s \tau)^2 + \sigma_d^2}}

    One and zero at the end of a grid, zero and one to three digits a place before it.

    References:
        | Latent Consistency Models (Luo et al., 2023), https://arxiv.org/abs/2310.04378

    Arguments:
        left: The number :math:`\tau` of places that are left to the end of the grid; for a grid of
            all times of a schedule the time itself.
        scaling: The factor :math:`s`.
        sigma_data: The number :math:`\sigma_d`.
    """
    scaled = (scaling * left).square()
    total = scaled + sigma_data**2
    return sigma_data**2 / total, (scaled / total).sqrt()


def doubling(step: int, steps: int, first: int, last: int) -> int:
    r"""Returns the number of levels of a grid that doubles at equal intervals of a training.

    .. math:: N(k) = \min \big( s_0 2^{\lfloor k / K' \rfloor}, s_1 \big) + 1, \qquad
        K' = \Big\lfloor \frac{K}{\lfloor \log_2 \lfloor s_1 / s_0 \rfloor \rfloor + 1} \Big\rfloor

    References:
        | Improved Techniques for Training Consistency Models (Song and Dhariwal, 2023)
        | https://arxiv.org/abs/2310.14189, Section 3.4

    Arguments:
        step: The step :math:`k`, from zero.
        steps: Their number :math:`K`.
        first: The number :math:`s_0` of intervals at the start.
        last: That at the end, :math:`s_1`.
    """
    stages = (last // first).bit_length()
    length = max(1, steps // stages)
    return min(first * 2 ** min(step // length, stages), last) + 1


def square_root(step: int, steps: int, first: int, last: int) -> int:
    r"""Returns the number of levels of a grid whose square grows evenly.

    .. math:: N(k) = \Big\lceil \sqrt{\tfrac{k}{K} \big( (s_1 + 1)^2 - s_0^2 \big) + s_0^2} - 1
        \Big\rceil + 1

    and at least two. Arguments are those of `doubling`.

    References:
        | Consistency Models (Song et al., 2023), https://arxiv.org/abs/2303.01469, Appendix C
    """
    square = min(step / steps, 1.0) * ((last + 1) ** 2 - first**2) + first**2
    return max(math.ceil(math.sqrt(square) - 1) + 1, 2)


def growing_decay(levels: int, first: int, decay: float) -> float:
    r"""Returns the rate of a target network for a grid of so many levels.

    .. math:: \mu(k) = \exp \Big( \frac{s_0 \ln \mu_0}{N(k) - 1} \Big)

    and zero for :math:`\mu_0 = 0`: the target is then a copy.

    References:
        | Consistency Models (Song et al., 2023), https://arxiv.org/abs/2303.01469, Appendix C

    Arguments:
        levels: The number :math:`N(k)`.
        first: The number :math:`s_0` of intervals at the start.
        decay: The rate :math:`\mu_0`.
    """
    return math.exp(first * math.log(decay) / (levels - 1)) if decay else 0.0


def log_normal_shares(levels: Tensor, mean: float, std: float) -> Tensor:
    r"""Returns how often each interval of a grid is drawn, `(N - 1,)`, in all one.

    .. math:: p_i \propto \operatorname{erf} \Big( \frac{\ln t_i - m}{\sqrt 2 s} \Big) -
        \operatorname{erf} \Big( \frac{\ln t_{i+1} - m}{\sqrt 2 s} \Big)

    References:
        | Improved Techniques for Training Consistency Models (Song and Dhariwal, 2023)
        | https://arxiv.org/abs/2310.14189, Section 3.5

    Arguments:
        levels: The decreasing levels :math:`t_0 > \ldots > t_{N-1}`, with shape :math:`(N)`.
        mean: The mean :math:`m` of the logarithm of a level.
        std: Its standard deviation :math:`s`.
    """
    below = torch.special.ndtr((levels.double().log() - mean) / std)
    shares = below[:-1] - below[1:]
    return (shares / shares.sum()).to(levels.dtype)


def evenly_from_the_top(places: int, calls: int) -> list[int]:
    r"""Returns so many of the places of a grid, from the first: :math:`\lfloor i N / S \rfloor`.

    Example:
        >>> evenly_from_the_top(50, 4)
        [0, 12, 25, 37]
    """
    return [i * places // calls for i in range(calls)]
