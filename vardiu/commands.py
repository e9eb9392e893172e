r"""What each command of `vardiu.cli` does."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import torch
import tyro
import yaml
from rich.console import Console
from rich.table import Table

from . import __version__, bakeoff, pipeline, plots, report, scoreboard, store
from . import cite as papers
from .checkpoint import CheckpointError
from .config import ConfigError, nearest
from .contests import CONTESTS
from .data.densities import DENSITIES
from .data.sources import BOARD
from .export import EXPORTS, ExportError, card, export
from .generate import Generator
from .methods import METHODS
from .pipeline import Task
from .presets import PRESETS, TEACHERS
from .probe import checked
from .problems import Problem
from .runs import RunError, RunFolder, write_text_atomic
from .teachers import PLUGINS
from .train import Diverged, Interrupted

console = Console()
errors = Console(stderr=True)


def guarded(
    function: Callable[[list[str]], None],
    name: str,
    arguments: list[str],
    errors: Console = errors,
) -> int:
    r"""Runs a command; what a user can cure ends in one clear message."""
    try:
        function(arguments)
    except Interrupted as error:
        again = pipeline.command_line([name, *arguments])
        errors.print(f"{error}, and saved. To go on: {again}", highlight=False, soft_wrap=True)
        return 130
    except (ConfigError, RunError, CheckpointError, ValueError, FileNotFoundError) as error:
        errors.print(f"vardiu {name}: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    except (Diverged, ExportError, OSError) as error:
        errors.print(f"vardiu {name}: {error}", highlight=False, markup=False, soft_wrap=True)
        return 1
    return 0


class Parser(argparse.ArgumentParser):
    r"""Argparse, with errors of the library's kind."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. See vardiu {self.prog} --help")


# ---------------------------------------------------------------- teach, distill


def _resolve(command: str, arguments: list[str]) -> tuple[Task, Path, bool]:
    r"""Returns the task of a command line, the folder of its run, and whether to stop there."""
    table = TEACHERS if command == "teach" else PRESETS
    head = Parser(prog=command, add_help=False)
    head.add_argument("--config")
    head.add_argument("--method")
    head.add_argument("--out")
    head.add_argument("--dry-run", action="store_true")
    # Only what stands first can be the preset: later words are values of options.
    first = arguments[:1] if arguments and not arguments[0].startswith("-") else []
    known, rest = head.parse_known_args(arguments[len(first) :])
    wanted = first[0] if first else None
    if wanted is None and any(word.split("=")[0] == "--teacher" for word in rest):
        wanted = "images"
    helping = any(word in ("-h", "--help") for word in rest)
    if known.config is not None:
        if wanted is not None:
            raise ConfigError("give a preset or --config, not both")
        task = pipeline.load_task(known.config)
        if task.command != command:
            raise ConfigError(f"{known.config} is of `vardiu {task.command}`, not of {command}")
    elif wanted is not None:
        task = pipeline.task_from_preset(command, wanted, known.method)
    elif helping:
        task = pipeline.task_from_preset(command, next(iter(table)), known.method)
    else:
        raise ConfigError(f"which preset? {nearest('', table)}")
    prefix = "teach-" if command == "teach" else ""
    name = (
        task.preset
        if known.method in (None, task_method(command, task.preset))
        else (f"{task.preset}-{task.method}")
    )
    out = Path(known.out or f"runs/{prefix}{name}")
    return _override(task, rest, out), out, known.dry_run


def task_method(command: str, preset: str) -> str | None:
    table = TEACHERS if command == "teach" else PRESETS
    return table[preset].method if preset in table else None


