r"""From measurements to restored images in a folder, a batch at a time.

An image is finished when its `.json` is there, which is written last; a command that is given
again skips it. What is drawn of a measurement depends on its name, the seed and the number of the
draw, and not on what else is restored with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import RunError, shown
from ..functional.inverse import row_norm
from ..metrics import Metric, fingerprint
from ..metrics.fidelity import mean_of, psnr, ssim
from ..samplers.inverse import RowNoise, Solver
from ..storage.bounded import DAMAGED, read_json
from ..storage.files import whole_file, write_bytes_atomic, write_text_atomic
from ..storage.finished import describe, is_finished, refuse_foreign
from ..storage.provenance import provenance
from ..storage.run_folder import RunFolder

__all__ = ["Arm", "Restored", "Subjects", "Work", "begun", "png", "refuse_other_folder"]
__all__ += ["restore_arm"]


# Moments of a restoration that are kept as pictures.
MOMENTS = 8


@dataclass(frozen=True)
class Arm:
    r"""A solver with what is done to its gradients, and its step size.

    Arguments:
        solver: The name of the solver.
        projection: `none`, `core`, `tangent`, or `random` for directions of the same rank.
        step: The step size; the solver's own if none is given.
    """

    solver: str
    projection: str
    step: float

    @property
    def name(self) -> str:
        r"""The name of its folder."""
        return f"{self.solver}-{self.projection}-{self.step:g}"

    def used(self) -> tuple[str, str]:
        r"""Returns solver and projection, by which papers are found."""
        return self.solver, self.projection


@dataclass(frozen=True)
class Subjects:
    r"""What is to be restored.

    Arguments:
        names: The name of each measurement.
        y: The measurements, with shape :math:`(N, *)`.
        truth: The true images, with shape :math:`(N, C, H, W)`; none where nobody knows them.
        seed: The seed.
        draws: Restorations of each.
    """

    names: Sequence[str]
    y: Tensor
    truth: Tensor | None
    seed: int
    draws: int

    def places(self) -> list[tuple[int, int]]:
        r"""Returns measurement and draw of each image to be made."""
        return [(i, draw) for i in range(len(self.names)) for draw in range(self.draws)]

    def called(self, place: tuple[int, int]) -> str:
        r"""Returns the name of the files of an image."""
        i, draw = place
        return self.names[i] if self.draws == 1 else f"{self.names[i]}-draw{draw}"

    def seed_of(self, place: tuple[int, int]) -> int:
        r"""Returns the seed of an image: that of its name, wherever it stands."""
        text = f"{self.seed}/{self.names[place[0]]}/{place[1]}"
        return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


class Restored(NamedTuple):
    r"""What an arm has made.

    Arguments:
        arm: The arm.
        rows: What was measured of each image, see `measured`.
        images: The restored images, with shape :math:`(M, C, H, W)`.
        note: Why there are none, where there are none.
    """

    arm: Arm
    rows: Sequence[Mapping[str, Any]]
    images: Tensor
    note: str = ""

    def metrics(self, noise: float) -> list[Metric]:
        r"""Returns the means over images, with their standard errors: draws of one measurement are
        averaged first."""
        found = []
        for name, better, note in (
            ("psnr", True, "decibels, of white less black"),
            ("ssim", True, ""),
            ("residual", None, f"root mean square of y - A(x); the noise is {noise:g}"),
            ("rank", None, "of the projection, mean of a run"),
            ("passed", None, "share of the gradient's norm that the projection lets through"),
        ):
            values: dict[str, list[float]] = {}
            for row in self.rows:
                if row.get(name) is not None:
                    values.setdefault(row["of"], []).append(row[name])
            if values:
                means = torch.tensor([sum(v) / len(v) for v in values.values()])
                found.append(mean_of(name, means, better, note))
        return found


@dataclass
class Work:
    r"""One arm's folder, and what is to be done in it.

    Arguments:
        folder: The folder.
        arm: The arm.
        make: Makes the solver, anew for each batch: it keeps a log of what it projects.
        subjects: What is restored.
        cond: Makes the denoiser's conditions of so many rows.
        batch: Images at once.
        device: Where.
        tell: Is told of each step: how many images take it, and words where one is finished.
    """

    folder: RunFolder
    arm: Arm
    make: Callable[[], Solver]
    subjects: Subjects
    cond: Callable[[int], dict[str, Tensor]]
    batch: int
    device: torch.device
    tell: Callable[[int, str], None] = field(default=lambda count, words: None)

    def finished(self, place: tuple[int, int]) -> bool:
        r"""Whether an image is there, of the measurement that is asked for.

        Raises:
            RunError: It is of another measurement, or damaged.
        """
        path = self.folder.file(f"{self.subjects.called(place)}.json")
        return is_finished(path, {"measurement": fingerprint(self.subjects.y[place[0]])})

    def pending(self) -> list[tuple[int, int]]:
        r"""Returns the images that are not there yet."""
        return [place for place in self.subjects.places() if not self.finished(place)]


def refuse_other_folder(out: Path) -> None:
    r"""Raises a `RunError` if a folder that is to hold several arms holds something else: their
    tables would be written over it."""
    if RunFolder(out).exists:
        raise RunError(
            f"{shown(out)} holds a run, and those of several solvers or steps are put into "
            "folders in it. Give another folder with --out"
        )
    inner = (RunFolder(path.parent) for path in out.glob("*/config.yaml"))
    if not any(folder.config().get("command") == "restore" for folder in inner):
        refuse_foreign(out, "run", "config.yaml")


@contextlib.contextmanager
def begun(work: Work, config: Mapping[str, Any]) -> Iterator[None]:
    r"""Opens an arm's folder, of which this process is then the only writer; one in which nothing
    was made goes at the end.

    Arguments:
        work: The arm.
        config: Its settings, by which its folder is known again.

    Raises:
        RunError: The folder holds something else, or images of other measurements.
    """
    with work.folder.lock():
        try:
            work.folder.open(config)
            work.pending()
            yield
        finally:
            work.folder.remove_if_bare()


def restore_arm(work: Work, command: Sequence[str]) -> Restored:
    r"""Restores what is not there yet, and returns all that is.

    Arguments:
        work: The arm, whose folder is open, see `begun`.
        command: The command that was typed, for the provenance.

    Raises:
        Diverged: A restoration is not finite.
    """
    pending = set(work.pending())
    about = work.folder.file("provenance.json")
    if not about.is_file():
        made = provenance(command, work.subjects.seed)
        write_text_atomic(about, json.dumps(made, indent=2) + "\n")
    places = work.subjects.places()
    for start in range(0, len(places), work.batch):
        # The batches of a run that was never stopped: in another one, sums of a network are
        # rounded otherwise.
        batch = places[start : start + work.batch]
        if missing := pending.intersection(batch):
            restore_batch(work, batch, missing)
    return kept(work)


def restore_batch(
    work: Work, places: Sequence[tuple[int, int]], missing: Collection[tuple[int, int]]
) -> None:
    r"""Restores some measurements together, and writes each that is missing."""
    solver, subjects = work.make(), work.subjects
    y = subjects.y[[i for i, _ in places]].to(work.device)
    noise = RowNoise([subjects.seed_of(place) for place in places])
    started, moments = time.monotonic(), []
    chosen: set[int] = set()
    for moment in solver(y, noise, **work.cond(len(places))):
        if not chosen:
            chosen = {round(k * (moment.total - 1) / (MOMENTS - 1)) + 1 for k in range(MOMENTS)}
        if moment.done in chosen:
            with torch.no_grad():
                moments.append(solver.codec.decode(moment.clean).float().cpu())
        work.tell(len(places), "")
    images = moments[-1]
    seconds = (time.monotonic() - started) / len(places)
    rows = measured(solver, subjects, places, images)
    for k, place in enumerate(places):
        if place not in missing:
            continue
        write_image(work.folder, subjects.called(place), images[k], [m[k] for m in moments])
        row = {**rows[k], "seconds": round(seconds, 3), "seed": subjects.seed_of(place)}
        describe(work.folder.file(f"{subjects.called(place)}.json"), row)
        work.tell(0, f"{work.arm.name}: {shown(subjects.called(place))}{in_words(row)}")


def in_words(row: Mapping[str, Any]) -> str:
    r"""Returns what a line of progress says of an image."""
    quality = "" if row["psnr"] is None else f"PSNR {row['psnr']:.1f} dB, "
    return f", {quality}residual {row['residual']:.3g}"


@torch.no_grad()
def measured(
    solver: Solver, subjects: Subjects, places: Sequence[tuple[int, int]], images: Tensor
) -> list[dict[str, Any]]:
    r"""Returns what is measured of each image: PSNR and SSIM where the truth is known, the root
    mean square of what the measurement misses, and the projection's rank and share."""
    which = [i for i, _ in places]
    y = subjects.y[which]
    device = next((t.device for t in solver.denoiser.buffers()), torch.device("cpu"))
    made = solver.operator.A(images.to(device)).cpu()
    residual = row_norm(y - made) / y[0].numel() ** 0.5
    truth = None if subjects.truth is None else subjects.truth[which]
    quality = None if truth is None else (psnr(images, truth), ssim(images, truth))
    passed = getattr(solver.gradients, "passed", [])
    logged = None
    if passed:
        ranks = torch.stack([one.rank.float() for one in passed]).mean(0)
        logged = ranks, torch.stack([one.share for one in passed]).mean(0)
    return [
        {
            "of": subjects.names[i],
            "measurement": fingerprint(subjects.y[i]),
            "psnr": None if quality is None else quality[0][k].item(),
            "ssim": None if quality is None else quality[1][k].item(),
            "residual": residual[k].item(),
            "rank": None if logged is None else logged[0][k].item(),
            "passed": None if logged is None else logged[1][k].item(),
        }
        for k, i in enumerate(which)
    ]


