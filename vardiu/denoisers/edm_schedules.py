r"""The times of networks that predict the noise: the parameterisations before EDM's own.

In the library's coordinate, :math:`x_t = x + \sigma \varepsilon`, they all read

.. math:: D(x_t, \sigma) = x_t + s \, \sigma F \big( c_\mathrm{in}(\sigma) x_t,
    c_\mathrm{noise}(\sigma) \big)

=======  =====  ================================  ==========================================
levels   sign   :math:`c_\mathrm{in}`             :math:`c_\mathrm{noise}`
=======  =====  ================================  ==========================================
VE       +1     :math:`1`                         :math:`\log(\sigma / 2)`
VP       -1     :math:`1 / \sqrt{1 + \sigma^2}`   :math:`(M - 1) \, \sigma^{-1}(\sigma)`
iDDPM    -1     :math:`1 / \sqrt{1 + \sigma^2}`   :math:`M - 1 - \arg\min_j |u_j - \sigma|`
=======  =====  ================================  ==========================================

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022)
    | https://arxiv.org/abs/2206.00364, Table 1 and Appendix C
"""

from __future__ import annotations

import abc
import math

import torch
from torch import Tensor

from .schedules import Coordinates

__all__ = ["IDDPMLevels", "Levels", "VELevels", "VPLevels"]


class Levels(Coordinates):
    r"""Coordinates whose times can be turned back into levels.

    Attributes:
        prediction: What the network predicts, see `vardiu.denoisers.adapted.PREDICTIONS`.
        preserving: Whether the input is scaled to preserve its variance, or not at all.
    """

    prediction = "epsilon"
    preserving = True

    def scales(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        alpha = (1 + sigma.square()).rsqrt() if self.preserving else torch.ones_like(sigma)
        return alpha, sigma * alpha

    @abc.abstractmethod
    def inverse(self, c_noise: Tensor) -> Tensor:
        r"""Returns the levels of which the network is told `c_noise`, `(B,)`."""


class VELevels(Levels):
    r"""Variance exploding: half the level, in logarithms.

    Arguments:
        sigma_min: The smallest level.
        sigma_max: The largest level.
    """

    prediction, preserving, exploding = "negative_epsilon", False, True

    def __init__(self, sigma_min: float = 0.02, sigma_max: float = 100.0) -> None:
        super().__init__()
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.arguments = {"sigma_min": sigma_min, "sigma_max": sigma_max}

    def time(self, sigma: Tensor) -> Tensor:
        return (0.5 * sigma).log()

    def inverse(self, c_noise: Tensor) -> Tensor:
        return 2 * c_noise.exp()


class VPLevels(Levels):
    r"""Variance preserving: the time of a linear schedule of :math:`\beta`.

    .. math:: \sigma(t) = \sqrt{e^{\beta_d t^2 / 2 + \beta_\mathrm{min} t} - 1}, \qquad
        \sigma^{-1}(\sigma) = \frac{\sqrt{\beta_\mathrm{min}^2 + 2 \beta_d \log(1 + \sigma^2)}
        - \beta_\mathrm{min}}{\beta_d}

    Arguments:
        beta_d: The increase :math:`\beta_d` over unit time.
        beta_min: The value at time zero.
        M: The number of steps of the network's training, to which it counts.
        epsilon_t: The smallest time of its training.
    """

    def __init__(
        self,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        M: int = 1000,
        epsilon_t: float = 1e-5,
    ) -> None:
        super().__init__()
        self.beta_d, self.beta_min, self.steps = beta_d, beta_min, M
        self.arguments = {"beta_d": beta_d, "beta_min": beta_min, "M": M, "epsilon_t": epsilon_t}
        times = torch.tensor([epsilon_t, 1.0], dtype=torch.float64)
        self.sigma_min, self.sigma_max = self.inverse((M - 1) * times).tolist()

    def time(self, sigma: Tensor) -> Tensor:
        spread = self.beta_min**2 + 2 * self.beta_d * sigma.square().log1p()
        return (self.steps - 1) * (spread.sqrt() - self.beta_min) / self.beta_d

    def inverse(self, c_noise: Tensor) -> Tensor:
        t = c_noise / (self.steps - 1)
        return (0.5 * self.beta_d * t.square() + self.beta_min * t).expm1().sqrt()


class IDDPMLevels(Levels):
    r"""The discrete levels of improved DDPM's cosine schedule, as EDM has it.

    .. math:: u_M = 0, \qquad u_{j-1} = \sqrt{\frac{u_j^2 + 1}
        {\max(\bar\alpha_{j-1} / \bar\alpha_j, C_1)} - 1}, \qquad
        \bar\alpha_j = \sin^2 \frac{\pi j}{2 M (C_2 + 1)}

    Only what the network is told is rounded to the nearest of them, not the level itself.

    Arguments:
        C_1: The bound on the ratio of two steps.
        C_2: The offset of the schedule.
        M: The number of steps.
        j_0: The first step that counts for `sigma_max`, here 80; before it the levels leap, to
            20,291.
    """

    u: Tensor

    def __init__(
        self, C_1: float = 0.001, C_2: float = 0.008, M: int = 1000, j_0: int = 8
    ) -> None:
        super().__init__()
        self.arguments = {"C_1": C_1, "C_2": C_2, "M": M, "j_0": j_0}
        kept = [math.sin(0.5 * math.pi * j / M / (C_2 + 1)) ** 2 for j in range(M + 1)]
        u = [0.0]
        for j in range(M, 0, -1):
            ratio = max(kept[j - 1] / kept[j], C_1)
            u.append(math.sqrt((u[-1] ** 2 + 1) / ratio - 1))
        self.steps, self.sigma_min, self.sigma_max = M, u[1], u[M - j_0]
        self.register_buffer("u", torch.tensor(u[::-1]))

    def time(self, sigma: Tensor) -> Tensor:
        nearest = (sigma[:, None] - self.u.to(sigma)).abs().argmin(dim=1)
        return (self.steps - 1 - nearest).to(sigma)

    def inverse(self, c_noise: Tensor) -> Tensor:
        return self.u[(self.steps - 1 - c_noise).long()].to(c_noise)