def _override(task: Task, arguments: list[str], out: Path) -> Task:
    r"""Returns the task with the fields that the command line names."""
    # Without a name of their own the groups' fields are options of the command itself.
    top = tyro.conf.arg(name="")
    fields = [
        ("method", Annotated[type(task.settings), top], task.settings),
        ("problem", Annotated[type(task.problem), top], task.problem),
        ("run", Annotated[type(task.run), top], task.run),
    ]
    row = dataclasses.make_dataclass(
        "Options",
        [(name, kind, dataclasses.field(default=value)) for name, kind, value in fields],
        frozen=True,
    )
    about = (
        f"Preset {task.preset!r}, method {task.method}. Besides these: --out FOLDER ({out}), "
        "--method NAME, --config FILE (a run's config.yaml), --dry-run."
    )
    chosen: Any = tyro.cli(
        row,
        prog=f"vardiu {task.command} {task.preset}",
        description=about,
        args=arguments,
        console_outputs=True,
    )
    return dataclasses.replace(
        task, settings=chosen.method, problem=chosen.problem, run=chosen.run
    )


def _carry_out(command: str, arguments: list[str], function: Callable) -> None:
    task, out, dry = _resolve(command, arguments)
    if dry:
        print(yaml.safe_dump(task.to_mapping(), sort_keys=False), end="")
        return
    if command == "distill":
        _teacher_first(task)
    typed = ["vardiu", command, *arguments]
    function(task, out, typed, console)


def _teacher_first(task: Task) -> None:
    r"""Trains the teacher of a preset on board if it is needed, was not named and is not there."""
    problem, name = task.problem, task.problem.name
    # A density may have an exact teacher, images one from elsewhere.
    needs = getattr(problem, "teacher", None) in (None, "learned")
    if not needs or getattr(problem, "teacher_run", None) is not None or name not in TEACHERS:
        return
    folder = RunFolder(f"runs/teach-{name}")
    if folder.result() is None:
        console.print(f"there is no teacher in {folder.path} yet: vardiu teach {name}")
        teacher = pipeline.task_from_preset("teach", name)
        run = dataclasses.replace(teacher.run, threads=task.run.threads, device=task.run.device)
        teacher = dataclasses.replace(teacher, run=run)
        pipeline.teach(teacher, folder.path, ["vardiu", "teach", name], console)


def teach(arguments: list[str]) -> None:
    r"""Trains a teacher."""
    _carry_out("teach", arguments, pipeline.teach)


def distill(arguments: list[str]) -> None:
    r"""Distils a teacher."""
    _carry_out("distill", arguments, pipeline.distill)


def estimate(arguments: list[str]) -> None:
    r"""Says what a run will need, before it starts."""
    from . import estimate as estimates
    from .forecast import show

    head = Parser(prog="estimate", add_help=False)
    head.add_argument("--json", action="store_true")
    head.add_argument("--teach", action="store_true")
    known, rest = head.parse_known_args(arguments)
    task, _, _ = _resolve("teach" if known.teach else "distill", rest)
    found = estimates.estimate(task)
    if known.json:
        print(json.dumps(found, indent=2))
    else:
        show(found, console)


# ---------------------------------------------------------------- list, cite, probe


def list_(arguments: list[str]) -> None:
    r"""Prints the tables of what there is."""
    Parser(prog="list").parse_args(arguments)
    table = Table("method", "name", "trains", "needs data", box=None, title="Methods")
    for name, method in METHODS.items():
        table.add_row(name, method.title, method.networks, "yes" if method.data else "no")
    console.print(table)
    table = Table("preset", "method", "about", box=None, title="\nvardiu distill PRESET")
    for name, preset in PRESETS.items():
        table.add_row(name, preset.method, preset.about)
    console.print(table)
    table = Table("preset", "about", box=None, title="\nvardiu teach PRESET")
    for name, preset in TEACHERS.items():
        table.add_row(name, preset.about)
    console.print(table)
    table = Table("form", "about", box=None, title="\nvardiu export RUN --to FORM")
    for name, exporter in EXPORTS.items():
        table.add_row(name, exporter.about)
    console.print(table)
    console.print("\nteachers (--teacher):", highlight=False)
    for plugin in PLUGINS.values():
        console.print(f"  {plugin.about}", highlight=False, markup=False)
    data = f"\ndata (--data): {', '.join(BOARD)}, or a folder, .npz, shards, hf://name"
    console.print(data, highlight=False)
    console.print("\ndensities (--name): " + ", ".join([*DENSITIES, "mixture"]), highlight=False)


