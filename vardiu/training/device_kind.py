r"""The kind of device that a run draws its random numbers on: cpu, cuda or mps.

A generator of one kind gives other numbers than one of another kind, and its state does not fit
there: a run goes on where it was begun, and on any card of that kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError

__all__ = ["kind_of", "refuse_other_kind"]


def kind_of(random: Mapping[str, Any]) -> str:
    r"""Returns the kind of device that the random numbers of a checkpoint are of.

    Arguments:
        random: Its part `random`, see `Trainer.state_dict`; the tensors are not looked at.
    """
    if "device" in random:
        return str(random["device"])
    # Older checkpoints do not say it. Some streams are on the host whatever the device is.
    if "cuda" in random:
        return "cuda"
    kinds = {str(key).rsplit("@", 1)[-1] for key in random["streams"]["generators"]}
    return min(kinds - {"cpu"}, default="cpu")


def refuse_other_kind(random: Mapping[str, Any], now: str, run: str = "the run") -> None:
    r"""Raises a `ConfigError` if random numbers are of another kind of device than that of now.

    Arguments:
        random: The part `random` of a checkpoint.
        now: The kind of device that the run is on now.
        run: What the message calls the run.
    """
    begun = kind_of(random)
    if begun != now:
        raise ConfigError(
            f"{run} was begun on {begun} and would go on on {now}, and its random numbers are of "
            f"{begun}: go on where that device is, or begin anew in another folder with --out"
        )
