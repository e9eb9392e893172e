r"""Attention whose backward pass is as fast as its forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

__all__ = ["AttentionBy", "again", "attention", "wide_attention"]


NARROW = (torch.bfloat16, torch.float16)


def _narrow(x: Tensor) -> torch.dtype | None:
    r"""Returns the type that attention of `x` is computed in, if its backward pass is slow in it
    and may be asked for."""
    if x.device.type != "cpu" or x.dtype == torch.float64 or not torch.is_grad_enabled():
        return None  # autocast leaves float64 as it is
    found = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return found if found in NARROW else None


def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
    r"""Returns scaled dot-product attention, of the type that torch gives it.

    On a processor torch's fused attention with its backward pass takes six to eleven times as long
    in bfloat16 as in float32 on small maps (`benchmarks/attention.py`). So where a gradient may be
    asked for, it is computed in float32 there; the type of what it returns stays.

    Arguments:
        query: Queries, `(..., T, D)`.
        key: Keys, `(..., S, D)`.
        value: Values, `(..., S, E)`.
        args: What else torch's function is given.
        kwargs: The same by name.
    """
    # The fused functions take features that lie beside each other; others go a slower way.
    query, key, value = (part.contiguous() for part in (query, key, value))
    found = _narrow(query)
    if found is None:
        return nn.functional.scaled_dot_product_attention(query, key, value, *args, **kwargs)
    with torch.autocast("cpu", enabled=False):
        rest = [_widened(part) for part in args]
        named = {name: _widened(part) for name, part in kwargs.items()}
        y = nn.functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), *rest, **named
        )
    return y.to(found)


def _widened(part: Any) -> Any:  # noqa: ANN401 (a mask, or a setting)
    narrow = isinstance(part, Tensor) and part.is_floating_point()
    return part.float() if narrow else part


class AttentionBy(TorchFunctionMode):
    r"""Gives networks that call torch's attention another function in its place, meanwhile.

    Arguments:
        function: What is called with the arguments of torch's.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is nn.functional.scaled_dot_product_attention:
            func = self.function
        return func(*args, **(kwargs or {}))


def wide_attention(x: Tensor) -> contextlib.AbstractContextManager[object]:
    r"""Gives networks that are not ours `attention` meanwhile, where it differs from torch's.

    Under `torch.compile` it leaves them as they are.

    Arguments:
        x: An input of the network, for its device and type.
    """
    if torch.compiler.is_compiling() or _narrow(x) is None:
        return contextlib.nullcontext()
    return AttentionBy(attention)


def again(block: Callable[..., Any], *inputs: Any) -> Any:  # noqa: ANN401
    r"""Runs a block of a network that is not ours, and once more in the backward pass: each time
    with the attention of the first."""

    def run(*given: Any) -> Any:  # noqa: ANN401
        with wide_attention(given[0]):
            return block(*given)

    return checkpoint(run, *inputs, use_reentrant=False)