def cite(arguments: list[str]) -> None:
    r"""Prints the BibTeX of a run."""
    parser = Parser(prog="cite")
    parser.add_argument("run")
    task = pipeline.load_task(_run(parser.parse_args(arguments).run).file("config.yaml"))
    print(papers.bibtex(_citations(task)))


def _citations(task: Task) -> list[str]:
    r"""Returns the keys of what a run used."""
    method = pipeline.method_of(task.command, task.method)
    keys = [*method.cite, *method.also.get(getattr(task.settings, "posterior", ""), ())]
    keys += ["digits"] if task.problem.name == "digits" else []
    keys += ["edm"] if task.problem.name == "digits" or task.command == "teach" else []
    return [*keys, "vardiu_software"]


def probe(arguments: list[str]) -> None:
    r"""Measures the denoising error of a preset's teacher."""
    task, _, _ = _resolve("distill", arguments)
    problem = pipeline.problem_of(task)
    rows = checked(problem.probed, *problem.reference(512), problem.redraw)
    table = Table("sigma", "squared error", "a linear denoiser's", box=None)
    for row in rows:
        error = f"{row.error:.4g} ± {row.deviation:.2g}"
        table.add_row(f"{row.sigma:.3g}", error, f"{row.linear:.4g}")
    console.print(table)
    console.print("it denoises.")


# ---------------------------------------------------------------- sample, evaluate, compare


def _run(path: str) -> RunFolder:
    folder = RunFolder(path)
    folder.config()
    return folder


