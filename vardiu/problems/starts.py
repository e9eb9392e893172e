r"""Networks that start from a teacher's weights, and the check of that before any training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..denoisers import lora
from ..denoisers.base import Denoiser
from ..errors import ConfigError, shown
from ..nn import Precision, with_precision
from ..nn.taps import with_child
from ..settings.fields import ImageSettings, VectorSettings
from ..storage.code import CODE_ERRORS

__all__ = [
    "LARGE",
    "check_start",
    "denoiser_with_precision",
    "has_weights",
    "refuse_other_starts",
    "start_of",
    "started",
]


# A network of more numbers is large: its student is an adapter unless another one is asked for.
# Stable Diffusion 1.5 has 0.86 thousand million, SDXL 2.6, SD3 2, Flux 12.
LARGE = 1_000_000_000


def has_weights(denoiser: Denoiser) -> bool:
    r"""Whether a denoiser has weights that a student could start from."""
    return next(denoiser.parameters(), None) is not None


def refuse_other_starts(row: ImageSettings | VectorSettings) -> None:
    r"""Raises a `ConfigError` if settings ask for a student that a frame does not start."""
    if row.calls != 1 or row.student == "fresh" or row.sigma is not None:
        raise ConfigError(
            "method.posterior framed starts from the teacher, asked once at "
            "method.frame.sigma: leave problem.calls, problem.sigma and --student fresh out"
        )


def start_of(student: str, teacher: Denoiser) -> str:
    r"""Returns where a student starts: `auto` is an adapter of a large network, else a copy."""
    if student != "auto":
        return student
    return "lora" if sum(p.numel() for p in teacher.parameters()) > LARGE else "teacher"


def started(teacher: Denoiser, student: str, rank: int, precision: str) -> Denoiser:
    r"""Returns a trainable denoiser that starts from the teacher's weights.

    Arguments:
        teacher: The teacher.
        student: `lora` for an adapter on its own weights, `auto` for one of a large network; else
            a copy of them.
        rank: The adapter's rank.
        precision: The type that its network computes in.
    """
    adapted = start_of(student, teacher) == "lora"
    found = lora.adapt(teacher, rank) if adapted else teacher.trainable_copy()
    return found if precision == "float32" else denoiser_with_precision(found, precision)


def denoiser_with_precision(denoiser: Denoiser, precision: str) -> Denoiser:
    r"""Returns a denoiser whose network computes in the type of this name."""
    inner = denoiser._modules.get("denoiser")
    if isinstance(inner, Denoiser):
        return with_child(denoiser, "denoiser", denoiser_with_precision(inner, precision))
    network = denoiser._modules.get("network")
    if network is None or any(isinstance(m, Precision) for m in network.modules()):
        return denoiser
    return with_child(denoiser, "network", with_precision(network, precision))


def check_start(teacher: Denoiser, student: str, rank: int, classes: int) -> None:
    r"""Raises where no student can start from a teacher as is asked for.

    Of the user's own code one call is made and its gradient taken, as a training would.

    Arguments:
        teacher: The teacher, as it was read.
        student: `auto`, `teacher`, `lora` or `fresh`.
        rank: The rank of an adapter.
        classes: The number of classes; zero without.

    Raises:
        ConfigError: It has no weights, or none that an adapter changes; it cannot be copied; or
            its output carries no gradient. The message has the cure.
    """
    if student == "fresh":
        return
    source = "the teacher" if teacher.origin is None else shown(teacher.origin.source)
    if not has_weights(teacher):
        raise ConfigError(
            f"{source} has no weights that a student could start from: give --student fresh, or "
            "make the function a torch.nn.Module, whose forward is the function"
        )
    student = start_of(student, teacher)
    if teacher.own_code is None:
        return
    try:
        gradients = _gradients(started(teacher, student, rank, "float32"), teacher, classes)
    except (*CODE_ERRORS, NotImplementedError) as error:
        cure = "--student teacher or fresh" if student == "lora" else "--student fresh"
        raise ConfigError(f"no student can start from {source} ({error}): give {cure}") from error
    if not gradients:
        what = "an adapter's" if student == "lora" else "its weights'"
        raise ConfigError(
            f"the output of {source} carries no gradient to {what} parameters: take "
            "torch.no_grad, inference_mode, detach and numpy out of its forward, call its layers "
            "as modules, or give --student fresh"
        )


def _gradients(found: Denoiser, teacher: Denoiser, classes: int) -> list[Tensor]:
    r"""Returns the gradients that one call of two rows gives to trainable weights."""
    low, high = teacher.sigma_min, teacher.sigma_max
    level = torch.tensor([high, (max(low, 1e-3 * high) * high) ** 0.5])
    x = torch.randn(2, *teacher.shape, generator=torch.Generator().manual_seed(0))
    cond: dict[str, Any] = {"label": torch.arange(2) % classes} if classes else {}
    if set(teacher.conditions) != set(cond):
        return [x]  # of prompts: their encoder is asked later
    with torch.enable_grad():
        output = found(x * level.view(-1, *[1] * len(teacher.shape)), level, **cond)
        if not output.requires_grad:
            return []
        weights = [p for p in found.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(output.sum(), weights, allow_unused=True)
    return [g for g in gradients if g is not None]
