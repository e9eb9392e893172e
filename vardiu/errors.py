r"""Every error of the library: what a user can cure says so in one line."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import reprlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "CheckpointError",
    "amount",
    "brief",
    "ConfigError",
    "known",
    "meant",
    "nearest",
    "ExportError",
    "require",
    "require_installed",
    "NotADenoiser",
    "ProcessLost",
    "RunError",
    "Diverged",
    "Interrupted",
    "shown",
    "with_error",
]


# Characters of a name or a value in a message.
SHOWN = 300


class CheckpointError(ValueError):
    r"""A checkpoint that cannot be written, or whose bytes are not those that were written."""


class ConfigError(ValueError):
    r"""A setting that is unknown, of another type, or out of its range."""


# Names that a message lists at most.
OFFERED = 100


def nearest(name: str, names: Iterable[str]) -> str:
    r"""Returns the part of a message that offers what was perhaps meant.

    Example:
        >>> nearest("mgo40", ["mog40", "digits"])
        'did you mean mog40? One of: digits, mog40'
    """
    names = sorted(names)
    hint = meant(name, names)
    offer = ", ".join(shown(known) for known in names[:OFFERED])
    if len(names) > OFFERED:
        offer += f" and {len(names) - OFFERED:,} others"
    return f"{hint} One of: {offer}" if hint else f"one of: {offer}"


def meant(name: str, names: Iterable[str]) -> str:
    r"""Returns the question whether one of the nearest names was meant; empty where none is near.

    Example:
        >>> meant("mgo40", ["mog40", "digits"])
        'did you mean mog40?'
    """
    close = difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(shown, close))}?" if close else ""


def brief(text: str) -> str:
    r"""Returns what somebody typed, at most 60 letters of it."""
    return text if len(text) <= 60 else f"{text[:60]}..."


def amount(n: int, one: str, many: str | None = None) -> str:
    r"""Returns a number with what is counted, in the singular or the plural.

    Example:
        >>> amount(1, "image is corrupt", "images are corrupt"), amount(2000, "point")
        ('1 image is corrupt', '2,000 points')

    Arguments:
        n: The number.
        one: What stands behind one.
        many: What stands behind any other number; `one` with an s by default.
    """
    return f"{n:,} {one if n == 1 else f'{one}s' if many is None else many}"


def with_error(value: float, error: float | None, digits: int = 2) -> str:
    r"""Returns a value of four digits and its standard error.

    An error of less than a millionth of the value is written as zero: that a mode was missed by
    chance may have a probability of :math:`10^{-34}`.

    Example:
        >>> with_error(0.123456, 0.0123), with_error(40, 7e-34), with_error(1.5, None)
        ('0.1235 ± 0.012', '40 ± 0', '1.5')

    Arguments:
        value: The value.
        error: Its standard error; `None` where it has none.
        digits: The number of digits of the error.
    """
    if error is None:
        return f"{value:.4g}"
    shown_error = 0.0 if error < 1e-6 * abs(value) else error
    return f"{value:.4g} ± {shown_error:.{digits}g}"


def known(name: str, names: Iterable[str], what: str, listed: str = "") -> str:
    r"""Returns which of some names is meant: hyphens, underscores and capitals are alike.

    Example:
        >>> known("Two-Moons", ["mog40", "two_moons"], "density")
        'two_moons'

    Arguments:
        name: What was typed.
        names: What there is.
        what: The kind of thing, for the message.
        listed: What shows all names, where they are too many for a message.

    Raises:
        ConfigError: None is meant; the message offers the nearest ones.
    """
    names = list(names)
    if name in names:
        return name
    for candidate in names:
        if _plain(candidate) == _plain(name):
            return candidate
    shown = brief(name)
    offer = f"{meant(shown, names)} {listed}".lstrip() if listed else nearest(shown, names)
    raise ConfigError(f"unknown {what} {shown!r}; {offer}")


def _plain(name: str) -> str:
    return name.replace("-", "_").lower()


class ExportError(RuntimeError):
    r"""What was written does not give the student's samples; it has been removed."""


def require(name: str, extra: str | None = None) -> Any:  # noqa: ANN401 (a module)
    r"""Returns an optional library.

    Arguments:
        name: The module.
        extra: The extra of this package that installs it; none where it is installed by its name.

    Raises:
        ConfigError: It is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise not_installed(name, extra) from error


def require_installed(name: str, extra: str | None = None) -> None:
    r"""Raises what `require` does where an optional library is not installed, and imports none:
    an import may take seconds.

    Arguments:
        name: The name of the library's package, without a dot.
        extra: See `require`.
    """
    if sys.modules.get(name) is None and importlib.util.find_spec(name) is None:
        raise not_installed(name, extra)


def not_installed(name: str, extra: str | None) -> ConfigError:
    package = name.split(".")[0] if extra is None else f"'vardiu[{extra}]'"
    return ConfigError(f"{name} is needed here and is not installed: pip install {package}")


class NotADenoiser(ValueError):
    r"""A teacher that does not denoise, with the level at which it fails and by how much.

    Arguments:
        message: What is wrong.
        rows: What was measured at each level, see `vardiu.teachers.probe`; empty where its outputs
            could not be measured.
    """

    def __init__(self, message: str, rows: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.rows = rows


class ProcessLost(RuntimeError):
    r"""Another process that shares the run has ended; this one cannot go on alone."""


class RunError(ValueError):
    r"""A folder that cannot be used for this run; nothing in it was changed."""


class Diverged(RuntimeError):
    r"""A loss or a gradient was not finite; the networks were not updated with it."""


class Interrupted(RuntimeError):
    r"""The run was asked to stop, and has been saved."""


def shown(value: object) -> str:
    r"""Returns a name or a value as messages have it: on one line, bounded, and without control
    characters, which a terminal would obey.

    Arguments:
        value: A text or a path, shown as it is; anything else is shown as its representation, of
            which no more is made than is shown.

    Example:
        >>> shown("a\x1b[31m.png")
        'a\\x1b[31m.png'
    """
    if isinstance(value, str | os.PathLike):
        text = os.fsdecode(value)
    else:
        text = _BRIEF.repr(value)
    if len(text) > SHOWN:
        half = SHOWN // 2
        text = f"{text[:half]} ... ({len(text):,} characters) ... {text[-half:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother, _BRIEF.maxlong = 3, 80, 80, 40
