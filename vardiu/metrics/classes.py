r"""Metrics of predicted classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .metric import Metric
from .shares import reaching

__all__ = ["class_agreement", "class_masses", "classes_covered"]


def class_masses(predicted: Tensor, classes: int) -> Tensor:
    r"""Returns the share of each class, with shape `(C,)`."""
    if predicted.ndim != 1 or len(predicted) == 0:
        raise ValueError(f"predicted must have shape (N,), got {tuple(predicted.shape)}")
    return torch.bincount(predicted, minlength=classes).double() / len(predicted)


def classes_covered(predicted: Tensor, classes: int, threshold: float = 0.01) -> Metric:
    r"""Returns the number of classes that hold at least a share of the samples; its error is that
    of `vardiu.metrics.shares.reaching`."""
    share = class_masses(predicted, classes)
    found, error = reaching(share, len(predicted), threshold)
    note = f"of {classes}, with at least {threshold:.0%} of the samples; least {share.min():.1%}"
    return Metric("classes", found, error, len(predicted), True, note)


def class_agreement(predicted: Tensor, asked: Tensor) -> Metric:
    r"""Returns the share of samples whose predicted class is the one that was asked for."""
    if predicted.shape != asked.shape or predicted.ndim != 1 or len(predicted) == 0:
        raise ValueError(
            "predicted and asked must have the same shape (N,), N at least 1, got "
            f"{tuple(predicted.shape)} and {tuple(asked.shape)}"
        )
    share = (predicted == asked).double().mean().item()
    n = len(predicted)
    return Metric("agreement", share, math.sqrt(share * (1 - share) / n), n, True)
