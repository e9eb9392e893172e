r"""Rewards of samples: how well they agree with the teacher's, or what a user's own code says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..functional.policy import cosine_agreement, gaussian_agreement
from ..functional.tensors import placed
from ..samplers.pairs import Pairs
from ..storage.code import CODE_ERRORS, OwnCode, not_named
from ..training.stage import Context

if TYPE_CHECKING:
    from ..problems.base import Problem
    from .redif import Settings

__all__ = ["Agreement", "OwnReward", "Reward", "principal", "reward_of"]


# Of samples, the teacher's samples of the same noise, and their conditions, a number each, `(B,)`.
Reward = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]


KINDS = {"gaussian": gaussian_agreement, "cosine": cosine_agreement}


@dataclass(frozen=True)
class Agreement:
    r"""How near samples are to the teacher's of the same noise.

    Arguments:
        kind: `gaussian`, :math:`\exp(-\|u - v\|^2 / 2 k w^2)`, or `cosine`; of `k` coordinates.
        width: The length :math:`w`, a dimension.
        mean: The mean of the teacher's samples, of the shape of one.
        basis: Directions, `(d, k)`, of which the coordinates are compared; none for all.
    """

    kind: str
    width: float
    mean: Tensor
    basis: Tensor | None = None

    def __call__(self, x: Tensor, target: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        u, v = ((samples - placed(self.mean, samples)).flatten(1) for samples in (x, target))
        if self.basis is not None:
            u, v = u @ placed(self.basis, u), v @ placed(self.basis, v)
        return KINDS[self.kind](u, v, self.width)


def principal(x: Tensor, count: int) -> Tensor:
    r"""Returns the directions of the greatest variance of samples, `(d, k)`, orthonormal.

    Raises:
        ConfigError: There are not so many directions.
    """
    centred = (x - x.mean(0)).flatten(1).double()
    if count > centred.shape[1]:
        raise ConfigError(
            f"principal must be at most {centred.shape[1]}, the numbers of a sample, got {count}"
        )
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return vectors.flip(1)[:, :count].to(x.dtype)


class OwnReward:
    r"""A user's own reward: any function of samples, the teacher's samples and the conditions.

    No gradient of it is taken. What it returns is checked at each call.

    Arguments:
        code: Where it is from.

    Raises:
        ConfigError: It is no function, fails, or returns anything but a finite number a sample.
    """

    def __init__(self, code: OwnCode) -> None:
        if not callable(code.value) or isinstance(code.value, type):
            raise ConfigError(
                f"{code.source} must be a function reward(samples, teacher_samples, conditions), "
                f"got {type(code.value).__name__}"
            )
        self.code = code
        if isinstance(code.value, nn.Module):
            code.value.eval()

    def __call__(self, x: Tensor, target: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        code = self.code
        if isinstance(code.value, nn.Module):
            code.value.to(x.device)
        try:
            # Copies: what it writes into them would be taken for what the student did.
            found = code.value(x.clone(), target.clone(), {k: v.clone() for k, v in cond.items()})
        except CODE_ERRORS as error:
            raise code.failure(error, "the reward") from error
        return self.checked(found, len(x)).to(x)

    def checked(self, found: object, rows: int) -> Tensor:
        r"""Returns what the code has returned, if it is a finite number for each sample."""
        wanted = f"{self.code.source}: the reward of {rows} samples must be a tensor of shape"
        if not isinstance(found, Tensor):
            raise ConfigError(f"{wanted} ({rows},), got {type(found).__name__}")
        if found.shape != (rows,):
            raise ConfigError(f"{wanted} ({rows},), a number each, got {tuple(found.shape)}")
        if found.is_complex():
            raise ConfigError(f"{wanted} ({rows},) of real numbers, got {found.dtype}")
        wrong = int((~found.isfinite()).sum())
        if wrong:
            raise ConfigError(
                f"{self.code.source}: the reward must be finite, and is not for {wrong} of {rows} "
                f"samples, first {float(found[~found.isfinite()][0])}"
            )
        return found.detach()


def reward_of(problem: Problem, config: Settings, pairs: Pairs, context: Context) -> Reward:
    r"""Returns the reward, after a try on the teacher's own samples.

    Raises:
        ConfigError: The command line does not name its code, or it is no reward; or there are too
            few pairs.
    """
    if len(pairs.z) < 2:
        raise ConfigError(
            "pairs.pairs must be at least 2, one to start from and one that is withheld, got "
            f"{len(pairs.z)}"
        )
    if config.reward is None:
        basis = principal(pairs.x, config.principal) if config.principal else None
        width = config.near * problem.space.sigma_data
        return Agreement(config.agreement, width, pairs.x.mean(0), basis)
    if "reward" not in context.own:
        raise ConfigError(not_named(config.reward, "--reward", "the setting method.reward"))
    found, space = OwnReward(context.own["reward"]), problem.space

    def reward(x: Tensor, target: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        return found(space.decode(x), space.decode(target), cond)

    few = pairs.select(torch.arange(min(3, len(pairs.z)))).to(context.device)
    reward(few.x.flip(0), few.x, few.cond)
    return reward
