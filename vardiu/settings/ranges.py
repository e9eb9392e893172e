r"""The ranges of all numbers among the settings, in one table.

A number out of its range is refused where its row of settings is made: before anything is read,
trained or written.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import ConfigError, shown

__all__ = ["RANGES", "Range", "check_ranges"]


class Range(NamedTuple):
    r"""The numbers that a setting may have.

    Arguments:
        low: The smallest one.
        high: The largest one.
        open: Whether `low` itself is left out.
        ends_below: Whether `high` itself is left out.
    """

    low: float
    high: float
    open: bool = False
    ends_below: bool = False

    def refusal(self, value: float) -> str | None:
        r"""Returns what a number must be, if it is out of the range."""
        if self.low < value < self.high:
            return None
        if (value == self.low and not self.open) or (value == self.high and not self.ends_below):
            return None
        # A whole number is finite, and may be too large to be asked.
        finite = isinstance(value, int) or math.isfinite(value)
        if not finite and (math.isnan(value) or math.isfinite(self.high)):
            return "be a finite number"
        if value >= self.high:
            return f"be {'below' if self.ends_below else 'at most'} {self.high:,.12g}"
        return "be positive" if self.open and not self.low else f"be at least {self.low:g}"


LARGEST = 1.7e308  # of what is finite


FINITE, POSITIVE, AT_LEAST_0 = (
    Range(-LARGEST, LARGEST),
    Range(0, LARGEST, open=True),
    Range(0, LARGEST),
)


COUNT, SIZE, MANY = Range(0, 1_000_000_000), Range(1, 1_048_576), Range(1, 1_000_000_000)


# By the name of a field, or of its class and itself. Upper limits are far above any use; they
# stand where a slip of the finger would fill the memory.
RANGES: Mapping[str, Range] = {
    **dict.fromkeys(("steps", "rho_every"), MANY),
    **dict.fromkeys(("delay", "warmup", "refresh", "settle", "corrupt"), COUNT),
    **dict.fromkeys(("batch", "accumulate", "components", "clusters", "modes", "rank"), SIZE),
    **dict.fromkeys(("reports", "evaluations"), SIZE),
    **dict.fromkeys(("width", "hidden", "latent", "side", "channels"), Range(1, 65_536)),
    **dict.fromkeys(
        ("depth", "transforms", "calls", "solver_steps", "teacher_steps"), Range(1, 10_000)
    ),
    "ChainSettings.steps": Range(1, 10_000),
    **dict.fromkeys(("pairs", "FrameSettings.samples", "points"), Range(1, 100_000_000)),
    "MemorySettings.rows": Range(2, 100_000_000),
    "MemorySettings.decay": Range(0, 1, ends_below=True),
    "PairSettings.pairs": Range(0, 100_000_000),
    "rounds": Range(1, 4),
    "factor": Range(1, 16),
    "crops": Range(1, 100_000),
    "start_steps": COUNT,
    "start_lr": POSITIVE,
    "critic_rank": Range(0, 65_536),
    **dict.fromkeys(("perceptual_weight", "score_weight"), AT_LEAST_0),
    "dim": Range(2, 65_536),
    "fourier": Range(0, 64),
    "codes": Range(0, 4_096),
    "own": Range(0, 1),
    "bank": Range(0, 10_000),
    "bank_above": AT_LEAST_0,
    "particles": Range(0, 10_000),
    "VariableSettings.particles": MANY,
    "ratio": Range(1, 10_000),
    "inversion_steps": Range(1, 10_000),
    "eta": Range(0, 1),
    "grid": Range(2, 100_000),
    "reference": Range(200, 100_000_000),
    "milestones": Range(0, 1_000_000),
    "threads": Range(0, 4_096),
    "seed": Range(0, 2**32 - 1),
    "samples": Range(0, 100_000_000),
    **dict.fromkeys(("lr", "std", "scale", "rho", "rho_end", "grid_max"), POSITIVE),
    **dict.fromkeys(("fold", "late"), POSITIVE),
    "FrameSettings.sigma": POSITIVE,
    # A student may be asked at infinite noise.
    "sigma": Range(0, math.inf, open=True),
    **dict.fromkeys(("DensitySettings.sigma_min", "DensitySettings.sigma_max"), POSITIVE),
    **dict.fromkeys(("weight_decay", "halflife", "bandwidth", "save_every"), AT_LEAST_0),
    **dict.fromkeys(("regression_weight", "adversarial_weight", "classifier_weight"), AT_LEAST_0),
    "label_weight": AT_LEAST_0,
    **dict.fromkeys(("beta_1", "beta_2"), Range(0, 1, ends_below=True)),
    **dict.fromkeys(("balance", "adaptive"), AT_LEAST_0),
    **dict.fromkeys(("correction", "below", "lead"), Range(0, 1)),
    **dict.fromkeys(("rate", "rate_end", "stride"), Range(0, 1, open=True)),
    **dict.fromkeys(("pure", "pixel_weight"), Range(0, 1)),
    **dict.fromkeys(("head_lr", "limit"), POSITIVE),
    "squared_weight": AT_LEAST_0,
    **dict.fromkeys(("KernelSettings.width", "width_end", "high"), POSITIVE),
    "low": AT_LEAST_0,
    "draws": Range(1, 10_000),
    **dict.fromkeys(("feature_weight", "pair_weight", "memory_weight"), AT_LEAST_0),
    "RelationSettings.pixel_weight": AT_LEAST_0,
    **{f"StateSettings.{n}": Range(0, 1) for n in ("teacher", "student", "start", "ramp")},
    "StateSettings.quantile": Range(0, 1, open=True),
    "StateSettings.bound": POSITIVE,
    "replay": Range(0, 10_000),
    "refill": Range(1, 1_000_000),
    **dict.fromkeys(("feature_temperature", "pair_temperature", "memory_temperature"), POSITIVE),
    **dict.fromkeys(("queue", "contrast", "enqueue", "share"), Range(1, 100_000_000)),
    **dict.fromkeys(("group", "history", "least", "minibatches", "withheld"), SIZE),
    **dict.fromkeys(("epochs", "sampling_steps"), Range(1, 10_000)),
    **dict.fromkeys(("near", "last"), POSITIVE),
    "clip_range": Range(0, 1, open=True),
    "guard_weight": AT_LEAST_0,
    "principal": Range(0, 65_536),
    **dict.fromkeys(("trust", "temperature"), POSITIVE),
    "clip": Range(0, math.inf, open=True),
    **dict.fromkeys(("softness", "level_std"), POSITIVE),
    **dict.fromkeys(("skip", "grid_start"), Range(1, 100_000)),
    "drop": Range(0, 1),
}


def check_ranges(where: str, row: Any) -> None:  # noqa: ANN401 (any dataclass of settings)
    r"""Raises a `ConfigError` at the first number of a row that is out of its range.

    A number of which the table does not know must be finite.

    Arguments:
        where: What comes before the field's name in messages: its group, with a dot.
        row: A row of settings.
    """
    kinds = [cls.__name__ for cls in type(row).__mro__]
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        names = [*(f"{kind}.{field.name}" for kind in kinds), field.name]
        found = next((RANGES[name] for name in names if name in RANGES), FINITE)
        wanted = found.refusal(value)
        if wanted is not None:
            # A whole number is told as it was typed.
            told = shown(value) if isinstance(value, int) else f"{value:g}"
            raise ConfigError(f"{where}{field.name} must {wanted}, got {told}")
