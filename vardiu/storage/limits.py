r"""The limits of every reader, in one table.

A file that somebody else wrote may claim any size, be nested to any depth, or take any time. What
is beyond a limit is refused by name, before it is read. `docs/usage/limits.md` shows the table; a
reader that needs another limit adds a row here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..errors import ConfigError, shown

__all__ = ["LIMITS", "Limit", "limit", "limits_table", "refuse_beyond"]


class Limit(NamedTuple):
    r"""How much of something is read.

    Arguments:
        value: The most that is read.
        unit: What is counted.
        why: One sentence: what an honest file needs, or what a dishonest one would do.
    """

    value: int
    unit: str
    why: str


LIMITS: Mapping[str, Limit] = {
    "settings bytes": Limit(
        2**24, "bytes of a JSON or YAML file of settings", "The longest known ones have 100 kB."
    ),
    "log bytes": Limit(
        2**28, "bytes of a run's log", "A report has some kilobytes, a run some thousand reports."
    ),
    "state bytes": Limit(
        2**28, "bytes of a checkpoint's state.json", "It names each tensor once."
    ),
    "settings depth": Limit(
        100, "levels of lists and mappings in JSON or YAML", "Honest settings have ten."
    ),
    "settings aliases": Limit(
        20,
        "aliases of a YAML file",
        "Ten lists that each name the one before ten times are ten thousand million values; "
        "nothing that is written here has any.",
    ),
    "sample numbers": Limit(
        2**26,
        "numbers of a student's latent or sample",
        "An image of 4096x4096 pixels has 50 million; a line of JSON may ask for any number.",
    ),
    "point values": Limit(
        2**28, "numbers in a file of points", "As float32 they take a gigabyte of memory."
    ),
    "image bytes": Limit(
        2**29, "bytes of an image's file", "An uncompressed image of the most pixels has less."
    ),
    "image pixels": Limit(
        2**26,
        "pixels of an image",
        "A camera's 60 million need 200 MB; a file of 100 kB may unpack to any number.",
    ),
    "array bytes": Limit(
        2**34,
        "bytes of an array in an .npz",
        "It is read whole; a larger one is saved as .npy, which stays on the disk.",
    ),
    "tar members": Limit(
        2_000_000, "members of one tar shard", "Shards have some thousands; each name is kept."
    ),
    "tar header bytes": Limit(
        2**20, "bytes of a tar member's header", "A name may claim to be as long as the file."
    ),
    "row group bytes": Limit(
        2**32,
        "bytes of a row group's images in parquet",
        "A row group is read whole; writers keep to some hundred megabytes.",
    ),
    "table bytes": Limit(
        2**28,
        "bytes of a table: CSV, JSON lines, dataset.json",
        "A million images with their captions need 200 MB.",
    ),
    "table columns": Limit(10_000, "columns of a table", "Honest ones have tens."),
    "table rows": Limit(20_000_000, "rows of a table", "ImageNet's whole has 14 million images."),
    "prompt lines": Limit(
        2**30,
        "lines of a file of prompts",
        "Eight bytes are kept of each; texts stay on disk.",
    ),
    "prompt characters": Limit(
        20_000, "characters of a prompt", "Encoders of texts read some hundred words."
    ),
    "classes": Limit(1_000_000, "the number of a class", "The whole of ImageNet has 22 thousand."),
    "folder entries": Limit(
        20_000_000, "files below a folder", "ImageNet's whole has 14 million images."
    ),
    "folder depth": Limit(50, "levels of folders", "A link may lead to ever deeper ones."),
    "pattern files": Limit(
        1_000_000, "files that a pattern names", "{0..999999999} would be a list of as many."
    ),
    "schedule times": Limit(
        100_000, "times of a schedule", "Schedulers have 1,000; a table of each is made."
    ),
    "network size": Limit(
        2**20,
        "as one size in the configuration of a network",
        "The longest vocabularies have 260,000 words.",
    ),
    "network layers": Limit(
        512,
        "layers or blocks in the configuration of a network",
        "Known networks have a hundred; each layer is built before its weights are read.",
    ),
    "network positions": Limit(
        2**17,
        "positions of a transformer, by its sample and patch sizes",
        "The largest known ones have 65,536; a table of them is computed.",
    ),
    "weights header bytes": Limit(
        2**27, "bytes of the names in a file of weights", "safetensors' own limit is 100 MB."
    ),
    "pickle opcodes": Limit(2_000_000, "opcodes of a pickle", "A published network has 50,000."),
    "pickle tuple values": Limit(
        10_000,
        "values in a tuple of tuples of a pickle",
        "To hash a tuple that names another twice, sixty times over, takes for ever.",
    ),
    "pickle tuple depth": Limit(
        20, "levels of tuples in a pickle", "To hash deeper ones exhausts the stack."
    ),
    "pickle number": Limit(80, "bits of a whole number in a pickle", "Torch's mark has 77."),
    "network argument": Limit(
        2**17,
        "as a number among the arguments of a pickled network",
        "The network is made before its weights are compared with it.",
    ),
    "network values": Limit(
        32, "numbers in an argument of a pickled network", "Published ones have five."
    ),
    "network blocks": Limit(
        64, "blocks a resolution of a pickled network", "Published ones have four."
    ),
}


def limit(name: str) -> int:
    r"""Returns the value of a limit."""
    return LIMITS[name].value


def refuse_beyond(
    name: str, found: int, what: object, error: type[Exception] = ConfigError
) -> None:
    r"""Raises an error if a number is beyond a limit.

    Arguments:
        name: The limit.
        found: The number.
        what: What has it: a file, or a part of one.
        error: The error's type.
    """
    row = LIMITS[name]
    if found > row.value:
        raise error(f"{shown(what)} has {found:,} {row.unit}, and at most {row.value:,} are read")


def limits_table() -> str:
    r"""Returns the table as the documentation shows it."""
    rows = [f"| {row.unit} | {row.value:,} | {row.why} |" for row in LIMITS.values()]
    return "\n".join(["| what is counted | at most | why |", "|---|---|---|", *rows])
