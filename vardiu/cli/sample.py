r"""`vardiu sample` and `vardiu evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..errors import ConfigError
from ..runs.console import print_metrics, print_spaces
from ..runs.inputs import refuse_changed_inputs
from ..storage.files import write_text_atomic
from .console import console
from .folders import existing_run, trained_student
from .options import Parser, add_code_options


def sample(arguments: list[str]) -> None:
    r"""Draws samples; writes an array and a picture."""
    parser = Parser(prog="sample")
    parser.add_argument("run")
    parser.add_argument("--num", type=int, default=64, help="number of samples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the latents")
    parser.add_argument(
        "--out", help="the .npz file to write; a new one beside the run by default"
    )
    parser.add_argument("--prompt", action="append", help="a text; may be given several times")
    add_code_options(parser)
    chosen = parser.parse_args(arguments)
    if chosen.num < 1:
        raise ConfigError(f"--num must be at least 1, got {chosen.num}")
    folder = existing_run(chosen.run)
    student, problem, _ = trained_student(folder, chosen, chosen.prompt)
    name = f"samples-{chosen.num}-seed{chosen.seed}.npz"
    path = Path(chosen.out) if chosen.out else folder.file(name)
    if path.suffix != ".npz":
        raise ConfigError(f"--out must end in .npz, got {path}")
    if chosen.out and path.exists():
        raise ConfigError(f"{path} exists; give another file with --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(chosen.seed)
    x, cond = problem.student_source(student)(chosen.num, random)
    arrays = {
        "x": problem.space.images(x).numpy(),
        **{name: value.numpy() for name, value in cond.items()},
    }
    partial = path.with_name(f".{path.stem}.part.npz")
    np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]  # no array is its one flag
    partial.replace(path)
    picture = path.with_suffix(".png")
    problem.scores.plot_samples(x, picture)
    console.print(f"samples: {path}\npicture: {picture}", highlight=False, soft_wrap=True)


def evaluate(arguments: list[str]) -> None:
    r"""Measures a student; writes the numbers beside it."""
    parser = Parser(prog="evaluate")
    parser.add_argument("run")
    parser.add_argument("--num", type=int, help="number of samples; the preset's own by default")
    parser.add_argument("--seed", type=int, default=0, help="seed of the latents")
    add_code_options(parser)
    chosen = parser.parse_args(arguments)
    folder = existing_run(chosen.run)
    student, problem, _ = trained_student(folder, chosen)
    refuse_changed_inputs(folder, problem.inputs())
    n = chosen.num or problem.scores.samples
    if n < 100:
        raise ConfigError(f"--num must be at least 100, got {n}")
    source = problem.student_source(student)
    metrics = problem.scores.measure(source, n, chosen.seed)
    reference, who = problem.scores.teacher_metrics(n)
    print_metrics(console, metrics, reference, who)
    spaces = problem.scores.measure_spaces(source, n, chosen.seed)
    print_spaces(console, spaces)
    path = folder.file(f"evaluation-{n}-seed{chosen.seed}.json")
    content = {
        "command": ["vardiu", "evaluate", *arguments],
        "version": __version__,
        "metrics": [metric.row() for metric in metrics],
        "reference": {"name": who, "metrics": [metric.row() for metric in reference]},
        "spaces": [metric.row() for metric in spaces],
    }
    write_text_atomic(path, json.dumps(content, indent=2) + "\n")
    console.print(f"written: {path}", highlight=False, soft_wrap=True)


COMMANDS = {"sample": sample, "evaluate": evaluate}
