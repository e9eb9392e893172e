r"""What policy gradients do to a few-step student: its reward and its spread, by the epoch.

    python benchmarks/redif.py docs/results/redif-curves.json --start START RUN RUN ...
    python benchmarks/redif.py docs/results/redif-curves-mog40.json RUN RUN ...

Of finished or unfinished runs of `--method redif` the file keeps, by their log, the reward at
eta = 0 of noise that no roll-out started from, that of the roll-outs, and the metrics of samples
measured on the way. START is a run of one epoch at a rate of next to nothing: its metrics are
those of the student before any update; without it they are those at the end of the stage before.
Runs with `--shuffled` are drawn as the control. A picture of the same name is drawn beside the
file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import yaml

mpl.use("Agg")

REWARD = {"held_out": "eta = 0, held out", "policy/reward": "roll-outs"}
METRICS = ("metric/recall", "metric/precision", "metric/modes", "metric/frechet", "metric/mmd2")


def curve(folder: Path, stage: str = "redif") -> dict[str, Any]:
    """The rows of a stage of a run: its epoch, rewards and metrics."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    made = json.loads((folder / "provenance.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = (*REWARD, "held_out_start", *METRICS, *(f"{name}_error" for name in METRICS))
    return {
        "preset": config["preset"],
        "seed": made["seed"],
        "control": config["method"]["shuffled"],
        "rows": [
            {"epoch": row["step"], **{name: row[name] for name in names if name in row}}
            for row in rows
            if row.get("stage") == stage
        ],
    }


def with_start(run: Mapping[str, Any], start: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A run's rows after the student as it started, whose reward the run itself has logged."""
    first = {k: v for k, v in start["rows"][-1].items() if k.startswith("metric/")}
    reward = run["rows"][0]["held_out_start"]
    return [{"epoch": 0, "held_out": reward, **first}, *run["rows"]]


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draws rewards, and recall or modes, by the epoch."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    spread = "metric/recall" if "metric/recall" in found["start"]["rows"][-1] else "metric/modes"
    for run in found["curves"]:
        rows, style = with_start(run, found["start"]), "--" if run["control"] else "-"
        words = f"{'control, ' if run['control'] else ''}seed {run['seed']}"
        for (name, title), colour in zip(REWARD.items(), ("#8A1538", "#9A9A9A"), strict=True):
            own = [row for row in rows if name in row]
            x, y = ([row[key] for row in own] for key in ("epoch", name))
            left.plot(x, y, style, color=colour, label=f"{title}, {words}")
        own = [row for row in rows if spread in row]
        x, y = ([row[key] for row in own] for key in ("epoch", spread))
        error = [row.get(f"{spread}_error", 0.0) for row in own]
        right.errorbar(x, y, error, fmt=f"o{style}", color="#8A1538", capsize=2, label=words)
    left.set(xlabel="epoch", ylabel="reward")
    right.set(xlabel="epoch", ylabel=spread.removeprefix("metric/"), ylim=(0, None))
    for axis in (left, right):
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 2}
        axis.legend(fontsize=8, frameon=False, **place)  # below: curves are everywhere
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--start", type=Path)
    given = parser.parse_args()
    start = curve(given.runs[0], "start") if given.start is None else curve(given.start)
    found = {
        "start": {**start, "rows": start["rows"][-1:]},
        "curves": [curve(run) for run in given.runs],
    }
    given.file.write_text(json.dumps(found, indent=1) + "\n")
    draw(found, given.file.with_suffix(".png"))


if __name__ == "__main__":
    main()