def write_image(folder: RunFolder, name: str, image: Tensor, moments: Sequence[Tensor]) -> None:
    r"""Writes an image as an array, and as pictures where it has one channel or three."""
    with whole_file(folder.file(f"{name}.npz")) as partial:
        np.savez_compressed(partial, x=image.numpy())
    if len(image) in (1, 3):
        write_bytes_atomic(folder.file(f"{name}.png"), png(image))
        write_bytes_atomic(folder.file(f"{name}-steps.png"), png(torch.cat(list(moments), dim=2)))


def png(image: Tensor) -> bytes:
    r"""Returns an image `(C, H, W)` in [-1, 1] as the bytes of a PNG of its own size."""
    levels = ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels).save(buffer, "PNG")
    return buffer.getvalue()


def kept(work: Work) -> Restored:
    r"""Returns what an arm's folder holds of what was asked for."""
    rows, images = [], []
    for place in work.subjects.places():
        name = work.subjects.called(place)
        rows.append(read_json(work.folder.file(f"{name}.json"), error=RunError))
        path = work.folder.file(f"{name}.npz")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                images.append(torch.from_numpy(arrays["x"]))
        except DAMAGED as error:
            raise RunError(f"{shown(path)} is damaged: remove it with its .json") from error
    return Restored(work.arm, rows, torch.stack(images))
