r"""The encoder and the middle of a denoiser, for a discriminator that is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..denoisers import lora
from ..denoisers.base import Denoiser
from ..nn.taps import Tapped
from ..nn.trunk import Trunk, with_weights

__all__ = ["encoder_of"]


def encoder_of(
    denoiser: Denoiser, at: Sequence[str] = (), rank: int = 0, **cond: Tensor
) -> Denoiser:
    r"""Returns a trainable denoiser that ends at its taps, for its features alone.

    What the taps do not depend on, the way up of a U-Net, is left out. A network that is none of
    this library's is kept whole. The denoiser itself is not changed.

    Arguments:
        denoiser: The denoiser whose weights it starts from.
        at: The taps; the bottleneck by default.
        rank: The rank of adapters on the shared weights; 0 for a copy that is trained whole.
        cond: One row of each of its conditions.

    Raises:
        TypeError: The denoiser lists no taps.
    """
    at = tuple(at) or (denoiser.bottleneck,)
    used = used_by(denoiser, at, cond)
    cut = ended(denoiser, at, used)
    assert isinstance(cut, Denoiser)
    return lora.adapt(cut, rank) if rank else cut.trainable_copy()


def used_by(denoiser: Denoiser, at: Sequence[str], cond: dict[str, Tensor]) -> set[int]:
    r"""Returns the identities of the weights that some taps of a denoiser depend on."""
    weights = list(denoiser.parameters())
    frozen = [p for p in weights if not p.requires_grad]
    for p in frozen:
        p.requires_grad_(True)
    try:
        x = weights[0].new_zeros(1, *denoiser.shape)
        level = min(max(1.0, denoiser.sigma_min), denoiser.sigma_max)
        there = {name: value.to(x.device) for name, value in cond.items()}
        with torch.enable_grad():
            _, found = denoiser.features(x, x.new_full((1,), level), at, **there)
            total = sum((found[name].sum() for name in at), x.new_zeros(()))
            gradients = torch.autograd.grad(total, weights, allow_unused=True)
    finally:
        for p in frozen:
            p.requires_grad_(False)
    return {id(p) for p, g in zip(weights, gradients, strict=True) if g is not None}


def ended(module: nn.Module, at: Sequence[str], used: set[int]) -> nn.Module:
    r"""Returns a denoiser, or a wrapper of a network, whose inner network ends at its taps."""
    if isinstance(module, Tapped):
        return Trunk(with_weights(module, used), at)
    for name in ("denoiser", "network"):
        inner = module._modules.get(name)
        if inner is not None:
            return lora.with_child(module, name, ended(inner, at, used))
    return module
