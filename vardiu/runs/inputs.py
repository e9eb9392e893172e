r"""What a run was made from, and whether it is still there: teacher, data, prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..data.digests import digest_of_data
from ..errors import RunError, shown
from ..problems.base import DATA_FILES, Input, Problem, inputs_of
from ..settings.parse import flattened
from ..storage.bounded import read_json
from ..storage.run_folder import RunFolder

__all__ = ["kept_provenance", "other_data", "refuse_changed_inputs", "refuse_other_inputs"]
__all__ += ["refuse_other_version"]


def kept_provenance(folder: RunFolder) -> dict[str, Any]:
    r"""Returns what a run's `provenance.json` holds.

    Raises:
        RunError: It is missing or damaged.
    """
    file = folder.file("provenance.json")
    cure = f"move {shown(folder.path)} away and start anew, or bring the file back from a copy"
    try:
        found: dict[str, Any] = read_json(file, error=RunError)
    except RunError as error:
        raise RunError(f"{error}: {cure}") from error
    if not isinstance(found.get("sha256"), dict):
        raise RunError(f"{shown(file)} must be an object with the group sha256: {cure}")
    words = found.get("command", [])
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise RunError(f"{shown(file)} must hold command, a list of words: {cure}")
    return found


def refuse_changed_inputs(folder: RunFolder, inputs: Mapping[str, Input]) -> None:
    r"""Raises a `RunError` if a run was begun with another teacher, other data or other prompts.

    Arguments:
        folder: The run's folder.
        inputs: What was read now, see `Problem.inputs`.
    """
    kept = kept_provenance(folder)["sha256"]
    for name, now in inputs.items():
        then = kept.get(name)
        if then is not None and then != now.sha256:
            raise RunError(
                f"{folder.path} was begun with another {name}: {now.place} was changed since "
                f"(SHA-256 {str(then)[:12]} then, {now.sha256[:12]} now). Put back what was "
                "there, or start a new run in another folder, with --out"
            )


def other_data(folder: RunFolder, named: str | None) -> str | None:
    r"""Returns the data that a run is to be compared with in the place of its own, if `--data`
    names others; none if it names nothing, or says where the run's own are now.

    Arguments:
        folder: The run, or a published student, which was begun with nothing.
        named: What `--data` names.
    """
    if named is None or not folder.exists:
        return named
    sha256 = kept_provenance(folder)["sha256"].get(DATA_FILES)
    moved = sha256 is not None and digest_of_data(named) == sha256
    return None if moved or named == folder.config()["problem"].get("data") else named


def refuse_other_inputs(folder: RunFolder, problem: Problem, other: str | None) -> None:
    r"""Raises a `RunError` if what a run's student was begun with was changed since.

    Arguments:
        folder: The run, or a published student, which was begun with nothing.
        problem: Its problem.
        other: The data that it is compared with in the place of its own, see `other_data`.
    """
    if folder.exists:
        found = inputs_of(problem)
        own = {name: it for name, it in found.items() if other is None or name != DATA_FILES}
        refuse_changed_inputs(folder, own)


def refuse_other_version(folder: RunFolder, settings: Mapping[str, Any]) -> None:
    r"""Raises a `RunError` if a run of the same kind has settings of other names: another version
    of the library began it.

    Arguments:
        folder: The run's folder.
        settings: The settings of the run that is to go on in it, see `Task.to_mapping`.
    """
    theirs, ours = flattened(folder.config()), flattened(settings)
    kind = ("command", "method.name", "problem.kind")
    if any(theirs.get(name) != ours.get(name) for name in kind):
        return
    gone, new = (
        sorted(name for name in mine if not any(met(name, other) for other in others))
        for mine, others in ((theirs, ours), (ours, theirs))
    )
    if gone or new:
        parts = [
            f"{words}: {', '.join(names)}"
            for words, names in (("it has", gone), ("it lacks", new))
            if names
        ]
        raise RunError(
            f"{folder.file('config.yaml')} is of another version of vardiu, whose runs are not "
            f"gone on with ({'; '.join(parts)}). Start a new run in another folder, with --out"
        )


def met(name: str, other: str) -> bool:
    r"""Whether two names are one, or one is a group of the other: a group may be none."""
    return name == other or other.startswith(f"{name}.") or name.startswith(f"{other}.")
