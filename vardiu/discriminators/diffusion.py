r"""Diffusion discriminators: heads on the features of a denoiser, at noisy samples.

.. math:: c_k(y_t, \sigma) = h_k \big( f_k(y_t, \sigma) \big)

with :math:`f_k` the activation at the tap :math:`k` of a denoiser. Real and generated samples are
compared at every noise level, where they overlap, and the heads are small because the denoiser
knows what samples look like.

References:
    | Improved Distribution Matching Distillation for Fast Image Synthesis (Yin et al., 2024)
    | https://arxiv.org/abs/2405.14867, Section 4.2
    | Fast High-Resolution Image Synthesis with Latent Adversarial Diffusion Distillation
    | (Sauer et al., 2024), https://arxiv.org/abs/2403.12015
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..denoisers.base import Denoiser
from ..errors import ConfigError, known
from ..nn.taps import GivesFeatures
from .heads import MLPHead, head_for

__all__ = ["DiffusionDiscriminator", "EncodedDiscriminator", "discriminator_on", "named_taps"]


class DiffusionDiscriminator(nn.Module):
    r"""Heads, one a tap, of a denoiser that is given in the call and is not owned.

    DMD2 reads the fake's features and trains both the fake and the head by the classifier's loss;
    others read a frozen teacher's. Freezing is the caller's: gradients flow to `y_t`, to the
    heads, and to the denoiser's weights where they require them.

    Arguments:
        heads: The head of each tap, from a feature to a logit.
        at: The taps of the denoiser.

    Raises:
        ValueError: There are no taps, or not as many as heads, or one is there twice.

    Example:
        >>> from vardiu.denoisers.preconditioned import PreconditionedDenoiser
        >>> from vardiu.discriminators.heads import MLPHead
        >>> from vardiu.nn import MLP
        >>> denoiser = PreconditionedDenoiser(
        ...     MLP((2,), (2,), width=8, depth=2, noisy=True),
        ...     shape=(2,), sigma_data=1.0, sigma_min=0.01, sigma_max=10.0,
        ... )
        >>> critic = DiffusionDiscriminator([MLPHead(8)], at=["hidden.1"])
        >>> [logit.shape for logit in critic(denoiser, torch.zeros(5, 2), torch.ones(5))]
        [torch.Size([5])]
    """

    def __init__(self, heads: Sequence[nn.Module], at: Sequence[str]) -> None:
        super().__init__()
        if isinstance(at, str) or not at or len(set(at)) != len(at) or len(heads) != len(at):
            raise ValueError(
                f"at must name a tap for each of {len(heads)} heads, each tap once, got {at!r}"
            )
        self.heads = nn.ModuleList(heads)
        self.at = tuple(at)

    def forward(
        self, denoiser: GivesFeatures, y_t: Tensor, sigma: Tensor, **cond: Tensor
    ) -> list[Tensor]:
        r"""Returns the logit of each tap, of shape :math:`(B)`, large for what seems real;
        of heads with a logit a place the logits of each tap, :math:`(B, H, W)`.

        Arguments:
            denoiser: The denoiser whose features are read.
            y_t: Noisy samples, with shape :math:`(B, *)`.
            sigma: The noise level of each row, with shape :math:`(B)`.
            cond: The denoiser's conditions.
        """
        _, features = denoiser.features(y_t, sigma, self.at, **cond)
        return [head(features[name]) for head, name in zip(self.heads, self.at, strict=True)]

    def extra_repr(self) -> str:
        return f"at={self.at}"


class EncodedDiscriminator(nn.Module):
    r"""A discriminator with a network of its own, trained whole: for a teacher without features.

    It is called as a `DiffusionDiscriminator` is, and looks at no denoiser.

    Arguments:
        encoder: The module :math:`(y_t, \sigma, \ldots) \mapsto` features, `(B, F)`.
        features: The number :math:`F` of features.
    """

    def __init__(self, encoder: nn.Module, features: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, MLPHead(features)

    def forward(
        self, denoiser: GivesFeatures | None, y_t: Tensor, sigma: Tensor, **cond: Tensor
    ) -> list[Tensor]:
        r"""Returns one logit a row, `(B,)`, large for what seems real.

        Arguments:
            denoiser: Not looked at.
            y_t: Noisy samples, with shape :math:`(B, *)`.
            sigma: The noise level of each row, with shape :math:`(B)`.
            cond: The encoder's conditions.
        """
        return [self.head(self.encoder(y_t, sigma, **cond))]


def named_taps(
    denoiser: Denoiser, names: str, whose: str, own: str = "--critic own"
) -> tuple[str, ...]:
    r"""Returns the taps of a denoiser that are named; its bottleneck where none is.

    Arguments:
        denoiser: The denoiser.
        names: Names of taps, separated by commas.
        whose: Whose network it is, for messages.
        own: The option that gives the discriminator a network of its own, for messages.

    Raises:
        ConfigError: The denoiser has no taps, or not these.
    """
    if not denoiser.taps:
        raise ConfigError(
            f"the discriminator reads features of the {whose}'s network, and it lists none: give "
            "the network `taps`, `bottleneck` and `features`, see docs/usage/features.md, or the "
            f"discriminator a network of its own, {own}"
        )
    found = [known(name.strip(), denoiser.taps, "tap") for name in names.split(",") if name]
    if len(set(found)) != len(found):
        raise ConfigError(f"taps must name each tap once, got {', '.join(found)}")
    return tuple(found) or (denoiser.bottleneck,)


def discriminator_on(
    denoiser: Denoiser,
    at: Sequence[str] = (),
    head: Callable[[Tensor], nn.Module] = head_for,
    /,
    **cond: Tensor,
) -> DiffusionDiscriminator:
    r"""Returns fresh heads for the taps of a denoiser, on its device.

    The denoiser is called once on zeros to learn the shapes of its features.

    Arguments:
        denoiser: The denoiser, or one like those whose features will be read.
        at: The taps; its bottleneck by default.
        head: Makes a head of an example of a feature.
        cond: One row of each of the denoiser's conditions.

    Raises:
        TypeError: The denoiser lists no taps.
        ValueError: There is no tap of a name in `at`.
        ConfigError: A feature is not finite: the denoiser's weights are damaged.
    """
    at = at or (denoiser.bottleneck,)
    weight = next(denoiser.parameters(), torch.empty(()))
    sigma = weight.new_full((1,), min(max(1.0, denoiser.sigma_min), denoiser.sigma_max))
    with torch.no_grad():
        example = weight.new_zeros(1, *denoiser.shape)
        there = {name: value.to(weight.device) for name, value in cond.items()}
        _, features = denoiser.features(example, sigma, at=at, **there)
    for name in at:
        if not bool(features[name].isfinite().all()):
            raise ConfigError(
                f"the discriminator would be fed numbers that are not finite: the tap {name!r} of "
                f"a {type(denoiser).__name__} gives them of zeros at the level {sigma.item():g}; "
                "its weights are damaged, give another teacher"
            )
    return DiffusionDiscriminator([head(features[name]) for name in at], at)
