r"""`vardiu probe`."""

from __future__ import annotations

from ..errors import NotADenoiser
from ..runs.console import probe_table
from ..runs.events import Broadcaster
from ..runs.execute import device_of
from ..runs.listeners import console_listeners
from ..runs.measuring import announced_calls
from ..runs.task import problem_of
from ..teachers.probe import LEVELS, checked, innermost, verdict
from .console import console
from .options import parse_request

__all__: list[str] = []


def probe(arguments: list[str]) -> None:
    r"""Measures the denoising error of a preset's teacher, level by level."""
    task = parse_request("distill", arguments, "probe").task
    device = device_of(task.run.device)
    problem = problem_of(task)
    problem.compute_on(device)
    for line in problem.data.account():
        console.print(f"data: {line}", highlight=False, markup=False, soft_wrap=True)
    teacher = problem.data.unguided.to(device)
    broadcast = Broadcaster(console_listeners(console))
    own = problem.data.resample is not None
    doing = "drawing its own samples, as there is no --data" if own else "probing the teacher"
    try:
        with announced_calls(broadcast, doing, innermost(teacher)):
            data = problem.data.reference(512)
        total = LEVELS * len(data[0])
        with announced_calls(broadcast, "probing the teacher", innermost(teacher), total):
            rows = checked(teacher, *data, problem.data.resample)
    except NotADenoiser as error:
        if error.rows:
            console.print(probe_table(error.rows))
        raise
    console.print(probe_table(rows))
    console.print(verdict(rows), highlight=False, markup=False, soft_wrap=True)


COMMANDS = {"probe": probe}
