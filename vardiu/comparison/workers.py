r"""The processes that carry a bake-off out."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ..errors import Interrupted
from ..methods import load_method
from ..runs.distill import distill
from ..runs.listeners import console_listeners
from ..runs.progress import counted
from ..runs.task import task_of
from ..storage.code import load_code
from ..storage.interrupts import wish_to_stop
from ..storage.run_folder import RunFolder
from .plan import Cell

__all__ = ["carry_out"]


def carry_out(todo: Sequence[Cell], jobs: int, console: Console) -> list[str]:
    r"""Carries out the runs that are not finished, so many at a time.

    Returns:
        What went wrong, one line a run; the others are carried out all the same.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the runs that were under way have been saved.
    """
    waiting = [cell for cell in todo if RunFolder(cell.folder).result() is None]
    total, done, failures = len(waiting), 0, []
    context = _context()
    running: dict[Any, Cell] = {}
    with (
        wish_to_stop(lambda: say_stop(console)) as wish,
        counted(console, "runs", total, "run") as tell,
    ):
        while (waiting and not wish.asked) or running:
            while waiting and len(running) < jobs and not wish.asked:
                cell = waiting.pop(0)
                code = cell.task.code
                source = None if code is None else code.source
                own = {role: named.source for role, named in cell.task.own.items()}
                places = str(cell.folder), str(cell.artefacts)
                arguments = cell.task.to_mapping(), *places, source, own
                worker = context.Process(target=_work, args=arguments)
                worker.start()
                running[worker] = cell
            multiprocessing.connection.wait([w.sentinel for w in running], timeout=0.5)
            if wish.asked:
                for worker in running:
                    _ask_to_stop(worker)
            for worker in [w for w in running if w.exitcode is not None]:
                cell = running.pop(worker)
                where = f"{cell.budget}, {cell.teacher}, {cell.arm}, seed {cell.seed}"
                if worker.exitcode == 0:
                    done += 1
                    tell(done, where)
                elif not wish.asked:
                    failures.append(f"{where}: {_last_words(cell.folder)}")
                    words = Text.assemble(("failed:", "red"), f" {failures[-1]}")
                    console.print(words, highlight=False, soft_wrap=True)
    if wish.asked:
        raise Interrupted(f"stopped with {done} of {total} runs finished")
    return failures


def say_stop(console: Console) -> None:
    r"""Says that a stop was heard, before what is at hand has ended."""
    console.print("stopping: the runs under way are being saved ...", highlight=False)


def _context() -> Any:  # noqa: ANN401 (each platform has its own)
    r"""Returns how workers are made: forked from a server that has imported torch, or afresh."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The first optimizer of a process imports torch's compiler, for seconds.
    context.set_forkserver_preload(["vardiu.runs.distill", "torch._dynamo"])
    return context


def _ask_to_stop(worker: Any) -> None:  # noqa: ANN401 (a process of any context)
    # Asked once: a second signal breaks a run off without saving.
    if not getattr(worker, "asked", False) and worker.is_alive():
        worker.asked = True
        os.kill(worker.pid, signal.SIGTERM)


def _work(
    mapping: dict[str, Any], out: str, artefacts: str, source: str | None, own: dict[str, str]
) -> None:
    r"""Carries out one run in a process of its own; its words go to the folder's log."""
    from ..runs.errors import guarded

    threading.Thread(target=_follow_parent, daemon=True).start()
    folder = Path(out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.log").open("a", buffering=1) as log:
        sys.stdout = sys.stderr = log
        console = Console(file=log, width=120)
        typed = ["vardiu", "bake-off"]

        def carry_out_one(_: list[str]) -> None:
            codes = [] if source is None else [load_method(source)]
            named = {role: load_code(code) for role, code in own.items()}
            task = task_of(mapping, "the plan", codes, own=named)
            distill(task, folder, console_listeners(console), typed, Path(artefacts))

        status = guarded(carry_out_one, "distill", [], console)
    raise SystemExit(status)


def _follow_parent() -> None:
    r"""Stops this process, as by SIGTERM, when the one that made it has died."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _last_words(folder: Path) -> str:
    r"""Returns on one line what a run's log ends with: the whole of a message, else its last
    line."""
    lines = (folder.parent / f"{folder.name}.log").read_text().strip().splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("vardiu distill: ")]
    if starts:
        return " ".join(lines[starts[-1] :]).removeprefix("vardiu distill: ")
    return lines[-1] if lines else "it ended without a word"
