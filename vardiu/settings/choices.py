r"""Settings that have an effect with some values of another one alone.

A method may have one setting, such as its family of posteriors, that decides which others are
read. What is not read is refused where it is given, and a row that somebody else tuned for
another choice, a preset or an older run, loses it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import ConfigError

__all__ = ["Choice"]


C = TypeVar("C")


@dataclass(frozen=True)
class Choice:
    r"""Which settings a choice reads.

    Arguments:
        field: The name of the setting that decides.
        values: Of each setting that not every choice reads, the choices that do.
        lengths: What of these follows the size of the data, see `rescaled`, read or not.
    """

    field: str
    values: Mapping[str, tuple[str, ...]]
    lengths: tuple[str, ...] = ()

    def unread(self, value: Any) -> tuple[str, ...]:  # noqa: ANN401 (what a file holds)
        r"""Returns the names of the settings that a choice does not read."""
        return tuple(name for name, readers in self.values.items() if value not in readers)

    def offers(self, value: str) -> bool:
        r"""Whether a setting is read with a choice: whether there is such a choice."""
        return any(value in readers for readers in self.values.values())

    def switched(self, settings: C, value: str) -> C:
        r"""Returns a row of settings with another choice, and what it does not read at its
        default."""
        assert dataclasses.is_dataclass(settings) and not isinstance(settings, type)
        defaults = _defaults(type(settings))
        fresh = {name: defaults[name] for name in self.unread(value)}
        return dataclasses.replace(settings, **{self.field: value, **fresh})

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        r"""Returns of settings by name, such as an older run's, those that their choice reads, and
        lengths."""
        gone = self.unread(values[self.field]) if self.field in values else ()
        kept = {name: value for name, value in values.items() if name not in gone}
        for leaf in self.lengths:
            name, _, field = leaf.partition(".")
            group = values.get(name)
            if name in gone and isinstance(group, Mapping) and field in group:
                kept[name] = {field: group[field]}
        return kept

    def refuse_unread(self, settings: C, before: C | None = None) -> None:
        r"""Raises a `ConfigError` if a row sets what its choice does not read.

        Arguments:
            settings: The row.
            before: What it was changed from, if that is known; else it is held against the
                defaults, and its lengths are not.
        """
        chosen = getattr(settings, self.field)
        wanted = _defaults(type(settings)) if before is None else vars(before)
        skipped = self.lengths if before is None else ()
        for name in self.unread(chosen):
            for leaf, value, got in _differences(name, wanted[name], getattr(settings, name)):
                readers = self.values[name]
                if leaf not in skipped:
                    raise ConfigError(
                        f"{leaf} must be {_plain(value)} with {self.field} {chosen}, got "
                        f"{_plain(got)}: it has an effect with {', '.join(readers)} alone; leave "
                        f"it out, or give --{self.field} {readers[0]}"
                    )


def _defaults(kind: type) -> dict[str, Any]:
    r"""Returns the defaults of a dataclass of settings, all of which have one."""
    return {field.name: field.default for field in dataclasses.fields(kind)}


def _differences(name: str, default: Any, value: Any) -> list[tuple[str, Any, Any]]:  # noqa: ANN401
    r"""Returns what of a setting is not at its default: name, default and value."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return [] if value == default else [(name, default, value)]
    # A group that may be none is there, with defaults of its own, while options are parsed.
    inner = type(value)() if default is None else default
    return [
        found
        for field in dataclasses.fields(value)
        for found in _differences(
            f"{name}.{field.name}", getattr(inner, field.name), getattr(value, field.name)
        )
    ]


def _plain(value: Any) -> str:  # noqa: ANN401 (any setting)
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else f"{value}"
