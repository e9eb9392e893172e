"""What each option for bigger networks costs and saves, on the U-Net of `benchmarks/estimate.py`.

    python benchmarks/economy.py [--batch 32] [--out runs/economy]

Each row is a fresh process on one thread: the activations that autograd keeps for the student, the
peak of the process beyond its libraries, and the processor's time of a step.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import estimate as bench

from vardiu.resources import estimate
from vardiu.storage.provenance import provenance
from vardiu.training.economy import Economy

OPTIONS = {
    "none": {},
    "--accumulate 4": {"accumulate": 4},
    "--economy.checkpoint all": {"economy": Economy(checkpoint="all")},
    "both": {"accumulate": 4, "economy": Economy(checkpoint="all")},
    "--economy.channels-last all": {"economy": Economy(channels_last="all")},
    "--economy.compile all": {"economy": Economy(compile="all")},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--options", nargs="+", choices=tuple(OPTIONS), default=list(OPTIONS))
    parser.add_argument("--out", type=Path, default=Path("runs/economy"))
    args = parser.parse_args()
    plain = bench.task_of("images")
    plain = replace(plain, settings=replace(plain.settings, batch=args.batch))
    rows = {}
    for name in args.options:
        task = replace(plain, run=replace(plain.run, **OPTIONS[name]))
        found = estimate.estimate(task, [sys.executable, bench.__file__, "--child", ""])
        (stage,) = found["stages"]
        memory = found["memory"]
        rows[name] = {
            "activations, MB": stage["networks"]["generator"]["activations"] / 2**20,
            "peak, MB": (memory["peak"] - memory["library"]) / 2**20,
            "processor, ms": 1e3 * stage["processor"],
        }
        print(name, json.dumps(rows[name]), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    about = provenance(["python", "benchmarks/economy.py"], 0)
    content = {"provenance": about, "batch": args.batch, "rows": rows}
    (args.out / "economy.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
