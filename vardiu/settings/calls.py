r"""Students of several calls beside pairs of the teacher, which have one noise each."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError

__all__ = ["refuse_fresh_noise"]


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
    if calls == 1 or rule == "ddim" or not settings.fits_pairs:
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
