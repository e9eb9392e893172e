r"""Which methods fit their student to the teacher's pairs, of one noise each: a student that draws
fresh noise between its calls has none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ConfigError

__all__ = ["FITTED", "refuse_fresh_noise"]


def _always(settings: Any) -> bool:  # noqa: ANN401 (settings of any method)
    return True


# By the name of a method: whether it fits its student to pairs, where there are some.
FITTED: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("diff_instruct", "dmd2", "emd", "energy", "f_distill", "fd_loss", "regression", "sid"),
        _always,
    ),
    "adm": lambda row: row.start.kind == "regression",
    "diff_ratio": lambda row: row.regression,
    "vardiu": lambda row: row.posterior != "framed",
}


def refuse_fresh_noise(method: str, settings: Any, problem: Any) -> None:  # noqa: ANN401 (of any)
    r"""Raises a `ConfigError` if a student of several calls with fresh noise between them is to be
    fitted to pairs, which nothing says before the teacher and the data are read.

    Arguments:
        method: The name of the method.
        settings: Its settings.
        problem: The problem's settings.
    """
    calls = getattr(problem, "calls", 1)
    rule = getattr(problem, "rule", None)
    if calls == 1 or rule == "ddim" or method not in FITTED:
        return
    if not settings.pairs.pairs or not FITTED[method](settings):
        return
    cures = [] if rule is None else ["--rule ddim"]
    if method != "regression":
        weight = getattr(settings, "regression_weight", 0)
        cures.append(f"--pairs.pairs 0{' --regression-weight 0' if weight else ''}")
    raise ConfigError(
        f"--calls {calls} draws fresh noise between the calls, and the teacher's pairs "
        f"(--pairs.pairs {settings.pairs.pairs}) have one noise each: give "
        f"{', or '.join([*cures, '--calls 1'])}"
    )
