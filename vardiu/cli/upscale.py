r"""`vardiu upscale`: photographs of any size, enlarged by a student of small images."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import __version__
from ..data.degradations import enlarged
from ..data.images import Corrupt, channels_of, decode, to_tensor
from ..errors import ConfigError, Interrupted, RunError, shown
from ..problems.restoration import RestorationProblem, restored
from ..runs.progress import counted
from ..settings.ranges import RANGES
from ..storage.bounded import read_bytes
from ..storage.checkpoints import digest_of_file
from ..storage.finished import describe, is_finished, sole_writer, whole_folder
from ..storage.interrupts import Wish, wish_to_stop
from ..storage.png import PNGRows
from ..students.restorer import Restorer
from ..students.tiles import Tiles, bands
from .console import console
from .folders import existing_run, trained_student
from .options import add_student_options
from .parser import Parser

__all__: list[str] = []


# The largest side of a panel of the picture of before and after, in pixels.
PANEL = 768


# Rows of a photograph beside a band that its enlargement looks at.
REACH = 3


# What is in the folder of a photograph.
PICTURE, PAIR, ABOUT = "upscaled.png", "before-after.png", "about.json"


@dataclasses.dataclass(frozen=True)
class Job:
    r"""A photograph, and the folder that what is made of it gets."""

    source: Path
    folder: Path
    about: Mapping[str, Any]

    @property
    def is_finished(self) -> bool:
        r"""Whether it was made before, of the same photograph by the same student.

        Raises:
            RunError: The folder holds something else.
        """
        if is_finished(self.folder / ABOUT, self.about, self.folder):
            return True
        if self.folder.exists() or self.folder.is_symlink():
            raise RunError(
                f"{shown(self.folder)} exists and is of no photograph; give another with --out"
            )
        return False


def upscale(arguments: list[str]) -> None:
    r"""Enlarges photographs; goes on where it stopped."""
    parser = Parser(prog="upscale")
    parser.add_argument("run", help="a run of a student that restores images (d3sr, osediff)")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="photographs, of any size")
    parser.add_argument("--out", help="the folder to write to; RUN/upscaled by default")
    parser.add_argument("--batch", type=int, default=128, help="tiles at once (128)")
    parser.add_argument("--threads", type=int, help="threads of torch on a CPU")
    add_student_options(parser)
    chosen = parser.parse_args(arguments)
    for option, value, name in (
        ("--batch", chosen.batch, "batch"),
        ("--threads", chosen.threads, "threads"),
    ):
        wrong = None if value is None else RANGES[name].refusal(value)
        if wrong:
            raise ConfigError(f"{option} must {wrong}, got {value:,}")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    folder = existing_run(chosen.run)
    student, problem, _ = trained_student(folder, chosen)
    if not isinstance(student, Restorer) or not isinstance(problem, RestorationProblem):
        raise ConfigError(
            f"{shown(folder.path)} is of a student that draws images and restores none: give a "
            "run of vardiu distill restoration, or patches-d3sr"
        )
    if student.conditions:
        raise ConfigError(f"{shown(folder.path)} is of a student that asks for a class: none is")
    out = Path(chosen.out or folder.file("upscaled"))
    # A third faster on a CPU.
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    weights = digest_of_file(folder.file("student") / "model.safetensors")["sha256"]
    jobs = jobs_of(chosen.images, out, {"student": weights, "factor": student.factor})
    photographs = [(job, job.is_finished) for job in jobs]
    for job, _ in photographs:
        photograph(job.source, problem, student.factor)  # all are looked at before any is made
    with sole_writer(out), wish_to_stop() as wish:
        for job, finished in photographs:
            if finished:
                told = f"{shown(job.source)}: {shown(job.folder)} is there already"
            else:
                seconds = enlarge(job, student, problem, chosen.batch, wish)
                told = f"{shown(job.source)}: {shown(job.folder / PICTURE)}, {seconds:.0f} s"
            console.print(told, highlight=False, markup=False, soft_wrap=True)


def jobs_of(images: Sequence[str], out: Path, about: Mapping[str, Any]) -> list[Job]:
    r"""Returns what there is to do.

    Raises:
        ConfigError: A photograph is not there, or two have one name.
    """
    jobs: dict[str, Job] = {}
    for image in images:
        source = Path(image)
        if not source.is_file():
            raise ConfigError(f"there is no photograph at {shown(source)}")
        name = source.name
        if name in jobs:
            raise ConfigError(
                f"two photographs are named {shown(name)}, {shown(jobs[name].source)} and "
                f"{shown(source)}: give them folders of their own with --out, one after the other"
            )
        digest = hashlib.sha256(read_bytes(source, "image bytes")).hexdigest()
        jobs[name] = Job(source, out / name, {"photograph": digest, **about})
    return list(jobs.values())


def photograph(source: Path, problem: RestorationProblem, factor: int) -> Tensor:
    r"""Returns a photograph in [-1, 1], `(C, H, W)`.

    Raises:
        ConfigError: It cannot be read, is too small, has an alpha channel, or is in colour and the
            student is of grey images.
    """
    name, (channels, height, width) = shown(source), problem.space.image_shape
    try:
        image = decode(read_bytes(source, "image bytes"), str(source))
        if image.has_transparency_data:
            raise ConfigError(
                f"{name} has an alpha channel, and what lies behind it is not known: save it "
                "without one"
            )
        if channels == 1 and channels_of(image) == 3:
            raise ConfigError(
                f"{name} is in colour, and the student is of grey images: save it so"
            )
        if image.height * factor < height or image.width * factor < width:
            raise ConfigError(
                f"{name} has {image.width}x{image.height} pixels, and at least "
                f"{-(-width // factor)}x{-(-height // factor)} are enlarged {factor} times"
            )
        return to_tensor(image, (channels, image.height, image.width), name=str(source))
    except Corrupt as error:
        raise ConfigError(str(error)) from error


def enlarge(
    job: Job, student: Restorer, problem: RestorationProblem, batch: int, wish: Wish
) -> float:
    r"""Writes what a student makes of a photograph, whole or not at all; returns the seconds.

    Raises:
        Interrupted: The process was asked to stop; what is finished stays.
        RunError: What the student makes is not finite.
    """
    begun, factor = time.perf_counter(), student.factor
    x = photograph(job.source, problem, factor)
    channels, height, width = x.shape[0], x.shape[1] * factor, x.shape[2] * factor
    side, other = problem.space.image_shape[1:]
    tiles = Tiles.of_side(min(side, other))

    def made(part: Tensor) -> Tensor:
        return problem.space.images(restored(student, problem.space, part, {}))

    with whole_folder(job.folder) as place:
        panels = Panels(height, width)
        total, done = len(tiles.starts(height)), 0
        with (
            counted(console, shown(job.source.name), total, "band") as tell,
            open(place / PICTURE, "wb") as file,
            PNGRows(file, width, height, channels) as png,
        ):
            shown_rows = rows_of(x, factor)
            for band in bands(made, shown_rows, (height, width), tiles, batch):
                if wish.asked:
                    raise Interrupted(f"stopped at {shown(job.source)}: the same command goes on")
                if not bool(band.isfinite().all()):
                    raise RunError(f"{shown(job.source)}: what the student makes is not finite")
                png.write(as_bytes(band))
                panels.add(band)
                done += 1
                tell(done, "")
        panels.write(x, factor, place / PAIR)
        seconds = time.perf_counter() - begun
        about = {**job.about, "version": __version__, "tiles": tiles._asdict()}
        about |= {"size": [width, height], "seconds": round(seconds, 1)}
        describe(place / ABOUT, about)
    return seconds


def rows_of(x: Tensor, factor: int) -> Callable[[int, int], Tensor]:
    r"""Returns a function of two rows to the rows between them of an enlarged photograph.

    They are those of the whole photograph's enlargement, of which no more is made.

    Arguments:
        x: The photograph, with shape :math:`(C, H, W)`.
        factor: How many times it is enlarged.
    """

    def rows(begin: int, end: int) -> Tensor:
        first = max(0, begin // factor - REACH)
        last = min(x.shape[1], -(-end // factor) + REACH)
        part = enlarged(x[None, :, first:last], factor)[0]
        return part[:, begin - first * factor : end - first * factor]

    return rows


def as_bytes(band: Tensor) -> np.ndarray:
    r"""Returns a band in [-1, 1], `(C, h, W)`, as bytes `(h, W, C)`."""
    scaled = ((band.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return scaled.permute(1, 2, 0).contiguous().numpy()


class Panels:
    r"""The middle of what is made, beside that of the photograph enlarged by a bicubic filter.

    Arguments:
        height: The height of what is made.
        width: Its width.
    """

    def __init__(self, height: int, width: int) -> None:
        h, w = min(PANEL, height), min(PANEL, width)
        self.top, self.left = (height - h) // 2, (width - w) // 2
        self.size, self.row = (h, w), 0
        self.parts: list[Tensor] = []

    def add(self, band: Tensor) -> None:
        r"""Keeps what of a further band is in the middle."""
        h, w = self.size
        begin, self.row = self.row, self.row + band.shape[1]
        first, last = max(self.top, begin), min(self.top + h, self.row)
        if first < last:
            part = band[:, first - begin : last - begin, self.left : self.left + w]
            self.parts.append(part.clone())

    def write(self, x: Tensor, factor: int, path: Path) -> None:
        r"""Draws both, the photograph on the left."""
        h, w = self.size
        rows = rows_of(x, factor)(self.top, self.top + h)
        before = rows[:, :, self.left : self.left + w].clamp(-1, 1)
        line = torch.ones(len(x), h, 8)
        pixels = as_bytes(torch.cat([before, line, torch.cat(self.parts, dim=1)], dim=2))
        Image.fromarray(pixels.squeeze(-1) if len(x) == 1 else pixels).save(path)


COMMANDS = {"upscale": upscale}