def _student(folder: RunFolder, prompts: Sequence[str] | None = None) -> tuple[Generator, Problem]:
    if folder.result() is None:
        raise RunError(
            f"{folder.path} is not finished: run `vardiu distill --config "
            f"{folder.file('config.yaml')} --out {folder.path}` to go on with it"
        )
    student = store.load(folder.file("student"))
    if not isinstance(student, Generator):
        raise RunError(f"{folder.path} holds a {type(student).__name__}, not a generator")
    problem = pipeline.problem_of(pipeline.load_task(folder.file("config.yaml")))
    if prompts:
        problem.say(prompts)
    return problem.dress(student), problem


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
    chosen = parser.parse_args(arguments)
    if chosen.num < 1:
        raise ConfigError(f"--num must be at least 1, got {chosen.num}")
    folder = _run(chosen.run)
    student, problem = _student(folder, chosen.prompt)
    name = f"samples-{chosen.num}-seed{chosen.seed}.npz"
    path = Path(chosen.out) if chosen.out else folder.file(name)
    if path.suffix != ".npz":
        raise ConfigError(f"--out must end in .npz, got {path}")
    if chosen.out and path.exists():
        raise ConfigError(f"{path} exists; give another file with --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(chosen.seed)
    x, cond = problem.from_generator(student)(chosen.num, random)
    arrays = {
        "x": problem.decode(x).numpy(),
        **{name: value.numpy() for name, value in cond.items()},
    }
    partial = path.with_name(f".{path.stem}.part.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(path)
    picture = path.with_suffix(".png")
    problem.draw(x, picture)
    console.print(f"samples: {path}\npicture: {picture}", highlight=False, soft_wrap=True)


def evaluate(arguments: list[str]) -> None:
    r"""Measures a student; writes the numbers beside it."""
    parser = Parser(prog="evaluate")
    parser.add_argument("run")
    parser.add_argument("--num", type=int, help="number of samples; the preset's own by default")
    parser.add_argument("--seed", type=int, default=0, help="seed of the latents")
    chosen = parser.parse_args(arguments)
    folder = _run(chosen.run)
    student, problem = _student(folder)
    n = chosen.num or problem.samples
    if n < 100:
        raise ConfigError(f"--num must be at least 100, got {n}")
    metrics = problem.measure(problem.from_generator(student), n, chosen.seed)
    reference, who = problem.compared_with(n)
    pipeline.show(console, metrics, reference, who)
    path = folder.file(f"evaluation-{n}-seed{chosen.seed}.json")
    content = {
        "command": ["vardiu", "evaluate", *arguments],
        "version": __version__,
        "metrics": [metric.row() for metric in metrics],
        "reference": {"name": who, "metrics": [metric.row() for metric in reference]},
    }
    write_text_atomic(path, json.dumps(content, indent=2) + "\n")
    console.print(f"written: {path}", highlight=False, soft_wrap=True)


def export_(arguments: list[str]) -> None:
    r"""Writes a student in another form; says done when it was loaded again and compared."""
    parser = Parser(prog="export")
    parser.add_argument("run")
    parser.add_argument("--to", required=True, help=f"one of: {', '.join(EXPORTS)}")
    parser.add_argument("--out", help="the folder to write; RUN/export-FORM by default")
    chosen = parser.parse_args(arguments)
    folder = _run(chosen.run)
    if chosen.to not in EXPORTS:
        raise ConfigError(f"unknown form {chosen.to!r}; {nearest(chosen.to, EXPORTS)}")
    student, problem = _student(folder)
    student = problem.bare(student)
    task = pipeline.load_task(folder.file("config.yaml"))
    origin = problem.teacher.origin
    if origin is not None and folder.file("adapter").is_dir():
        parts = {**origin.parts, "adapter": folder.file("adapter")}
        origin = dataclasses.replace(origin, parts=parts)
    about = card.About(
        task.preset,
        METHODS[task.method].title,
        folder.result() or {},
        json.loads(folder.file("provenance.json").read_text()),
        papers.bibtex(_citations(task)),
        folder.file("samples.png"),
    )
    out = chosen.out or folder.file(f"export-{chosen.to}")
    done = export(student, chosen.to, out, origin=origin, about=about)
    console.print(
        f"written and compared: {done.folder} (largest difference {done.difference:.1e})",
        highlight=False,
        soft_wrap=True,
    )


def compare(arguments: list[str]) -> None:
    r"""Puts finished runs in one table and one plot."""
    parser = Parser(prog="compare")
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--metric", help="the metric of the plot; the problem's first by default")
    parser.add_argument("--out", default="runs/compare", help="the folder to write to")
    chosen = parser.parse_args(arguments)
    folders = [_run(path) for path in chosen.runs]
    rows, series, tasks = [], [], []
    for folder in folders:
        result = folder.result()
        if result is None:
            raise RunError(f"{folder.path} is not finished: only finished runs are compared")
        task = pipeline.load_task(folder.file("config.yaml"))
        tasks.append(task)
        rows.append(_row(folder, task, result))
        series.append((task.preset, folder.metrics()))
    names = {task.problem.name for task in tasks}
    if len(names) > 1:
        raise ConfigError(f"the runs are of different problems: {', '.join(sorted(names))}")
    headline = pipeline.PROBLEMS[type(tasks[0].problem)].headline
    metric = chosen.metric or headline[0]
    known = {m["name"] for folder in folders for m in (folder.result() or {})["metrics"]}
    if metric not in known:
        raise ConfigError(f"unknown metric {metric!r}; {nearest(metric, known)}")
    out = Path(chosen.out)
    out.mkdir(parents=True, exist_ok=True)
    picture = plots.comparison(series, [f"metric/{metric}"], out / "comparison.png")
    page = report.write_tables(
        out / "comparison.html",
        title="Comparison",
        tables=[("Measured", rows)],
        pictures=[(f"{metric} against cost", picture)],
    )
    _print("", rows)
    console.print(f"picture: {picture}\nreport:  {page}", highlight=False, soft_wrap=True)


def bake_off(arguments: list[str]) -> None:
    r"""Compares the arms of a contest under equal budgets; goes on where it stopped."""
    parser = Parser(prog="bake-off")
    parser.add_argument("contest", help=f"one of: {', '.join(CONTESTS)}")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each arm (5)")
    parser.add_argument("--seconds", type=float, help="budget of a run, in seconds of training")
    parser.add_argument("--calls", type=int, help="budget of a run, in rows of the teacher")
    parser.add_argument("--budgets", help=f"some of {','.join(bakeoff.BUDGETS)} (all that fit)")
    parser.add_argument("--teachers", help="some of the contest's, by commas (all)")
    parser.add_argument("--arms", help="some of the contest's, by commas (all)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (1)")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run on a CPU (1)")
    parser.add_argument("--samples", type=int, default=0, help="of the final measurement")
    parser.add_argument("--evaluations", type=int, default=6, help="on the way, of each run (6)")
    parser.add_argument("--no-study", action="store_true", help="leave out the gradients' study")
    parser.add_argument("--out", help="the folder to work in (runs/bake-off-CONTEST)")
    chosen = parser.parse_args(arguments)
    if chosen.contest not in CONTESTS:
        raise ConfigError(
            f"unknown contest {chosen.contest!r}; {nearest(chosen.contest, CONTESTS)}"
        )
    for name in ("seeds", "jobs", "threads", "evaluations"):
        if getattr(chosen, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, got {getattr(chosen, name)}")
    contest = CONTESTS[chosen.contest]
    bake = bakeoff.BakeOff(
        name=chosen.contest,
        contest=contest,
        out=Path(chosen.out or f"runs/bake-off-{chosen.contest}"),
        seeds=chosen.seeds,
        seconds=chosen.seconds or contest.seconds,
        rows=chosen.calls or contest.rows,
        budgets=_some(chosen.budgets, contest.budgets, "--budgets"),
        teachers=_some(chosen.teachers, contest.teachers, "--teachers"),
        arms=_some(chosen.arms, contest.arms, "--arms"),
        threads=chosen.threads,
        samples=chosen.samples,
        evaluations=chosen.evaluations,
    )
    for teacher in bake.teachers:
        task = pipeline.task_from_preset("distill", next(iter(PRESETS)))
        _teacher_first(dataclasses.replace(task, problem=contest.teachers[teacher]))
    bake.out.mkdir(parents=True, exist_ok=True)
    with bakeoff.alone(bake.out):
        todo = list(bakeoff.cells(bake, bakeoff.plan(bake)["prices"]))
        failures = bakeoff.carry_out(todo, chosen.jobs, console)
        found = {} if chosen.no_study else scoreboard.study(bake, todo, console)
        words, page, tables = scoreboard.write(bake, todo, found)
        more = {"gradients": found, "failures": failures}
        path = bakeoff.record(bake, todo, ["vardiu", "bake-off", *arguments], more)
    for title, lines in tables:
        _print(title, lines)
    where = f"table:   {words}\nnumbers: {path}\nreport:  {page}"
    console.print(where, highlight=False, soft_wrap=True)
    if failures:
        raise RunError(f"{len(failures)} runs failed:\n" + "\n".join(failures))


def _some(text: str | None, known: Iterable[str], option: str) -> tuple[str, ...]:
    r"""Returns the names that an option lists, all of them without it."""
    known = tuple(known)
    chosen = known if text is None else tuple(part.strip() for part in text.split(","))
    for name in chosen:
        if name not in known:
            raise ConfigError(f"{option}: unknown {name!r}; {nearest(name, known)}")
    return chosen


def _print(title: str, rows: Sequence[Mapping[str, str]]) -> None:
    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in rows[0]))
    # A wide table is better cut by the terminal than folded into columns of single letters.
    console.print(table, width=max(console.width, 160), crop=False)


def _row(folder: RunFolder, task: Task, result: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"run": str(folder.path), "method": task.method, "seed": task.run.seed}
    for metric in result["metrics"]:
        error = "" if metric["error"] is None else f" ± {metric['error']:.1g}"
        row[metric["name"]] = f"{metric['value']:.4g}{error}"
    cost = result["cost"]
    return row | {"seconds": round(cost["seconds"]), "teacher calls": cost["teacher_calls"]}
