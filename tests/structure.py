"""What a stage is made of, as a flat table; and the other values that a setting may have."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vardiu.settings.fields import (
    LevelSettings,
    PairSettings,
    VariableSettings,
    WeightSettings,
)
from vardiu.training.stage import Stage
from vardiu.training.streams import Streams

__all__ = ["changed", "fields_of", "fingerprint", "needed_for", "others", "with_values"]


PLAIN = (int, float, str, bool, bytes, type(None), torch.dtype, torch.device, type)


def fingerprint(stages: list[Stage]) -> dict[str, str]:
    """Every number, name, buffer and shape that stages are made of, by its place.

    Weights are there by their shapes: what they start with is drawn.
    """
    table: dict[str, str] = {}
    seen: set[int] = set()

    def visit(where: str, value: Any) -> None:
        if isinstance(value, PLAIN):
            table[where] = repr(value)
        elif isinstance(value, nn.Parameter):
            table[where] = f"weights {tuple(value.shape)}"
        elif isinstance(value, Tensor):
            data = value.detach().contiguous().view(-1).numpy().tobytes()
            table[where] = f"{tuple(value.shape)} {hashlib.sha256(data).hexdigest()[:12]}"
        elif isinstance(value, Streams | torch.Generator):
            table[where] = type(value).__name__
        elif id(value) not in seen:
            seen.add(id(value))
            parts = dict(parts_of(value))
            table[where] = getattr(value, "__qualname__", type(value).__qualname__)
            for name, part in parts.items():
                visit(f"{where}/{name}", part)

    visit("", [stage._asdict() for stage in stages])
    return table


def parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), part) for key, part in value.items())
    elif isinstance(value, tuple | list | set | frozenset):
        yield from ((str(i), part) for i, part in enumerate(value))
    elif isinstance(value, nn.Module):
        hidden = {"_parameters", "_buffers", "_modules", "training"}
        plain = {k: v for k, v in vars(value).items() if k not in hidden and "hook" not in k}
        yield from {**plain, **value._parameters, **value._buffers, **value._modules}.items()
    elif isinstance(value, functools.partial):
        yield from {"": value.func, **dict(enumerate(value.args)), **value.keywords}.items()
    elif isinstance(value, types.FunctionType):
        cells = value.__closure__ or ()
        yield from ((str(i), cell.cell_contents) for i, cell in enumerate(cells))
    elif not isinstance(value, types.BuiltinFunctionType | types.MethodType):
        yield from getattr(value, "__dict__", {}).items()


def changed(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    """The places at which two fingerprints differ."""
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


# -------------------------------------------------------------------------------- settings


# What a field of a group of settings needs beside itself to be looked at.
NEEDED: dict[tuple[type, str], dict[str, Any]] = {
    (LevelSettings, "anneal"): {"start_min": 1.0},
    (LevelSettings, "rho"): {"kind": "power_law"},
    (LevelSettings, "rho_end"): {"kind": "power_law"},
    (LevelSettings, "rho_increment"): {"kind": "power_law", "rho_end": 2.0},
    (LevelSettings, "rho_every"): {"kind": "power_law", "rho_end": 2.0},
    (LevelSettings, "mean"): {"kind": "log_normal"},
    (LevelSettings, "std"): {"kind": "log_normal"},
    (WeightSettings, "scale"): {"kind": "bounded"},
    (WeightSettings, "power"): {"kind": "power"},
    **{(VariableSettings, name): {"kind": "particles"} for name in ("particles", "std")},
    **{(VariableSettings, name): {"kind": "picture"} for name in ("width", "depth", "fourier")},
    **{(PairSettings, name): {"pairs": 20} for name in ("solver_steps", "steps", "batch", "lr")},
}


def needed_for(settings: Any, path: str) -> Any:
    """Settings in which a field is looked at, as far as its own group says it."""
    *groups, name = path.split(".")
    group = settings
    for part in groups:
        group = getattr(group, part)
    own = NEEDED.get((type(group), name), {})
    values = {key: value for key, value in own.items() if not keeps(group, key, value)}
    return with_values(settings, {".".join([*groups, key]): v for key, v in values.items()})


def keeps(group: Any, key: str, value: Any) -> bool:
    """Whether a group of settings has what is needed already."""
    own = getattr(group, key)
    return own == value or (key in ("pairs", "start_min") and bool(own))


def with_values(settings: Any, values: Mapping[str, Any]) -> Any:
    for path, value in values.items():
        first, _, rest = path.partition(".")
        if rest:
            value = with_values(getattr(settings, first), {rest: value})
        settings = dataclasses.replace(settings, **{first: value})
    return settings


def fields_of(settings: Any, prefix: str = "") -> Iterator[str]:
    """The names of all fields, of groups within groups `group.field`."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def others(settings: Any, path: str) -> Iterator[Any]:
    """Settings with other values of one field, those that are refused among them left out."""
    *groups, name = path.split(".")
    group = settings
    for part in groups:
        group = getattr(group, part)
    hint = typing.get_type_hints(type(group))[name]
    for value in values_of(hint, getattr(group, name)):
        try:
            yield with_values(settings, {path: value})
        except ValueError:  # ConfigError is one
            continue


def values_of(hint: Any, value: Any) -> Iterator[Any]:
    """Values of a type that a field may have in place of its own."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        yield from (other for other in arguments if other != value)
    elif typing.get_origin(hint) in (types.UnionType, typing.Union):
        for argument in arguments:
            if argument is not type(None):
                yield from values_of(argument, value)
    elif typing.get_origin(hint) is tuple:
        yield from (value[:-1], (*value, *value[-1:]), tuple(2 * v for v in value))
    elif dataclasses.is_dataclass(hint):
        yield hint()
    elif hint is bool:
        yield not value
    elif hint is int:
        yield from (other for other in ((value or 0) + 1, 2, 3, 20) if other != value)
    elif hint is float:
        scaled = () if not value else (0.83 * value, 1.2 * value)
        yield from (other for other in (*scaled, 0.25, 1.5) if other != value)
    elif hint is str:
        yield f"{value or ''}x"
    else:
        raise TypeError(f"no other value of a {hint!r} is known here: add one")
