r"""`vardiu cache`."""

from __future__ import annotations

import argparse

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..data.images import Records
from ..data.kept_rows import KeptRows
from ..data.sources import records
from ..data.texts import open_prompts
from ..errors import ConfigError, amount, known, shown
from ..problems.caching import DTYPES, keep_latents, keep_negative, keep_texts
from ..reports.estimates import bytes_of
from ..runs.errors import errors
from ..runs.execute import device_of
from ..storage.artefacts import Artefacts
from ..teachers.origin import Origin
from ..teachers.parts import Parts
from ..teachers.readers import surroundings
from .console import console
from .parser import Parser

__all__: list[str] = []


def cache(arguments: list[str]) -> None:
    r"""Encodes prompts and images once, so that a training loads no encoder."""
    chosen = cache_parser().parse_args(arguments)
    if chosen.prompts is None and chosen.data is None:
        raise ConfigError("give --prompts FILE, --data SOURCE, or both: what is to be encoded")
    for name in ("batch", "corrupt"):
        least = 1 if name == "batch" else 0
        if getattr(chosen, name) < least:
            raise ConfigError(f"--{name} must be at least {least}, got {getattr(chosen, name)}")
    chosen.dtype = known(chosen.dtype, DTYPES, "value of --dtype:")
    device = device_of(chosen.device)
    # What cannot be read is refused before a teacher of gigabytes is.
    prompts = None if chosen.prompts is None else open_prompts(chosen.prompts, chosen.cache)
    images = None if chosen.data is None else records(chosen.data)
    origin, shape = surroundings(chosen.teacher)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        artefacts = Artefacts(progress=Told(bar), stopping=lambda: errors.print(STOPPING))
        if prompts is not None:
            if origin.encode is not None and isinstance(origin.parts, Parts):
                origin.parts.place("text_encoder", device)
            root, dtype = chosen.cache, chosen.dtype
            kept = keep_texts(root, origin, prompts, dtype, chosen.batch, artefacts)
            tell(kept, f"embeddings of {amount(len(kept), 'prompt')} of {shown(chosen.prompts)}")
            keep_negative(root, origin, chosen.negative, dtype, artefacts)
            empty, line = prompts.empty
            if empty:
                told = f"{empty:,} empty lines are left out, the first is line {line:,}"
                console.print(told, highlight=False)
            origin.release()
        if images is not None:
            tell(*latents(shape, origin, images, chosen, artefacts, device))


STOPPING = "stopping after the shard at hand; a second time stops now"


def latents(
    shape: tuple[int, ...],
    origin: Origin,
    images: Records,
    chosen: argparse.Namespace,
    artefacts: Artefacts,
    device: torch.device,
) -> tuple[KeptRows, str]:
    r"""Makes the latents of images; returns them, and what they are."""
    if origin.decode is None:
        raise ConfigError(f"{shown(chosen.teacher)} is of images, not latents: leave --data out")
    near = device if origin.kind == "diffusers" else torch.device("cpu")
    with torch.no_grad():
        pixels = origin.decode(torch.zeros(1, *shape, device=near)).shape[1:]
    if len(pixels) != 3:
        raise ConfigError(f"{shown(chosen.teacher)} is of videos, not images: leave --data out")
    kept = keep_latents(
        chosen.cache,
        origin,
        images,
        chosen.data,
        shape,
        tuple(pixels),
        chosen.dtype,
        chosen.batch,
        artefacts,
        corrupt=chosen.corrupt,
        background=chosen.background,
        device=near,
    )
    return kept, f"latents of {amount(len(kept), 'image')} of {shown(chosen.data)}"


class Told:
    r"""Shows how many shards there are, with the time that is left.

    Arguments:
        bar: What shows it.
    """

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.rows: dict[tuple[str, int], TaskID] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        key = (name, total)
        if key not in self.rows:
            self.rows[key] = self.bar.add_task(f"{name}, shards", total=total)
        self.bar.update(self.rows[key], completed=done)


def tell(kept: KeptRows, what: str) -> None:
    r"""Prints what is kept, where, and how much room it takes."""
    size = sum(path.stat().st_size for path in kept.folder.rglob("*") if path.is_file())
    console.print(f"{what}: {bytes_of(size)} in {kept.folder}", highlight=False, soft_wrap=True)


def cache_parser() -> Parser:
    r"""Returns the parser of the command."""
    parser = Parser(prog="cache")
    add = parser.add_argument
    add("--teacher", required=True, metavar="SOURCE", help="the teacher whose encoders are asked")
    add("--prompts", metavar="FILE", help="a text file with a prompt a line, or a table")
    add("--data", metavar="SOURCE", help="images whose latents are kept, with their classes")
    add("--cache", required=True, metavar="FOLDER", help="where all that is kept lies")
    add("--negative", default="", metavar="TEXT", help="the prompt that guidance leads away from")
    add("--dtype", default="float32", metavar="NAME", help=f"of what is kept: {', '.join(DTYPES)}")
    add("--batch", type=int, default=32, metavar="N", help="how many are encoded at a time")
    add("--corrupt", type=int, default=0, metavar="N", help="corrupt images that are allowed")
    add(
        "--background",
        choices=("white", "black", "grey"),
        default="white",
        help="the colour behind what is transparent",
    )
    add("--device", default="auto", metavar="NAME", help="where the encoders compute")
    return parser


COMMANDS = {"cache": cache}
