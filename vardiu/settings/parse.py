r"""Settings to mappings and back, strictly."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from ..errors import ConfigError, nearest, shown

__all__ = ["flattened", "from_mapping", "refuse_not_finite", "to_mapping"]


C = TypeVar("C")


def to_mapping(settings: Any) -> dict[str, Any]:  # noqa: ANN401 (any dataclass)
    r"""Returns a dataclass as nested dictionaries, lists and scalars."""
    return dataclasses.asdict(settings)


def from_mapping(cls: type[C], values: Mapping[str, Any], where: str = "") -> C:
    r"""Builds a dataclass from nested dictionaries, strictly.

    Raises:
        ConfigError: A name is unknown (the nearest ones are offered), or a value has another type.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(shown(name) for name in values if name not in hints)
    if unknown:
        name = unknown[0]
        raise ConfigError(f"unknown setting {where + name!r}; {nearest(name, hints)}")
    built = {key: _convert(hints[key], value, where + key) for key, value in values.items()}
    return cls(**built)


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    r"""Returns groups of settings as one mapping, by names with dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def refuse_not_finite(
    settings: Any,  # noqa: ANN401 (any dataclass)
    where: str = "",
    may_be_infinite: Sequence[str] = (),
) -> None:
    r"""Raises a `ConfigError` if a number among settings is not a number, or is infinite.

    Arguments:
        settings: A dataclass, whose fields may be dataclasses.
        where: What their names begin with.
        may_be_infinite: The full names of those that may be infinite.
    """
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), where + field.name
        if dataclasses.is_dataclass(value):
            refuse_not_finite(value, f"{name}.", may_be_infinite)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                if not (math.isinf(number) and name in may_be_infinite):
                    raise ConfigError(f"{name} must be a finite number, got {number}")


def _convert(hint: Any, value: Any, where: str) -> Any:  # noqa: ANN401 (any field)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a group of settings, got {shown(value)}")
        return from_mapping(hint, value, f"{where}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(
                f"{where} must be one of {', '.join(map(str, arguments))}, got {shown(value)}"
            )
        return value
    if origin is tuple:
        return _tuple(arguments, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and value is True)):
        raise ConfigError(f"{where} must be of type {hint.__name__}, got {shown(value)}")
    return value


def _tuple(hints: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:  # noqa: ANN401
    r"""Returns a list of values as a tuple; `hints` are one a value, or one and an ellipsis."""
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} must be a list, got {shown(value)}")
    hints = hints[:1] * len(value) if hints[1:] == (Ellipsis,) else hints
    if len(hints) != len(value):
        raise ConfigError(f"{where} must have {len(hints)} values, got {len(value)}")
    return tuple(_convert(hint, item, where) for hint, item in zip(hints, value, strict=True))
