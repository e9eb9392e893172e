r"""`vardiu probe`."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from torch import nn

from ..errors import NotADenoiser
from ..runs.listeners import probe_table
from ..runs.task import problem_of
from ..teachers.probe import checked, innermost, verdict
from .console import console
from .options import parse_request

__all__ = ["Calls"]


# Seconds between two lines where there is no terminal.
PATIENCE = 10.0


class Calls:
    r"""Shows what is being done, and how many calls a teacher has answered.

    Arguments:
        teacher: The teacher.
        doing: What is being done first.
    """

    def __init__(self, teacher: nn.Module, doing: str) -> None:
        self.teacher, self.doing, self.calls = teacher, doing, 0
        self.started = self.said = time.monotonic()
        self.status = console.status(doing)

    def __enter__(self) -> Self:
        self.hook = self.teacher.register_forward_hook(self.count)
        self.status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.hook.remove()
        self.status.stop()

    def level(self, done: int, total: int) -> None:
        r"""Notes that so many levels are done."""
        self.doing = f"level {min(done + 1, total)} of {total}"
        self.show()

    def count(self, module: nn.Module, inputs: object, output: object) -> None:
        self.calls += 1
        self.show()

    def show(self) -> None:
        now = time.monotonic()
        text = f"{self.doing}: {self.calls:,} calls of the teacher, {now - self.started:.0f} s"
        self.status.update(text)
        if not console.is_terminal and now - self.said > PATIENCE:
            self.said = now
            console.print(text, highlight=False, soft_wrap=True)


def probe(arguments: list[str]) -> None:
    r"""Measures the denoising error of a preset's teacher."""
    problem = problem_of(parse_request("distill", arguments).task)
    teacher = problem.data.unguided
    own = problem.data.resample is not None
    doing = "drawing the teacher's own samples, as there is no --data" if own else "reading data"
    with Calls(innermost(teacher), doing) as calls:
        x, cond = problem.data.reference(512)
        calls.level(0, 7)
        try:
            rows = checked(teacher, x, cond, problem.data.resample, calls.level)
        except NotADenoiser as error:
            calls.status.stop()
            if error.rows:
                console.print(probe_table(error.rows))
            raise
    console.print(probe_table(rows))
    console.print(verdict(rows), highlight=False, markup=False, soft_wrap=True)


COMMANDS = {"probe": probe}
