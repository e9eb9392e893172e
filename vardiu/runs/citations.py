r"""What a run is to cite."""

from __future__ import annotations

from .task import Task, method_of

__all__ = ["citation_keys"]


def citation_keys(task: Task) -> list[str]:
    r"""Returns the keys of the papers that a run used, see `vardiu.cite`."""
    method = method_of(task.command, task.method)
    keys = [*method.cite, *method.also.get(getattr(task.settings, "posterior", ""), ())]
    keys += ["digits"] if task.problem.name == "digits" else []
    keys += ["edm"] if task.problem.name == "digits" or task.command == "teach" else []
    return [*keys, "vardiu_software"]
