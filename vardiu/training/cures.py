r"""What may be tried against each kind of alarm, whatever the method."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["CURES"]


# By the name of an alarm, in options that every method's training has. A method that knows better
# gives its own. `noise` is a saturation whose gradient is mostly noise.
CURES: Mapping[str, str] = {
    "collapse": "lower --lr, or raise --batch",
    "saturation": "the gradient is not noise: what is minimised may be loose here; lower --lr",
    "noise": "raise --batch or lower --lr",
    "worsening": "fewer --steps, or a lower --lr",
    "posterior": "lower the student's --lr",
    "anchor": "lower the student's --lr",
    "fake": "lower the student's --lr",
    "divergence": "lower --lr",
}
