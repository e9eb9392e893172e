r"""The teacher's pairs, an artefact of the run, and draws of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...errors import ConfigError
from ...samplers.pairs import Pairs, teacher_pairs
from ...settings.fields import PairSettings
from ...training.objective import Objective
from ...training.stage import Context

if TYPE_CHECKING:
    from ...problems.base import Problem

__all__ = ["PORTION", "Beside", "beside_method", "drawn_pairs", "make_pairs"]


PORTION = 512  # pairs that are solved, and kept, at once


def drawn_pairs(objective: Objective, pairs: Pairs, n: int, role: str = "pair") -> Pairs:
    r"""Returns pairs drawn at random, with replacement, on the objective's device."""
    like, place = objective.like, pairs.z.device
    # Drawn where the pairs lie: an index from the student's device would have to be waited for.
    u = objective.streams.uniform(role, n, device=place, dtype=like.dtype)
    drawn = pairs.select((u * len(pairs.z)).long()).to(like.device)
    return Pairs(drawn.z.to(like.dtype), drawn.x.to(like.dtype), drawn.cond)


def make_pairs(
    problem: Problem, row: PairSettings, context: Context, *, whole: bool = False
) -> Pairs:
    r"""Returns pairs of the teacher: an artefact of the run, solved in portions.

    Arguments:
        problem: The problem, whose teacher is asked :math:`2 n - 1` times a portion.
        row: The number of pairs and of Heun's steps :math:`n`.
        context: The run's seed, device and artefacts.
        whole: Whether to keep the states on the way as well, see `Pairs`.

    Raises:
        ConfigError: A sample is not finite.
    """
    portion = min(PORTION, row.pairs)
    conditions, teacher = problem.data.free(portion, context.seed + 1), problem.known_teacher

    def solve(index: int) -> Mapping[str, Tensor]:
        random = torch.Generator().manual_seed((context.seed + 1) * 1_000_003 + index)
        rows = min(portion, row.pairs - index * portion)
        z = torch.randn(rows, *teacher.shape, generator=random).to(context.device)
        cond = {k: v[:rows].to(context.device) for k, v in conditions.at(index).cond.items()}
        here, n = teacher.to(context.device), row.solver_steps
        x = teacher_pairs(here, z, cond, steps=n, whole=whole).x
        return {"z": z.cpu(), "x": x.cpu(), **{f"cond.{k}": v.cpu() for k, v in cond.items()}}

    made = "paths from noise to sample" if whole else "pairs of noise and sample"
    description = {
        "made": f"{made}, by Heun's method",
        **problem.hashes(),
        "pairs": row.pairs,
        "solver_steps": row.solver_steps,
        "seed": context.seed,
    }
    name = "paths" if whole else "pairs"
    found = context.artefacts.get(name, description, math.ceil(row.pairs / portion), solve)
    if not bool(found["x"].isfinite().all()):
        raise ConfigError(
            f"of the teacher's {row.pairs:,} pairs some samples are not finite: its weights are "
            "damaged, or its smallest level is too small for its precision; see vardiu probe"
        )
    cond = {name.removeprefix("cond."): v for name, v in found.items() if "cond." in name}
    return Pairs(found["z"], found["x"], cond)


class Beside(NamedTuple):
    r"""The regression beside a method's own loss, as an objective takes it.

    Arguments:
        regression: The pairs; none where the loss has no such part.
        regression_weight: Its weight.
    """

    regression: Pairs | None
    regression_weight: float


def beside_method(pairs: Pairs | None, weight: float) -> Beside:
    r"""Returns the regression on the pairs of a student's start, which goes on beside a method.

    Arguments:
        pairs: The pairs, if the student started on any.
        weight: The regression's weight; 0 for none.

    Raises:
        ConfigError: There is a weight, and there are no pairs.
    """
    if weight and pairs is None:
        raise ConfigError(
            f"--regression-weight {weight:g} needs pairs of the teacher: give --pairs.pairs, "
            f"their number, or --regression-weight 0"
        )
    return Beside(pairs if weight else None, weight)
