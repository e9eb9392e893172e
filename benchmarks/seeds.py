"""Runs presets over seeds, and prints the table of their metrics: the numbers of the README.

    python benchmarks/seeds.py mog40 mog40-gaussian mog40-flow --seeds 0 1 2 --out runs/seeds

Finished runs are kept: the same command again goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from vardiu.cli.main import main as vardiu

COLUMNS = (
    "log_density",
    "mmd2",
    "modes",
    "frechet",
    "precision",
    "recall",
    "classes",
    "agreement",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--threads", type=int, default=0)
    chosen = parser.parse_args()
    rows = []
    for preset in chosen.presets:
        for seed in chosen.seeds:
            out = chosen.out / f"{preset}-{seed}"
            words = ["--seed", str(seed), "--out", str(out), "--threads", str(chosen.threads)]
            if vardiu(["distill", preset, *words]):
                raise SystemExit(f"{out} failed")
            result = json.loads((out / "result.json").read_text())
            values = {metric["name"]: metric["value"] for metric in result["metrics"]}
            rows.append((preset, seed, values, result["cost"]))
    names = [name for name in COLUMNS if any(name in row[2] for row in rows)]
    print("| preset | seed |", " | ".join(names), "| seconds | teacher calls |")
    print("|---" * (len(names) + 4) + "|")
    for preset, seed, values, cost in rows:
        cells = [f"{values[name]:.4g}" for name in names]
        calls = f"{cost['teacher_calls']:,}"
        print(f"| {preset} | {seed} |", " | ".join(cells), f"| {cost['seconds']:.0f} | {calls} |")
    for preset in chosen.presets:
        mine = [row[2] for row in rows if row[0] == preset]
        medians = [statistics.median(values[name] for values in mine) for name in names]
        print(f"{preset}: median", dict(zip(names, medians, strict=True)))


if __name__ == "__main__":
    main()
