r"""Networks of the user's own code, on disk: weights, a reference to the code, and its SHA-256."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import ConfigError, shown
from ..nn import Precision
from ..storage.code import OwnCode, recognised

__all__ = ["KIND", "build_own", "code_of", "codes_in", "describe_own"]


# What stands in the place of a class of the library in `model.json`.
KIND = "own_code"


def code_of(module: nn.Module) -> OwnCode | None:
    r"""Returns the user's own code that made a module; none for one of the library's."""
    code = getattr(module, "own_code", None)
    return code if isinstance(code, OwnCode) else None


def codes_in(module: nn.Module) -> list[OwnCode]:
    r"""Returns the own code that made parts of a module."""
    found = (code_of(part) for part in module.modules())
    return [code for code in found if code is not None]


def describe_own(module: nn.Module, code: OwnCode) -> dict[str, Any]:
    r"""Returns what is kept of a module that own code made, beside its weights."""
    precisions = {
        path: child.arguments["dtype"]
        for path, child in module.named_modules()
        if isinstance(child, Precision)
    }
    return {
        "kind": KIND,
        **code.to_mapping(),
        "class": type(module).__name__,
        "precision": precisions,
    }


def build_own(
    description: Mapping[str, Any],
    codes: Sequence[OwnCode],
    where: str,
    *,
    accept_changed: bool = False,
) -> nn.Module:
    r"""Returns the module that own code makes, as it was described.

    Arguments:
        description: What `describe_own` returned.
        codes: The own code that this command line names; nothing else is executed.
        where: The file that describes it, for messages.
        accept_changed: Whether a file that was changed since may be taken.

    Raises:
        ConfigError: The command line does not name the code, its file was changed since, or it
            makes something else.
    """
    kept = {name: description.get(name) for name in ("source", "sha256")}
    options = {"accept_changed": accept_changed}
    code = recognised(kept, codes, where, "--network", **options)
    module = code.made()
    wanted = description.get("class")
    if not isinstance(module, nn.Module) or type(module).__name__ != wanted:
        raise ConfigError(
            f"{code.source} makes a {type(module).__name__}, and {where} holds a {shown(wanted)}: "
            "name what made it, with --network FILE.py:NAME"
        )
    for path, dtype in dict(description.get("precision") or {}).items():
        parent, _, name = path.rpartition(".")
        child = module.get_submodule(path)
        if not isinstance(child, Precision):
            setattr(module.get_submodule(parent), name, Precision(child, dtype))
    vars(module)["own_code"] = code
    return module
