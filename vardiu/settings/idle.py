r"""Settings that do nothing beside the values of others, in one table.

What is asked for on a command line and would do nothing is refused. A preset, a configuration and
a program may hold such values: they stand ready for when another setting changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ..errors import ConfigError

__all__ = ["IDLE", "Idle", "check_asked", "cure_of_idle"]


class Idle(NamedTuple):
    r"""When settings do nothing.

    Arguments:
        names: The fields, or those of a row in them; of a row that is named all of its fields.
        when: Whether they do nothing, from the settings that hold them.
        cure: What to give for them to do something.
    """

    names: tuple[str, ...]
    when: Callable[[Any], bool]
    cure: str


def _other(name: str, *used: Any) -> Callable[[Any], bool]:  # noqa: ANN401 (any setting's value)
    return lambda row: getattr(row, name) not in used


FAKE = Idle(("ratio", "fake_optimizer"), _other("variant", "vsd"), "--variant vsd")
BY_PAIRS = Idle(
    ("regression_weight",), lambda row: not row.pairs.pairs, "--pairs.pairs, their number"
)


def _of_posterior(names: tuple[str, ...], *readers: str) -> Idle:
    return Idle(names, _other("posterior", *readers), f"--posterior {readers[0]}")


# By the name of a method, or by the class of a row of its settings.
IDLE: Mapping[str, tuple[Idle, ...]] = {
    "LevelSettings": (
        Idle(("anneal",), lambda row: row.start_min is None, "{row}start-min, where it begins"),
        Idle(("rho", "rho_end"), _other("kind", "power_law"), "{row}kind power_law"),
        Idle(
            ("rho_increment", "rho_every"),
            lambda row: row.kind != "power_law" or row.rho_end is None,
            "{row}kind power_law and {row}rho-end",
        ),
        Idle(("mean", "std"), _other("kind", "log_normal"), "{row}kind log_normal"),
    ),
    "WeightSettings": (
        Idle(("scale",), _other("kind", "bounded"), "{row}kind bounded"),
        Idle(("power",), _other("kind", "power"), "{row}kind power"),
    ),
    "PairSettings": (
        Idle(("solver_steps", "steps", "batch", "lr"), lambda row: not row.pairs, "{row}pairs"),
    ),
    "StartSettings": (
        Idle(
            ("pure", "head_lr", "pixel_weight", "squared_weight"),
            _other("kind", "adversarial"),
            "{row}kind adversarial",
        ),
    ),
    "MemorySettings": (Idle(("decay",), _other("kind", "ema"), "{row}kind ema"),),
    "VariableSettings": (
        Idle(("particles",), _other("kind", "particles"), "{row}kind particles"),
        Idle(("std",), _other("kind", "particles", "picture"), "{row}kind particles or picture"),
        Idle(("width", "depth", "fourier"), _other("kind", "picture"), "{row}kind picture"),
    ),
    "ChainSettings": (Idle(("trust",), lambda row: not row.gamma_z, "{row}gamma-z above 0"),),
    "vardiu": (
        _of_posterior(
            ("anchor", "ratio", "fake_optimizer", "normalised", "regression_weight"), "anchored"
        ),
        _of_posterior(
            ("posterior_optimizer", "posterior_weight"),
            *("gaussian", "residual", "cholesky", "mixture", "flow", "diffusion", "framed"),
        ),
        _of_posterior(("components",), "mixture"),
        _of_posterior(("transforms", "hidden"), "flow"),
        _of_posterior(("frame",), "framed"),
        Idle(("pairs",), lambda row: row.posterior == "framed", "--posterior another value"),
        Idle(
            ("ratio", "fake_optimizer", "anchor.settle"),
            lambda row: row.anchor.bank and not row.anchor.bank_above,
            "--anchor.bank-above above 0, for below it a fake is asked",
        ),
        BY_PAIRS,
    ),
    "sds": (
        FAKE,
        Idle(("inversion_steps", "eta"), _other("variant", "sdi"), "--variant sdi"),
    ),
    "mean_shift": (
        Idle(
            ("solver_steps", "draws", "kernel.low", "kernel.high"),
            _other("estimator", "product"),
            "--estimator product",
        ),
    ),
    "adm": (BY_PAIRS, BY_PAIRS._replace(names=("start",))),
    "f_distill": (
        BY_PAIRS,
        Idle(
            ("limit", "critic", "taps", "head_optimizer"),
            lambda row: row.divergence == "reverse_kl",
            "--divergence another value",
        ),
    ),
    "diff_ratio": (
        Idle(
            ("pairs.steps", "pairs.batch", "pairs.lr"),
            lambda row: not row.regression,
            "--regression",
        ),
    ),
    "sid": (BY_PAIRS,),
    "emd": (BY_PAIRS,),
    "dmd2": (
        BY_PAIRS,
        Idle(
            ("classifier_weight", "head_optimizer"),
            lambda row: not row.adversarial_weight,
            "--adversarial-weight above 0",
        ),
    ),
    "diff_instruct": (BY_PAIRS,),
    "freeflow": (
        Idle(
            ("balance", "lead"),
            lambda row: not 0 < row.correction < 1,
            "--correction between 0 and 1",
        ),
        Idle(
            ("fake_optimizer", "noise_levels", "ratio"),
            lambda row: not row.correction,
            "--correction above 0",
        ),
        Idle(("adaptive", "derivative"), lambda row: row.correction == 1, "--correction below 1"),
    ),
}


# With the student of another run, which has levels and steps of its own.
HALVED = ("rho", "grid_max", "solver", "fold")
STARTED: Mapping[str, tuple[str, ...]] = {
    "progressive": HALVED,
    "rdd": HALVED,
    "ddil": ("solver",),
}


def check_asked(
    method: str,
    settings: Any,  # noqa: ANN401 (settings of any method)
    words: Iterable[str],
    *,
    started: bool = False,
) -> None:
    r"""Refuses an option that does nothing beside the other settings.

    Arguments:
        method: The name of the method.
        settings: Its settings, with what the options say.
        words: The words of a command line. Of an option whose value is the default nothing is
            asked.
        started: Whether the student starts from that of another run.

    Raises:
        ConfigError: One does nothing.
    """
    for word in words:
        flag = word.partition("=")[0]
        if started and flag[2:].replace("-", "_") in STARTED.get(method, ()):
            raise ConfigError(
                f"{flag} does nothing with --start-from, whose student has levels and steps of "
                "its own: leave it out"
            )
        cure = cure_of_idle(method, settings, flag)
        if cure is not None:
            *_, (row, name, default) = _rows(settings, flag)
            if getattr(row, name) != default:
                raise ConfigError(
                    f"{flag} {getattr(row, name)} does nothing beside the other settings: leave "
                    f"it out, or give {cure}"
                )


def cure_of_idle(method: str, settings: Any, flag: str) -> str | None:  # noqa: ANN401
    r"""Returns what to give for an option to do something; nothing if it does.

    Arguments:
        method: The name of the method.
        settings: Its settings.
        flag: The option, `--group.name`. One that is not of the settings is of no row here.
    """
    path = flag.removeprefix("--").replace("-", "_").split(".")
    for depth, (row, _, _) in enumerate(_rows(settings, flag)):
        prefix = "--" + "".join(f"{part.replace('_', '-')}." for part in path[:depth])
        for idle in IDLE.get(method if not depth else type(row).__name__, ()):
            rest = ".".join(path[depth:])
            named = any(rest == own or rest.startswith(f"{own}.") for own in idle.names)
            if named and idle.when(row):
                return idle.cure.format(row=prefix)
    return None


def _rows(settings: Any, flag: str) -> list[tuple[Any, str, Any]]:  # noqa: ANN401
    r"""Returns the rows on the way to an option, each with the field's name and default; none of a
    word that names no field."""
    row, rows = settings, []
    if not flag.startswith("--"):
        return []
    for name in flag[2:].replace("-", "_").split("."):
        if not dataclasses.is_dataclass(row):
            return []
        fields = {field.name: field for field in dataclasses.fields(row)}
        if name not in fields:
            return []
        rows.append((row, name, fields[name].default))
        row = getattr(row, name)
    return rows
