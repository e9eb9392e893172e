"""How long commands take to start, as multiples of Python's own start and of `import torch`.

python benchmarks/startup.py [--repeats 5] prints a table. CPU seconds are compared, the smallest
of the repeats: on a busy machine wall-clock time tells of the other work. `python -X importtime
-m vardiu distill mog40 --dry-run` says which module takes them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

BARS = {
    "vardiu --help": ("python -c pass", 3.0),
    "vardiu list": ("import torch", 1.0),
    "vardiu completion bash": ("import torch", 1.0),
    "vardiu distill mog40 --dry-run": ("import torch", 1.0),
}


def seconds(words: list[str], repeats: int) -> float:
    """The CPU seconds of a process, user and system: the smallest of some repeats."""
    taken = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


def measured(repeats: int) -> list[dict]:
    """A row a command: its seconds, those of what it is compared with, and their ratio."""
    bases = {
        "python -c pass": seconds(["-c", "pass"], repeats),
        "import torch": seconds(["-c", "import torch"], repeats),
    }
    rows = []
    for command, (base, bar) in BARS.items():
        took = seconds(["-m", *command.split()], repeats)
        ratio = took / bases[base]
        rows.append(
            {
                "command": command,
                "seconds": took,
                "base": base,
                "base_seconds": bases[base],
                "ratio": ratio,
                "bar": bar,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    rows = measured(chosen.repeats)
    if chosen.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        took = f"{row['command']:<32}{row['seconds']:7.3f} s"
        base = f"{row['base']} ({row['base_seconds']:.3f} s; bar {row['bar']:g})"
        print(f"{took}  {row['ratio']:5.2f} times {base}")


if __name__ == "__main__":
    main()
