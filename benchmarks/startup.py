"""How long commands take to start, as multiples of Python's own start and of `import torch`.

python benchmarks/startup.py [--repeats 5] prints a table. CPU seconds are compared, the smallest
of the repeats, which take turns: on a busy machine wall-clock time tells of the other work.
Compiled modules are kept in a folder of their own: a source tree has none where Python may not
write them. `python -X importtime -m vardiu distill mog40 --dry-run` says which module takes them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile

BARS = {
    "vardiu --help": ("python -c pass", 3.0),
    "vardiu list": ("import torch", 1.0),
    "vardiu completion bash": ("import torch", 1.0),
    "vardiu distill mog40 --dry-run": ("import torch", 1.0),
    "vardiu distill mog40 --steps 20 --dry-run": ("import torch", 1.0),
}


BASES = {"python -c pass": ["-c", "pass"], "import torch": ["-c", "import torch"]}


def seconds(words: list[str], environment: dict[str, str]) -> float:
    """The CPU seconds of a process, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = [sys.executable, *words]
    subprocess.run(line, stdout=subprocess.DEVNULL, check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(repeats: int) -> list[dict]:
    """A row a command: its seconds, those of what it is compared with, and their ratio."""
    lines = BASES | {command: ["-m", *command.split()] for command in BARS}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for words in lines.values():  # this compiles the modules
            seconds(words, environment)
        taken = [{k: seconds(v, environment) for k, v in lines.items()} for _ in range(repeats)]
    least = {name: min(turn[name] for turn in taken) for name in lines}
    return [
        {
            "command": command,
            "seconds": least[command],
            "base": base,
            "base_seconds": least[base],
            "ratio": least[command] / least[base],
            "bar": bar,
        }
        for command, (base, bar) in BARS.items()
    ]


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
        took = f"{row['command']:<44}{row['seconds']:7.3f} s"
        base = f"{row['base']} ({row['base_seconds']:.3f} s; bar {row['bar']:g})"
        print(f"{took}  {row['ratio']:5.2f} times {base}")


if __name__ == "__main__":
    main()
