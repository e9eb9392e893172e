r"""Hybrid discriminators: one of noisy samples, and one of the images that samples stand for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..nn.taps import GivesFeatures
from .heads import Head

__all__ = ["HybridDiscriminator"]


class HybridDiscriminator(nn.Module):
    r"""A discriminator of noisy samples, and beside it a head on images.

    Who decodes is the caller: the gradient of an image's logit goes through the decoder.

    References:
        | Adversarial Distribution Matching for Diffusion Distillation Towards Efficient Image and
        | Video Synthesis (Lu et al., 2025), https://arxiv.org/abs/2507.18569

    Arguments:
        noisy: The discriminator of noisy samples, in the space of the teacher.
        pixel: The head on images, `(B, C, H, W)`; none without.
    """

    def __init__(self, noisy: nn.Module, pixel: Head | None = None) -> None:
        super().__init__()
        self.noisy, self.pixel = noisy, pixel

    def of_noisy(
        self, denoiser: GivesFeatures | None, y_t: Tensor, sigma: Tensor, **cond: Tensor
    ) -> Tensor:
        r"""Returns the logits of noisy samples, one a head, with shape :math:`(K, B)`.

        Arguments:
            denoiser: The denoiser whose features are read.
            y_t: Noisy samples, with shape :math:`(B, *)`.
            sigma: The noise level of each row, with shape :math:`(B)`.
            cond: The denoiser's conditions.
        """
        return torch.stack(self.noisy(denoiser, y_t, sigma, **cond))

    def of_images(self, images: Tensor) -> Tensor:
        r"""Returns the logits of images, with shape :math:`(B)`.

        Raises:
            TypeError: There is no head on images.
        """
        if self.pixel is None:
            raise TypeError("this discriminator has no head on images: give `pixel`")
        logits: Tensor = self.pixel(images)
        return logits
