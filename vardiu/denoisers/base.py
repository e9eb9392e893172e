r"""Denoisers: the mean of a clean sample given a noisy one.

Every teacher, every critic and every guidance of the library speaks one language,

.. math:: D(x_t, \sigma) = \mathbb{E}[x \mid x_t], \qquad x_t = x + \sigma \varepsilon, \quad
    \varepsilon \sim \mathcal{N}(0, I),

so that no method knows about schedules, discrete times or prediction types. A variance-preserving
or a flow-matching network is brought to this coordinate once, where it is loaded.

The exact denoisers below need no training. For a mixture :math:`\sum_m w_m \mathcal{N}(\mu_m,
\mathrm{diag}(s_m^2))` the noisy marginal is the mixture of :math:`\mathcal{N}(\mu_m,
\mathrm{diag}(s_m^2 + \sigma^2))`, with responsibilities :math:`\rho_m(x_t)`, and

.. math:: D(x_t, \sigma) = \sum_m \rho_m(x_t) \left( \mu_m
    + \frac{s_m^2}{s_m^2 + \sigma^2} (x_t - \mu_m) \right).
"""

from __future__ import annotations

import abc
import copy
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from ..nn.backbones import Interface
from ..storage.code import OwnCode

__all__ = ["Denoiser", "place_of"]


class Denoiser(Interface, abc.ABC):
    r"""The interface: `denoiser(x_t, sigma, **cond)` returns :math:`\mathbb{E}[x \mid x_t]`.

    Attributes:
        shape: The shape of one sample, without the batch.
        sigma_min: The smallest noise level at which it can be trusted.
        sigma_max: The largest one.
        conditions: The names of its keyword arguments, each a tensor with :math:`B` rows.
        terminal: Whether `generate` can be asked at infinite noise.
        origin: Where it was loaded from, see `vardiu.teachers`.
        own_code: The user's own code that made it; it is saved as weights and a reference to that
            code, see `vardiu.models`.
    """

    shape: tuple[int, ...]
    sigma_min: float
    sigma_max: float
    conditions: tuple[str, ...] = ()
    terminal: bool = False
    origin: Any = None
    own_code: OwnCode | None = None

    if TYPE_CHECKING:  # nn.Module's own takes and returns anything

        def __call__(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def forward(self, x_t: Tensor, sigma: Tensor, **cond: Tensor) -> Tensor:
        r"""Returns the denoised tensor.

        Arguments:
            x_t: A noisy tensor, with shape :math:`(B, *)`.
            sigma: The noise level of each row, with shape :math:`(B)`.
            cond: The conditions, by name.

        Returns:
            The mean of the clean sample, with the shape and the type of `x_t`.
        """

    @property
    def taps(self) -> tuple[str, ...]:
        r"""The names of the activations that `features` can be asked for, in order of a call."""
        return ()

    @property
    def bottleneck(self) -> str:
        r"""The tap that stands for the network, see `vardiu.nn.Tapped`; empty without taps."""
        return ""

    def features(
        self, x_t: Tensor, sigma: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        r"""Returns the denoised tensor, and activations of the network by name.

        Gradients flow through both, to `x_t` and to the weights.

        Arguments:
            x_t: A noisy tensor, with shape :math:`(B, *)`.
            sigma: The noise level of each row, with shape :math:`(B)`.
            at: The names of the activations, each one of `taps`.
            cond: The conditions, by name.

        Returns:
            The denoised tensor, with the shape of `x_t`, and the activations, each with :math:`B`
            rows.

        Raises:
            TypeError: It has no network that lists taps.
            ValueError: There is no tap of a name in `at`.
        """
        raise TypeError(
            f"{type(self).__name__} has no features; a denoiser with a network has them "
            "(PreconditionedDenoiser, AdaptedDenoiser)"
        )

    def generate(self, z: Tensor, sigma: float, **cond: Tensor) -> Tensor:
        r"""Returns the sample that one call makes of a latent, :math:`D(\sigma z, \sigma)`."""
        return self(sigma * z, z.new_full((z.shape[0],), sigma), **cond)

    def pure_noise(self, z: Tensor, sigma: float) -> Tensor:
        r"""Returns the state of a finite level that `generate` starts from, :math:`\sigma z`."""
        return sigma * z

    def noise_gain(self, sigma: float) -> float:
        r"""Returns how many times the error of the predicted noise is in the mean; zero where the
        network does not predict noise.

        At a great level a prediction that is nearly exact gives a mean that is far off, and
        samples well all the same.
        """
        return 0.0

    def whole(self, sigma: float) -> float:
        r"""Returns the nearest level of which its network has a time of its own; any has, of a
        network of continuous levels."""
        inner = self._modules.get("denoiser")
        return inner.whole(sigma) if isinstance(inner, Denoiser) else sigma

    @property
    def latent_sigma(self) -> float:
        r"""The level at which a student asks it unless told otherwise."""
        return self.sigma_max

    def train(self, mode: bool = True) -> Self:
        r"""Sets the mode of this module; networks of the user's own code stay in evaluation mode,
        where dropout is off and batch normalisation keeps its statistics."""
        super().train(mode)
        if self.own_code is not None:
            for child in self.children():
                child.eval()
        return self

    def trainable_copy(self) -> Denoiser:
        r"""Returns a trainable copy, for a student or a fake to start from.

        Raises:
            TypeError: It has no weights.
        """
        if next(self.parameters(), None) is None:
            raise TypeError(
                f"{type(self).__name__} has no weights that a student could start from; "
                "give a network: Pushforward(network, latent_shape=..., shape=...)"
            )
        return copy.deepcopy(self).requires_grad_(True).train()

    def check(self, x_t: Tensor, sigma: Tensor) -> None:
        r"""Raises a `ValueError` that names what is wrong with the shapes or types, if any."""
        if tuple(x_t.shape[1:]) != tuple(self.shape):
            raise ValueError(
                f"x_t must have shape (B, {', '.join(map(str, self.shape))}), "
                f"got {tuple(x_t.shape)}"
            )
        if sigma.shape != x_t.shape[:1]:
            raise ValueError(
                f"sigma must have shape ({len(x_t)},), one level a row of x_t, "
                f"got {tuple(sigma.shape)}"
            )
        if not x_t.is_floating_point():
            raise ValueError(f"x_t must be of a floating-point type, got {x_t.dtype}")


def place_of(module: nn.Module, otherwise: torch.device | str = "cpu") -> torch.device:
    r"""Returns the device of a module's tensors; another one if it has none."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device(otherwise))
