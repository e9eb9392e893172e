r"""`vardiu restore`: images of measurements, with a teacher as what is known of them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cite import restoring
from ..data.measurements import GaussianNoise, Noise, PoissonNoise
from ..data.operators import Inpainting
from ..denoisers.base import Denoiser
from ..errors import ConfigError, Diverged, shown
from ..metrics import fingerprint
from ..problems.inverse import (
    OPERATORS,
    Measured,
    OperatorSettings,
    codec_of,
    greatest,
    image_shape,
    operator_of,
    read_images,
    read_measurements,
    refuse_missing,
)
from ..reports.html import write_tables
from ..reports.restorations import comparison_rows, restored_grid, step_curves
from ..runs.execute import device_of
from ..runs.progress import counted
from ..runs.restoring import (
    Arm,
    Restored,
    Subjects,
    Work,
    begun,
    png,
    refuse_other_folder,
    restore_arm,
)
from ..samplers.inverse import (
    SOLVERS,
    Codec,
    DiffStateGrad,
    Gradients,
    Solver,
    Unprojected,
    is_linear,
)
from ..storage.files import write_bytes_atomic, write_text_atomic
from ..storage.run_folder import RunFolder, refuse_all_but_a_run
from ..teachers.readers import load
from .console import console, print_rows
from .options import chosen_names
from .parser import Parser

__all__: list[str] = []


PROJECTIONS = ("none", "core", "tangent", "random")


# How often gradients are projected, unless told otherwise.
PERIODS: Mapping[str, int] = {"resample": 5}


def parser() -> Parser:
    made = Parser(prog="restore")
    made.add_argument("--teacher", required=True, metavar="SOURCE", help="what images look like")
    add = made.add_argument_group("what was measured").add_argument
    add(
        "--operator",
        required=True,
        metavar="NAME",
        help=f"{', '.join(OPERATORS)}, or FILE.py:NAME of your own or of deepinv",
    )
    add("--measurement", metavar="Y", help="a folder of pictures, one picture, .npy or .npz")
    add(
        "--truth",
        metavar="DATA",
        help="the true images: they are measured here unless --measurement is given, and what is "
        "restored is compared with them",
    )
    add("--num", type=int, help="how many are taken; of --truth 8 by default, else all")
    add("--noise", type=float, default=0.05, help="standard deviation of the noise (.05)")
    add("--poisson", type=float, metavar="GAIN", help="counts of light in place of that")
    for row in dataclasses.fields(OperatorSettings):
        kind = {"int": int, "float": float}.get(str(row.type), str)
        users = [name for name, entry in OPERATORS.items() if row.name in entry.settings]
        told = "" if row.default is None else f" ({row.default})"
        add(f"--{row.name}", type=kind, default=row.default, help=f"of {', '.join(users)}{told}")
    add = made.add_argument_group("how it is restored").add_argument
    add("--solver", default="dps", help=f"{', '.join(SOLVERS)}; several with commas")
    add("--projection", default="none", help=f"{', '.join(PROJECTIONS)}; several with commas")
    add("--step", help="step sizes, with commas; each solver's own by default")
    add("--steps", type=int, help="levels; each solver's own by default")
    add("--tau", type=float, default=0.99, help="energy that directions have (.99)")
    add("--period", type=int, help="every how many gradients are projected (1; resample 5)")
    add("--state", default="xt", help="xt or x0hat: whose directions (xt)")
    add("--rank-rule", default="per_channel", help="per_channel, or concat as released")
    add("--label", type=int, metavar="NUMBER", help="the class, of a teacher with classes")
    add("--prompt", help="the text, of a teacher of texts")
    add = made.add_argument_group("the run").add_argument
    add("--draws", type=int, default=1, help="restorations of each measurement (1)")
    add("--batch", type=int, default=16, help="images at once (16)")
    add("--seed", type=int, default=0, help="the seed (0)")
    add("--device", default="auto", metavar="NAME", help="auto, cpu, gpu, cuda, cuda:1 or mps")
    add("--threads", type=int, help="threads of the processor")
    add("--out", help="the folder; runs/restore-OPERATOR by default")
    return made


def restore(arguments: list[str]) -> None:
    r"""Restores measurements; writes images, what was measured of them, and a page."""
    chosen = parser().parse_args(arguments)
    device = _checked(chosen)
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    arms = arms_of(chosen)
    out = Path(chosen.out or f"runs/restore-{Path(chosen.operator).stem.partition(':')[0]}")
    alone = len(arms) == 1
    folders = [RunFolder(out if alone else out / arm.name) for arm in arms]
    for folder in folders:  # what needs no teacher is told before one is read
        refuse_all_but_a_run(folder.path)
    if not alone:
        refuse_other_folder(out)
    ground = ground_of(chosen, device)
    subjects, pictured = subjects_of(chosen, ground)
    makers = [maker(arm, chosen, ground) for arm in arms]
    totals = [moments(make()) for make in makers]
    works = [
        Work(folder, arm, make, subjects, ground.conditions, chosen.batch, device)
        for folder, arm, make in zip(folders, arms, makers, strict=True)
    ]
    results = []
    count = len(subjects.places())
    with contextlib.ExitStack() as opened:
        for work in works:  # what is refused is refused before anything is restored
            opened.enter_context(begun(work, _config(chosen, ground, work.arm)))
        steps = count * sum(totals)
        tell = opened.enter_context(counted(console, "restoring", steps, "step"))
        done = [0]

        def advance(steps: int, words: str) -> None:
            done[0] += steps
            tell(done[0], words)

        for work, total in zip(works, totals, strict=True):
            work.tell = advance
            before = done[0]
            results.append(attempt(work, arguments, alone))
            done[0] = before + count * total  # what was there already counts
    summarise(out, results, ground, subjects, pictured)


def attempt(work: Work, arguments: Sequence[str], alone: bool) -> Restored:
    r"""Restores an arm; one of several that diverges is told of, and the others go on."""
    try:
        return restore_arm(work, ["vardiu", "restore", *arguments])
    except Diverged as error:
        if alone:
            raise
        console.print(f"{work.arm.name}: {error}", highlight=False, markup=False, soft_wrap=True)
        return Restored(work.arm, [], torch.empty(0), f"diverged: {error}")


def _checked(chosen: argparse.Namespace) -> torch.device:
    r"""Returns the device; refuses numbers that are out of their range."""
    for option, value, least in (
        ("--num", chosen.num, 1),
        ("--steps", chosen.steps, 1),
        ("--draws", chosen.draws, 1),
        ("--batch", chosen.batch, 1),
        ("--period", chosen.period, 0),
        ("--seed", chosen.seed, 0),
        ("--threads", chosen.threads, 1),
    ):
        if value is not None and not least <= value <= 10**9:
            raise ConfigError(f"{option} must be at least {least}, got {value:,}")
    if chosen.measurement is None and chosen.truth is None:
        raise ConfigError("give --measurement, what was measured, or --truth, images to measure")
    for source in (chosen.measurement, chosen.truth):
        if source is not None:
            refuse_missing(source)
    return device_of(chosen.device)


def arms_of(chosen: argparse.Namespace) -> list[Arm]:
    r"""Returns every combination of the solvers, projections and step sizes that are named."""
    solvers = chosen_names(chosen.solver, SOLVERS, "--solver")
    projections = chosen_names(chosen.projection, PROJECTIONS, "--projection")
    steps: list[float | None] = [None]
    if chosen.step is not None:
        try:
            steps = [float(part) for part in chosen.step.split(",")]
        except ValueError:
            steps = [-1.0]
        if not all(step is not None and 0 < step < 1e6 for step in steps):
            raise ConfigError(f"--step: give numbers above 0, as .3,1,3, got {shown(chosen.step)}")
        if len(set(steps)) < len(steps):
            raise ConfigError(f"--step names a number twice: {shown(chosen.step)}")
    return [
        Arm(solver, projection, SOLVERS[solver].STEP if step is None else step)
        for solver in solvers
        for projection in projections
        for step in steps
    ]


class Ground(NamedTuple):
    r"""What all arms share."""

    source: str
    teacher: Denoiser
    codec: Codec
    shape: tuple[int, ...]
    measured: Measured
    noise: Noise
    conditions: Callable[[int], dict[str, Tensor]]


def ground_of(chosen: argparse.Namespace, device: torch.device) -> Ground:
    r"""Returns teacher, operator and noise of a command line.

    Raises:
        ConfigError: One of them cannot be had, or they do not fit.
    """
    teacher = load(chosen.teacher).to(device).eval().requires_grad_(False)
    codec = codec_of(teacher)
    shape = image_shape(teacher, codec, device)
    fields = [field.name for field in dataclasses.fields(OperatorSettings)]
    settings = OperatorSettings(**{name: getattr(chosen, name) for name in fields})
    measured = operator_of(chosen.operator, settings, shape)
    try:
        noise: Noise = GaussianNoise(chosen.noise)
        noise = noise if chosen.poisson is None else PoissonNoise(chosen.poisson)
    except ValueError as error:
        raise ConfigError(f"--noise, --poisson: {error}") from error
    cond = conditions_of(chosen, teacher, device)
    return Ground(chosen.teacher, teacher, codec, shape, measured, noise, cond)


def conditions_of(
    chosen: argparse.Namespace, teacher: Denoiser, device: torch.device
) -> Callable[[int], dict[str, Tensor]]:
    r"""Returns what makes the teacher's conditions of so many rows.

    Raises:
        ConfigError: It takes one that is not given, or not one that is.
    """
    origin, takes = teacher.origin, set(teacher.conditions)
    if chosen.prompt is not None:
        if getattr(origin, "encode", None) is None:
            raise ConfigError("--prompt: this teacher takes no text; leave it out")
        one = {name: value.to(device) for name, value in origin.encode([chosen.prompt]).items()}
        return lambda n: {k: v.expand(n, *v.shape[1:]) for k, v in one.items()}
    if not takes:
        if chosen.label is not None:
            raise ConfigError("--label: this teacher has no classes; leave it out")
        return lambda n: {}
    if takes != {"label"}:
        raise ConfigError("this teacher takes texts: give --prompt")
    label, classes = chosen.label, getattr(origin, "classes", 0)
    if label is None:
        label = getattr(origin, "null", None)
    elif not 0 <= label < max(classes, 1):
        raise ConfigError(f"--label must be within 0 and {classes - 1}, got {label}")
    if label is None:
        raise ConfigError(f"this teacher has {classes} classes: give --label, from 0")
    return lambda n: {"label": torch.full((n,), label, device=device)}


def subjects_of(chosen: argparse.Namespace, ground: Ground) -> tuple[Subjects, Tensor | None]:
    r"""Returns what is to be restored, and of what was measured what can be shown as pictures."""
    operator, noise = ground.measured.operator, ground.noise
    truth = None
    if chosen.truth is not None:
        few = chosen.num or (8 if chosen.measurement is None else None)
        names, truth = read_images(chosen.truth, ground.shape, few)
    if chosen.measurement is not None:
        limit = greatest(ground.measured, ground.shape, noise.sigma)
        names, y = read_measurements(chosen.measurement, ground.measured.shape, limit, chosen.num)
        if isinstance(operator, Inpainting):
            y = operator.A(y)  # whatever lies under the mask was not seen
        if truth is not None and len(truth) != len(y):
            raise ConfigError(
                f"--truth has {len(truth):,} images and --measurement {len(y):,}: one of each"
            )
    else:
        assert truth is not None
        with torch.no_grad():
            y = noise(operator.A(truth), torch.Generator().manual_seed(chosen.seed))
    pictured = y if y.ndim == 4 and y.shape[1] in (1, 3) else None
    return Subjects(names, y, truth, chosen.seed, chosen.draws), pictured


def maker(arm: Arm, chosen: argparse.Namespace, ground: Ground) -> Callable[[], Solver]:
    r"""Returns what makes an arm's solver, once tried.

    Raises:
        ConfigError: The solver cannot take this operator, or a setting is out of its range.
    """

    def make() -> Solver:
        period = chosen.period if chosen.period is not None else PERIODS.get(arm.solver, 1)
        gradients: Gradients = Unprojected()
        if arm.projection != "none":
            gradients = DiffStateGrad(
                chosen.tau,
                period,
                mode="tangent" if arm.projection == "tangent" else "core",
                rank_rule=chosen.rank_rule,
                state=chosen.state,
                control=chosen.seed if arm.projection == "random" else None,
            )
        return SOLVERS[arm.solver](
            ground.teacher,
            ground.measured.operator,
            steps=chosen.steps,
            step=arm.step,
            noise=ground.noise.sigma,
            gradients=gradients,
            codec=ground.codec,
            weigh=ground.noise.weight if chosen.poisson is not None else None,
        )

    try:
        make()
    except (TypeError, ValueError) as error:
        raise ConfigError(f"--solver {arm.solver}: {error}") from error
    return make


def moments(solver: Solver) -> int:
    r"""Returns the number of steps that a solver tells of."""
    return len(solver.levels) - int(bool(solver.levels[-1] == 0))


def _config(chosen: argparse.Namespace, ground: Ground, arm: Arm) -> dict[str, Any]:
    r"""Returns the settings by which an arm's folder is known again."""
    projected = arm.projection != "none"
    period = chosen.period if chosen.period is not None else PERIODS.get(arm.solver, 1)
    projection = {
        "tau": chosen.tau,
        "period": period,
        "state": chosen.state,
        "rank_rule": chosen.rank_rule,
    }
    return {
        "command": "restore",
        "teacher": ground.source,
        "weights": fingerprint(_weights(ground.teacher)),
        "operator": dict(ground.measured.about),
        "linear": is_linear(ground.measured.operator),
        "noise": chosen.noise if chosen.poisson is None else {"poisson": chosen.poisson},
        "solver": arm.solver,
        "step": arm.step,
        "steps": chosen.steps or SOLVERS[arm.solver].STEPS,
        "projection": {"kind": arm.projection, **(projection if projected else {})},
        "label": chosen.label,
        "prompt": chosen.prompt,
        "seed": chosen.seed,
        "draws": chosen.draws,
    }


