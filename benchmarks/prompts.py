r"""What a million prompts cost in memory: read by the places of their lines, and as a list.

    python benchmarks/prompts.py --prompts 1000000 --out docs/results/prompts.json

Each way runs in a process of its own, after the same imports: it opens the file, and draws batches
of prompts and of embeddings as a training does. The peak of its resident memory is taken before
and after. Embeddings are small here (8 numbers a prompt): what is shown is how the memory grows
with the number of prompts, not their size.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = ("lines", "kept index", "list", "kept rows", "table")
DRAWS, BATCH, WIDTH = 200, 64, 8


def peak() -> float:
    r"""Returns the peak of the resident memory so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write(path: Path, count: int) -> None:
    r"""Writes prompts of 5 to 25 words."""
    draw = random.Random(0)
    words = [
        "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9)))
        for _ in range(5_000)
    ]
    with path.open("w") as file:
        for _ in range(count):
            file.write(" ".join(draw.choices(words, k=draw.randint(5, 25))) + "\n")


def measure(way: str, path: Path, cache: Path) -> dict[str, Any]:
    r"""Returns what one way costs, in this process."""
    import torch

    from vardiu.data.batches import DataFree
    from vardiu.data.kept_rows import make_rows
    from vardiu.data.texts import open_prompts, read_prompts
    from vardiu.storage.artefacts import Artefacts

    def rows(begin: int, end: int) -> dict[str, torch.Tensor]:
        return {"text": torch.arange(begin, end).float()[:, None].expand(-1, WIDTH).clone()}

    before, started = peak(), time.perf_counter()
    prompts: Any = None
    look_up: Any = None
    if way == "list":
        prompts = read_prompts(path)
    else:
        prompts = open_prompts(path, None if way == "lines" else cache)
    count = len(prompts)
    if way == "kept rows":
        look_up = make_rows(cache, {"kind": "texts"}, count, rows, Artefacts())
    elif way == "table":
        table = rows(0, count)["text"]
        look_up = lambda index: {"text": table[index]}  # noqa: E731
    opened = time.perf_counter() - started
    batches = DataFree(BATCH, classes=count, seed=0)
    started = time.perf_counter()
    total = 0
    for _ in range(DRAWS):
        label = next(batches).cond["label"]
        if look_up is None:
            total += sum(len(prompts[i]) for i in label.tolist())
        else:
            look_up(label)
    each = (time.perf_counter() - started) / DRAWS
    return {
        "way": way,
        "prompts": count,
        "before_mb": round(before, 1),
        "added_mb": round(peak() - before, 1),
        "open_seconds": round(opened, 2),
        "batch_of_64_ms": round(1000 * each, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--prompts", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.way:
        print(
            json.dumps(measure(chosen.way, chosen.folder / "prompts.txt", chosen.folder / "kept"))
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompts.txt"
        write(path, chosen.prompts)
        found = []
        for way in WAYS:
            words = [sys.executable, __file__, "--way", way, "--folder", folder]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(found[-1], flush=True)
        about = {
            "command": f"python benchmarks/prompts.py --prompts {chosen.prompts}",
            "file_mb": round(path.stat().st_size / 2**20, 1),
            "rows": found,
        }
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
