r"""The table of methods: a name, its settings, its recipe, and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..settings.fields import Training
from ..training.stage import Recipe
from . import denoising, diff_instruct, regression, vardiu

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True)
class Method:
    r"""A row of the table.

    Arguments:
        title: The name in papers, and the year.
        settings: The class of its settings.
        recipe: Of a problem, settings and a seed, the stages of its training.
        networks: What it trains.
        data: Whether it needs data.
        cite: The keys of its papers, see `vardiu.cite`.
        also: Further keys, by the family of the posterior.
    """

    title: str
    settings: type[Training]
    recipe: Callable[[Any, Any, int], Recipe]
    networks: str
    data: bool
    cite: tuple[str, ...]
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


METHODS: Mapping[str, Method] = {
    "vardiu": Method(
        "VarDiU (2025)",
        vardiu.Settings,
        vardiu.recipe,
        "student, posterior",
        False,
        ("vardiu",),
        {"flow": ("nsf",), "shared": ("sivi",), "framed": ("mppca",)},
    ),
    "diff_instruct": Method(
        "Diff-Instruct (2023)",
        diff_instruct.Settings,
        diff_instruct.recipe,
        "student, fake",
        False,
        ("diff_instruct",),
    ),
    "regression": Method(
        "Regression on pairs (2021)",
        regression.Settings,
        regression.recipe,
        "student",
        False,
        ("luhman",),
    ),
}

# How a teacher is trained; not a way to distil.
TEACHING = Method(
    "Denoising score matching (EDM, 2022)",
    denoising.Settings,
    denoising.recipe,
    "teacher",
    True,
    ("edm",),
)
