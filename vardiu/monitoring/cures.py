r"""Cures that can be typed: from what an alarm says to the options of the next run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["cure_options"]


# Words of a cure that say which way an option goes, and by what it is multiplied.
FACTORS: Mapping[str, float] = {"raise": 2, "more": 2, "larger": 2, "lower": 0.5, "fewer": 0.5}


OPTION = re.compile(r"--([a-z][\w.-]*\w)")


def cure_options(
    cure: str, settings: Mapping[str, Any], is_idle: Callable[[str], bool] = lambda option: False
) -> list[str]:
    r"""Returns the options that carry out the first change that a cure names: double or half of a
    number that the run had. Nothing where the cure names none, or the run had no such number.

    Arguments:
        cure: What an alarm says, for instance "raise --batch or lower --lr".
        settings: The method's settings of the run, in groups as `config.yaml` has them.
        is_idle: Whether an option does nothing beside the run's settings: it cures nothing.
    """
    factor = None
    for word in re.findall(r"--[a-z][\w.-]*\w|[a-z]+", cure):
        if word in FACTORS:
            factor = FACTORS[word]
        elif OPTION.fullmatch(word) and factor is not None:
            value = _setting(settings, word[2:])
            if value is not None and not is_idle(word):
                changed = _times(value, factor)
                if changed != value:
                    return [word, f"{changed:g}" if isinstance(changed, float) else str(changed)]
    return []


def _setting(settings: Mapping[str, Any], option: str) -> int | float | None:
    r"""Returns the number that an option had; that of the student where a network has none."""
    *groups, name = option.replace("-", "_").split(".")
    group: Any = settings
    for part in groups:
        group = group.get(part) if isinstance(group, Mapping) else None
    value = group.get(name) if isinstance(group, Mapping) else None
    if value is None and groups and groups[-1].endswith("optimizer"):
        value = settings.get(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and value else None


def _times(value: int | float, factor: float) -> int | float:
    return max(1, round(value * factor)) if isinstance(value, int) else value * factor
