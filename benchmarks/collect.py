r"""Keeps what finished runs measured, for the tables of the documents.

    python benchmarks/collect.py docs/results/dmd2.json runs/mog40-dmd2-0 runs/mog40-dmd2-1 ...

Of each run the file has the command without folders, seed, machine, versions, verdict, metrics
with their standard errors and sample counts, the metrics of what it is compared with, and the
cost. Runs that the file had before stay, unless the same command and seed is among the new ones.

    python benchmarks/collect.py docs/results/digits-halved.json runs/rdd-0 --num 50000

takes what `vardiu evaluate RUN --num 50000` measured since in place of what the run did at its
end, and what `--calls 1,2,4` did of its students of several numbers of calls.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Options that name folders of one machine, with their values.
FOLDERS = ("--out", "--teacher-run", "--teacher", "--data")


def command_of(words: Sequence[str]) -> str:
    """A command as anybody would type it: without folders and the seed."""
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in (*FOLDERS, "--seed") and not word.startswith("--teacher="):
            skip = True
        elif word.partition("=")[0] not in (*FOLDERS, "--seed"):
            kept.append(word)
    return " ".join(kept)


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    return {row["name"]: [row["value"], row["error"], row["n"]] for row in rows}


def evaluated(folder: Path, n: int) -> dict[str, Any]:
    """What was measured of a run since, by so many samples: its student, what that is compared
    with, and its students by their calls."""
    kept: dict[str, Any] = {"evaluated": []}
    for path in sorted(folder.glob(f"evaluation-{n}-seed0*.json")):
        found = json.loads(path.read_text())
        kept["evaluated"].append(command_of(found["command"]))
        kept["reference"] = compared(found["reference"])
        if "rows" in found:
            own = [row for row in found["rows"] if row["who"] == "student"]
            kept["calls"] = {row["calls"]: metrics_of(row["metrics"]) for row in own}
        else:
            kept["metrics"] = metrics_of(found["metrics"])
    if "reference" not in kept:
        raise SystemExit(f"{folder} was not measured by {n} samples: vardiu evaluate {folder}")
    return {"metrics": kept.get("calls", {}).get(1), **kept}


def compared(reference: Mapping[str, Any]) -> dict[str, Any]:
    """What a student is compared with."""
    return {"name": reference["name"], "metrics": metrics_of(reference["metrics"])}


def read(folder: Path, n: int | None = None) -> dict[str, Any]:
    """What the tables need of a run, as measured at its end or by `n` samples since."""
    found = json.loads((folder / "result.json").read_text())
    made = json.loads((folder / "provenance.json").read_text())
    machine = made["machine"]
    device = machine["accelerator"] if made_on_gpu(made["command"], machine) else "CPU"
    return {
        "command": command_of(made["command"]),
        "seed": made["seed"],
        "device": device or "CPU",
        "machine": machine,
        "versions": {name: made["versions"][name] for name in ("vardiu", "torch", "python")},
        "hashes": made["sha256"],
        "verdict": found["verdict"]["name"],
        "metrics": metrics_of(found["metrics"]),
        "reference": compared(found["reference"]),
        "cost": found["cost"],
        **({} if n is None else evaluated(folder, n)),
    }


def made_on_gpu(command: Sequence[str], machine: Mapping[str, Any]) -> bool:
    """Whether a run that could use an accelerator did: the last `--device` says so."""
    places = [i for i, word in enumerate(command) if word == "--device"]
    named = command[places[-1] + 1] if places else "auto"
    return bool(machine.get("accelerator")) and named != "cpu"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="the file of results")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--num", type=int, help="samples by which they were measured since")
    chosen = parser.parse_args()
    kept = json.loads(chosen.file.read_text())["runs"] if chosen.file.is_file() else []
    runs = {(run["command"], run["seed"]): run for run in kept}
    for folder in chosen.runs:
        run = read(folder, chosen.num)
        runs[run["command"], run["seed"]] = run
    rows = [runs[key] for key in sorted(runs)]
    chosen.file.write_text(json.dumps({"runs": rows}, indent=1) + "\n")
    print(f"{chosen.file}: {len(rows)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
