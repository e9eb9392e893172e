r"""What commands print to. It imports nothing of the library."""

from __future__ import annotations

import os
import sys
from typing import IO

from rich.console import Console

__all__ = ["Output", "drop"]


def drop(stream: IO[str]) -> None:
    r"""Has nothing come of what is written to a stream from now on, and of what is in its buffer:
    nobody reads it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Output(Console):
    r"""A console that nobody may read any more, as after `| head`: what is printed is dropped
    then, and the work goes on. It is told once, on the error output, if somebody reads that."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        drop(sys.stderr if self.stderr else sys.stdout)
        try:
            print("nothing reads the output any more; the command goes on", file=sys.stderr)
        except BrokenPipeError:
            drop(sys.stderr)
