r"""Contests: methods that are compared on one ground, see `vardiu.comparison.plan`.

A contest fixes teachers, networks, noise levels, weights and the rows of a batch; its arms differ
in the objective alone, and in what the objective needs beside the student.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..methods import diff_instruct
from ..runs.presets import GAUSSIAN, MOG40, PRESETS, SHARED
from ..settings.fields import DensitySettings, DigitsSettings, Training

__all__ = ["CONTESTS", "Arm", "Contest"]


@dataclass(frozen=True)
class Arm:
    r"""A competitor.

    Arguments:
        title: Its name in tables and pictures.
        method: The name of its method.
        settings: The method's settings; the number of steps follows from the budget.
    """

    title: str
    method: str
    settings: Training


@dataclass(frozen=True)
class Contest:
    r"""A row of the table.

    Arguments:
        about: One line.
        teachers: The problem's settings, by the name of the teacher.
        arms: The competitors, by a short name.
        seconds: The budget of a run in seconds of training, its start included.
        rows: The budget of a run in rows that the teacher evaluates.
        budgets: The budgets that its arms can be given. Only `own`, each arm's own number of
            updates, where a start before the method itself takes a part of the time.
    """

    about: str
    teachers: Mapping[str, DensitySettings | DigitsSettings]
    arms: Mapping[str, Arm]
    seconds: float
    rows: int
    budgets: tuple[str, ...] = ("time", "calls")


def _diff_instruct(ratio: int) -> Arm:
    # As many rows a batch as pairs of opposite noise make; the fake learns the first student
    # before that one moves, in place of a fake that starts from the teacher's weights.
    settings = diff_instruct.Settings(
        batch=2 * GAUSSIAN.batch,
        lr=GAUSSIAN.lr,
        fake_lr=4e-3,
        beta_1=0.5,
        beta_2=0.99,
        delay=200,
        levels=GAUSSIAN.levels,
        weight=GAUSSIAN.weight,
        halflife=GAUSSIAN.halflife,
        ratio=ratio,
        lattice=True,
    )
    return Arm(f"Diff-Instruct, {ratio} fake", "diff_instruct", settings)


def _vardiu(title: str, **family: Any) -> Arm:  # noqa: ANN401 (fields of its settings)
    return Arm(f"VarDiU, {title}", "vardiu", replace(GAUSSIAN, posterior_lr=2e-3, **family))


def _digits(name: str, title: str) -> Arm:
    preset = PRESETS[name]
    return Arm(title, preset.method, preset.settings)


CONTESTS: Mapping[str, Contest] = {
    "mog40": Contest(
        "VarDiU's bounds and Diff-Instruct on 40 Gaussians: the comparison of the paper",
        {
            "exact": MOG40,
            "learned": replace(MOG40, teacher="learned"),
            "kde": replace(MOG40, teacher="kde"),
        },
        {
            "gaussian": _vardiu("Gaussian"),
            "mixture": _vardiu("mixture", posterior="mixture"),
            "flow": _vardiu("flow", posterior="flow"),
            "particles": _vardiu("Gaussian, 4 particles", particles=4),
            "shared": Arm("VarDiU, minibatch mixture", "vardiu", SHARED),
            "diff-instruct-1": _diff_instruct(1),
            "diff-instruct-5": _diff_instruct(5),
            "diff-instruct-10": _diff_instruct(10),
        },
        seconds=20.0,
        rows=256_000,
    ),
    "digits": Contest(
        "real 8x8 images by class: Diff-Instruct and regression on pairs, VarDiU on a frame",
        {"learned": DigitsSettings()},
        {
            "vardiu": _digits("digits-vardiu", "VarDiU, framed"),
            "diff-instruct": _digits("digits", "Diff-Instruct after pairs"),
            "pairs": _digits("digits-pairs", "Regression on pairs"),
        },
        seconds=120.0,
        rows=1_000_000,
        budgets=("own",),
    ),
}