def _weights(teacher: Denoiser) -> Tensor:
    r"""Returns sums of a teacher's tensors, by which another one of the same name is told."""
    sums = [tensor.detach().double().sum().cpu() for tensor in teacher.state_dict().values()]
    return torch.stack(sums) if sums else torch.zeros(1)


def summarise(
    out: Path,
    results: Sequence[Restored],
    ground: Ground,
    subjects: Subjects,
    pictured: Tensor | None,
) -> None:
    r"""Writes results, citations, pictures and a page, and prints the table."""
    level = ground.noise.sigma
    rows = [
        {
            **dataclasses.asdict(result.arm),
            "metrics": [metric.row() for metric in result.metrics(level)],
            "note": result.note,
        }
        for result in results
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_text_atomic(out / "results.json", json.dumps(rows, indent=2) + "\n")
    papers = {k: v for r in results for k, v in restoring(*r.arm.used()).items()}
    write_text_atomic(out / "citations.bib", "\n\n".join(papers.values()) + "\n")
    if pictured is not None:
        folder = out / "measured"
        folder.mkdir(exist_ok=True)
        for name, seen in zip(subjects.names, pictured, strict=True):
            write_bytes_atomic(folder / f"{name}.png", png(seen))
    sets = [] if pictured is None else [("measured", pictured.numpy())]
    sets += [
        (result.arm.name, result.images[:: subjects.draws].numpy())
        for result in results
        if len(result.images) and result.images.shape[1] in (1, 3)
    ]
    sets += [] if subjects.truth is None else [("truth", subjects.truth.numpy())]
    pictures = [("Side by side", restored_grid(sets, out / "restored.png"))] if sets else []
    if len(results) > 1 and any(result.images.numel() for result in results):
        curves = step_curves(rows, out / "curves.png")
        pictures = [("Quality by step size", curves), *pictures]
    table = comparison_rows(rows)
    title = f"Restored by {shown(ground.source)}"
    write_tables(out / "report.html", title=title, tables=[("Measured", table)], pictures=pictures)
    names = list(dict.fromkeys(key for row in table for key in row))
    print_rows("restored", [{name: str(row.get(name, "")) for name in names} for row in table])
    told = f"written: {shown(out / 'report.html')}"
    console.print(told, highlight=False, markup=False, soft_wrap=True)


COMMANDS = {"restore": restore}
