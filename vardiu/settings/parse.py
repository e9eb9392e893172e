r"""Settings to mappings and back, strictly."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from ..errors import ConfigError, nearest

__all__ = ["flattened", "from_mapping", "to_mapping"]


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
    unknown = set(values) - set(hints)
    if unknown:
        name = sorted(unknown)[0]
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


def _convert(hint: Any, value: Any, where: str) -> Any:  # noqa: ANN401 (any field)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a group of settings, got {value!r}")
        return from_mapping(hint, value, f"{where}.")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(
                f"{where} must be one of {', '.join(map(str, arguments))}, got {value!r}"
            )
        return value
    if origin is tuple:
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and value is True)):
        raise ConfigError(f"{where} must be of type {hint.__name__}, got {value!r}")
    return value
