r"""`vardiu sample`."""

from __future__ import annotations

import contextlib
import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import ConfigError, shown
from ..settings.ranges import RANGES, Range
from ..storage.files import new_file, refuse_unwritable, whole_file
from .console import console
from .folders import (
    asked,
    is_measured,
    refuse_foreign_files,
    run_or_published,
    trained_student,
    write_measured,
)
from .guiding import add_guide_options, guide_rows, guided, tag_of
from .options import add_student_options
from .parser import Parser

__all__ = ["add_calls_option", "of_calls", "refuse_out_of_range"]


# Classes that a line names.
MOST = 8


def sample(arguments: list[str]) -> None:
    r"""Draws samples; writes an array and a picture."""
    parser = _sample_parser()
    chosen = parser.parse_args(arguments)
    refuse_out_of_range(chosen.num, chosen.seed, 1, chosen.calls)
    folder = run_or_published(chosen.run)
    if chosen.out:
        path = Path(chosen.out)
        if path.suffix != ".npz":
            raise ConfigError(f"--out must end in .npz, got {shown(path)}")
        for suffix in (".npz", ".png", *([".json"] if chosen.guide else [])):
            new_file(path.with_suffix(suffix))
    student, problem, _ = trained_student(folder, chosen, chosen.prompt)
    student = asked(student, chosen.calls, chosen.guidance)
    guide = guided(student, chosen, problem)
    if chosen.label:
        problem.data.choose_classes(chosen.label)
    numbers, names = problem.data.chosen or (), problem.data.names
    if not chosen.out:
        of = "".join(f"-label{number}" for number in numbers) + of_prompts(chosen.prompt or ())
        of = of_calls(chosen.calls, chosen.guidance) + tag_of(guide) + of
        path = folder.file(f"samples-{chosen.num}-seed{chosen.seed}{of}.npz")
        refuse_foreign_files(path, is_samples, [".png"], OR_ELSEWHERE)
        if guide is not None:
            refuse_foreign_files(path.with_suffix(".json"), is_measured, cure=OR_ELSEWHERE)
    picture = path.with_suffix(".png")
    refuse_unwritable(path.parent)
    random = torch.Generator().manual_seed(chosen.seed)
    sampled = student if guide is None else guide.student
    x, cond = problem.student_source(sampled)(chosen.num, random)
    arrays = {
        "x": problem.space.images(x).numpy(),
        **{name: value.numpy() for name, value in cond.items()},
    }
    if chosen.guidance is not None:
        arrays["guidance"] = np.array(chosen.guidance)
    if "label" in arrays and names:
        arrays["names"] = np.array(names)
    told = f"samples: {shown(path)}\npicture: {shown(picture)}"
    of = ""
    if numbers:
        of = f" of {in_words(numbers, names)}"
        told += f"\nclasses: {in_words(numbers, names, numbered=True)}"
    with written_together(path, arrays, fresh=bool(chosen.out)):
        if guide is not None:
            content = {"num": chosen.num, "seed": chosen.seed, **guide_rows(guide)}
            beside = path.with_suffix(".json")
            write_measured(beside, ["sample", *arguments], content)
            told += f"\nwritten: {shown(beside)}\n{guide.told()}"
        problem.scores.plot_samples(x, picture, of)
    console.print(told, highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def written_together(
    path: Path, arrays: Mapping[str, np.ndarray], *, fresh: bool
) -> Iterator[None]:
    r"""Writes samples, and what is written within beside them under the same name.

    Arguments:
        path: The file of the samples.
        arrays: What it holds.
        fresh: Whether nothing of it may be there, and nothing stays of a failure.
    """
    with whole_file(path, fresh=fresh) as partial:
        np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]  # no array is its flag
    try:
        yield
    except BaseException:
        for suffix in (".npz", ".png", ".json") if fresh else ():
            path.with_suffix(suffix).unlink(missing_ok=True)
        raise


def of_prompts(prompts: Sequence[str]) -> str:
    r"""Returns what the name of a file says of texts: the first one's first words, and a hash of
    all, so that the samples of no others have that name."""
    if not prompts:
        return ""
    words = re.sub(r"[^a-z0-9]+", "-", prompts[0].lower())[:24].strip("-")
    digest = hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:8]
    return "-" + "-".join(part for part in ("prompt", words, digest) if part)


OR_ELSEWHERE = ", or give another file with --out"


def is_samples(path: Path) -> bool:
    r"""Whether a file holds samples as this command writes them."""
    try:
        with zipfile.ZipFile(path) as file:
            return "x.npy" in file.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def _sample_parser() -> Parser:
    parser = Parser(prog="sample")
    parser.add_argument("run")
    parser.add_argument("--num", type=int, default=64, help="number of samples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the latents")
    parser.add_argument(
        "--out", help="the .npz file to write; a new one beside the run by default"
    )
    parser.add_argument("--prompt", action="append", help="a text; may be given several times")
    parser.add_argument(
        "--label",
        metavar="CLASS",
        action="append",
        help="a class, by its name or number; may be given several times; all of them in turn by "
        "default",
    )
    add_calls_option(parser)
    add_guide_options(parser)
    add_student_options(parser)
    return parser


def in_words(numbers: Sequence[int], names: Sequence[str], *, numbered: bool = False) -> str:
    r"""Returns classes as one line shows them: by their names where they have some.

    Arguments:
        numbers: Their numbers, in turn.
        names: The names of all classes.
        numbered: Whether the numbers are shown beside the names.
    """
    once = dict.fromkeys(numbers)
    words = [
        f"{shown(names[i])}{f' (number {i})' if numbered else ''}" if names else f"class {i}"
        for i in once
    ]
    return ", ".join([*words[:MOST], *(["..."] if len(words) > MOST else [])])


def add_calls_option(parser: Parser, several: bool = False) -> None:
    r"""Adds `--calls`, of one number or of several, and `--guidance`."""
    parser.add_argument(
        "--calls",
        type=str if several else int,
        metavar="N,M,..." if several else "N",
        help="calls of the network a sample; of a student that knows more than one number of them"
        + ("; several for a figure of quality against calls, beside the teacher" * several),
    )
    parser.add_argument(
        "--guidance",
        type=float,
        metavar="SCALE",
        help="the scale of guidance, of a student whose network is told it (--method lcm); 1 for "
        "none",
    )


def of_calls(calls: int | str | None, guidance: float | None = None) -> str:
    r"""Returns what the name of a file has of the calls, one number or several with dashes between
    them, and of the scale that are asked for."""
    told = "" if guidance is None else f"-guidance{guidance:g}"
    return ("" if calls is None else f"-calls{calls}") + told


def refuse_out_of_range(num: int, seed: int, least: int, calls: int | None) -> None:
    r"""Raises a `ConfigError` if a number of a command line is out of its range.

    Arguments:
        num: The number of samples.
        seed: The seed.
        least: The least number of samples.
        calls: The number of calls; none where it is not given.
    """
    for option, value, allowed in (
        ("--num", num, Range(least, 1_000_000_000)),
        ("--seed", seed, RANGES["seed"]),
        ("--calls", calls, RANGES["calls"]),
    ):
        refusal = None if value is None else allowed.refusal(value)
        if refusal is not None:
            raise ConfigError(f"{option} must {refusal}, got {value:,}")


COMMANDS = {"sample": sample}
