r"""What the data gives a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..functional.tensors import sent

__all__ = ["Batch", "divided_rows"]


class Batch(NamedTuple):
    r"""The rows of one step.

    Arguments:
        rows: The number :math:`B` of rows; all that a method without data reads beside `cond`.
        x: Samples, with shape :math:`(B, *)`: clean ones, or measured ones where there is a
            `truth`. None in a batch without data.
        cond: Keyword arguments of every network; each has :math:`B` rows.
        truth: What was measured, with :math:`B` rows: the clean image of a degraded one.
    """

    rows: int
    x: Tensor | None = None
    cond: Mapping[str, Tensor] = {}
    truth: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, cond: Mapping[str, Tensor] | None = None) -> Batch:
        r"""Returns the batch of clean samples and their conditions."""
        return cls(len(x), x, cond or {})

    def to(self, device: torch.device | str) -> Batch:
        r"""Returns the batch on a device, which need not wait for it."""
        x, truth = (t if t is None else sent(t, device) for t in (self.x, self.truth))
        cond = {name: sent(value, device) for name, value in self.cond.items()}
        return Batch(self.rows, x, cond, truth)

    def clean(self) -> Tensor:
        r"""Returns the samples.

        Raises:
            ValueError: The batch has none: a method that needs data was given none.
        """
        if self.x is None:
            raise ValueError("this needs data, and its batches have none: give clean samples")
        return self.x


def divided_rows(value: Any, parts: int) -> list[Any]:  # noqa: ANN401 (any nest)
    r"""Returns a nest in equal parts: each tensor and each batch in it is divided by its rows.

    Arguments:
        value: Tensors in tuples, lists and mappings; other leaves stand in every part as they are.
        parts: The number of parts.

    Raises:
        ValueError: The rows of a tensor or a batch cannot be divided so.
    """
    if isinstance(value, Tensor):
        return list(value.split(_share(len(value), parts)))
    if isinstance(value, Batch):
        rest = zip(*(divided_rows(item, parts) for item in value[1:]), strict=True)
        return [Batch(_share(value.rows, parts), *items) for items in rest]
    if isinstance(value, Mapping):
        divided = {key: divided_rows(item, parts) for key, item in value.items()}
        return [{key: items[i] for key, items in divided.items()} for i in range(parts)]
    if isinstance(value, tuple | list):
        return _divided_sequence(value, parts)
    return [value] * parts


def _divided_sequence(value: tuple[Any, ...] | list[Any], parts: int) -> list[Any]:
    divided = [divided_rows(item, parts) for item in value]
    rows = [[items[i] for items in divided] for i in range(parts)]
    # A named tuple is made of its fields, one by one, or by `_make` of all.
    make: Callable[[list[Any]], Any] = getattr(value, "_make", type(value))
    return [make(row) for row in rows]


def _share(rows: int, parts: int) -> int:
    if rows % parts:
        raise ValueError(
            f"a batch of {rows} rows cannot be visited in {parts} equal parts: "
            f"give a number of parts that divides {rows}, or another batch"
        )
    return rows // parts
