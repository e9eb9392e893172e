r"""The tables of `vardiu estimate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["bytes_of", "duration", "networks", "paper_table", "print_estimate", "totals"]


PARTS = ("weights", "gradients", "optimiser", "average", "activations")


def bytes_of(n: float) -> str:
    r"""Returns a number of bytes as one reads it.

    Example:
        >>> bytes_of(0), bytes_of(1536), bytes_of(3 * 2**30)
        ('-', '1.5 kB', '3.0 GB')
    """
    if not n:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1024 or unit == "GB":
            break
        n /= 1024
    return f"{n:.0f} B" if unit == "B" else f"{n:.1f} {unit}"


def duration(seconds: float) -> str:
    r"""Returns a time as one reads it.

    Example:
        >>> duration(0.0123), duration(90), duration(7200)
        ('12.3 ms', '90.0 s', '2.0 h')
    """
    for unit, size in (("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= 2 * size or (unit == "s" and seconds >= 1):
            return f"{seconds / size:.1f} {unit}"
    return f"{1000 * seconds:.1f} ms"


def print_estimate(found: Mapping[str, Any], console: Console) -> None:
    r"""Prints what `estimate` returned."""
    for stage in found["stages"]:
        console.print(networks(stage))
        each, all_of_them = duration(stage["step"]), duration(stage["seconds"])
        told = f"{stage['steps']:,} steps of {each}: {all_of_them}\n"
        console.print(told, highlight=False)
    console.print(totals(found))


def networks(stage: Mapping[str, Any]) -> Table:
    r"""Returns the table of a stage's networks."""
    title = f"{stage['name']}: memory by network"
    table = Table(box=None, header_style="bold", title=title, title_justify="left")
    for name in ("network", "parameters", *PARTS):
        table.add_column(name, justify="left" if name == "network" else "right")
    for name, row in stage["networks"].items():
        table.add_row(name, f"{row['parameters']:,}", *(bytes_of(row[part]) for part in PARTS))
    table.add_row("outside", "", "", "", "", "", bytes_of(stage["outside"]))
    return table


def paper_table(found: Mapping[str, int]) -> Table:
    r"""Returns the table of what was predicted of a network by its configuration alone."""
    numbers, adapter = found["numbers"], found["adapter"]
    title = f"on paper: a network of {numbers:,} numbers, adapters of {adapter:,}"
    table = Table(box=None, show_header=False, title=title, title_justify="left")
    words = {
        "base": "the frozen network: teacher, and under each adapter",
        "student": "weights, gradient, moments, average of the adapter",
        "fake": "weights, gradient, moments of the adapter",
        "anchor": "weights of the adapter",
        "activations": "one trained call",
        "total": "beside the allocator's and the driver's own",
    }
    for name, what in words.items():
        table.add_row(name, bytes_of(found[name]), what)
    return table


def totals(found: Mapping[str, Any]) -> Table:
    r"""Returns the table of the whole run."""
    memory, disk, seconds = found["memory"], found["disk"], found["seconds"]
    cuda = found["device"].startswith("cuda")
    where = (
        "on the device" if cuda else f"of which {bytes_of(memory['library'])} are the libraries"
    )
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column()
    table.add_row("peak memory", bytes_of(memory["peak"]), where)
    table.add_row("training", duration(seconds["training"]), "steps alone")
    rest = seconds["total"] - seconds["training"]
    table.add_row("other", duration(rest), "start, evaluations, checkpoints, final measurement")
    table.add_row("in all", duration(seconds["total"]), f"on {found['device']}")
    parts = [f"a checkpoint {bytes_of(disk['checkpoint'])}"]
    if disk["artefacts"]:
        parts.append(f"artefacts (pairs, a frame) {bytes_of(disk['artefacts'])}")
    table.add_row("disk", bytes_of(disk["total"]), ", ".join(parts))
    return table
