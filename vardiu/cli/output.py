r"""What commands print to. It imports nothing of the library."""

from __future__ import annotations

import os
import sys

from rich.console import Console

__all__ = ["Output"]


class Output(Console):
    r"""A console that nobody may read any more, as after `| head`: what is printed is dropped
    then, and the work goes on. It is told once, on the error output."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("nothing reads the output any more; the command goes on", file=sys.stderr)
