r"""Settings of FreeFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...errors import ConfigError
from ...settings.fields import LevelSettings, NetworkOptimizer, PairSettings, Training

__all__ = ["Settings", "forward_mode"]


def forward_mode(derivative: str, correction: float) -> tuple[str, ...]:
    r"""Returns the networks that are differentiated forward, see `Objective.forward_mode`."""
    return ("generator",) if derivative == "forward" and correction < 1 else ()


@dataclass(frozen=True, kw_only=True)
class Settings(Training):
    r"""FreeFlow."""

    correction: float = 0.25
    """The share of a batch's rows that correct; 0 for prediction alone, 1 for correction alone."""
    balance: float = 1.0
    """The size of the correction's direction against the prediction's."""
    adaptive: float = 1.0
    """The power k of the weight of a row of the prediction; 0 for none."""
    lead: float = 0.0
    """The share of the steps in which prediction trains alone. Before it has arrived at the data,
    the correction gathers samples at modes."""
    below: float = 0.25
    """The share of the rows that start below the highest level, at the student's own noised
    samples: what samples of several calls are learned from."""
    derivative: Literal["forward", "difference"] = "forward"
    """The derivative by the level: forward mode, or a centred difference where a network has
    none."""
    ratio: int = 1
    """The number of updates of the fake for each update of the student."""
    fake_optimizer: NetworkOptimizer = NetworkOptimizer()
    """How the fake is updated."""
    pairs: PairSettings = PairSettings()
    """The teacher's pairs, and the length, batch and rate of a regression on the states of their
    paths, which comes first."""
    levels: LevelSettings = LevelSettings(sigma_min=0.02, sigma_max=20.0)
    """The levels at which the map ends."""
    noise_levels: LevelSettings = LevelSettings(
        kind="log_normal", mean=0.1, std=1.0, sigma_min=0.02, sigma_max=20.0
    )
    """The levels of correction and fake; log-normal is the paper's logit-normal time."""

    @property
    def forward_mode(self) -> tuple[str, ...]:
        r"""The networks that are differentiated forward, see `Objective.forward_mode`."""
        return forward_mode(self.derivative, self.correction)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.below < 1:
            raise ConfigError(f"below must be within [0, 1), got {self.below:g}")
        if self.lead and self.correction == 1:
            raise ConfigError("lead: correction alone has no prediction that could lead; give 0")
