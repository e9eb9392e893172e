"""Kills real runs at random instants, and compares what comes of them with undisturbed ones.

    python benchmarks/siege.py [--kills 200] [--seed 0] [--cases density,digits] [--out runs/siege]

Each case is a command, shrunk to some seconds. It is carried out once undisturbed; then again and
again in fresh folders, killed (SIGKILL, the whole process group, imports and measuring included)
at instants that are uniform over its time, started again as it was typed, killed again, and let
end. Of the case `processes`, which torchrun starts, every second kill takes one worker only, and
torchrun brings the run back. Student, teacher and checkpoints must be equal to the byte, and so
must the log without its time fields. The first difference ends the siege with status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vardiu.storage.provenance import provenance

# Fields that tell how long something took, or where and when it was.
TIMES = {"seconds", "wall", "processor", "memory", "time", "when", "made", "pid", "prices", "host"}
# Kills of one run, before it is let end.
EACH = 2
STUDENT = ["--width", "16", "--samples", "200", "--reports", "6", "--evaluations", "2"]
DENSITY = [*STUDENT, "--depth", "1", "--batch", "32", "--save-every", "0.2"]


class Case(NamedTuple):
    """A command, without its folder.

    Arguments:
        words: What stands after `vardiu`.
        processes: How many torchrun starts; 0 without it.
    """

    words: Sequence[str]
    processes: int = 0

    def command(self, out: Path) -> list[str]:
        start = [sys.executable]
        if self.processes:
            number = str(self.processes)
            start += ["-m", "torch.distributed.run", "--nproc-per-node", number]
            start += ["--max-restarts", "3", "--monitor-interval", "0.1"]
            start += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
        return [*start, "-m", "vardiu", *self.words, "--out", str(out)]


def cases(place: Path) -> dict[str, Case]:
    """Returns the cases by name; the digits' teacher is the one in a place."""
    digits = ["--teacher-run", str(place / "teacher"), "--pairs.pairs", "1100", "--batch", "16"]
    digits += ["--pairs.solver-steps", "3", "--pairs.batch", "16", "--save-every", "0.2"]
    contest = ["ring8", "--budgets", "calls", "--calls", "2000", "--arms", "sid,energy"]
    contest += ["--seeds", "1", "--teachers", "exact", "--samples", "200", "--evaluations", "1"]
    anchored = ["--posterior", "anchored", "--steps", "150", *DENSITY]
    return {
        "density": Case(["distill", "mog40", *anchored]),
        "digits": Case(
            ["distill", "digits", "--method", "regression", "--steps", "80", *STUDENT, *digits]
        ),
        "teach": Case(["teach", "digits", "--width", "16", "--steps", "60", "--batch", "32"]),
        "bake-off": Case(["bake-off", *contest, "--no-study"]),
        "processes": Case(["distill", "mog40", *anchored], processes=2),
    }


# ---------------------------------------------------------------- runs


def start(case: Case, out: Path, log: Path) -> subprocess.Popen:
    """Starts a case in a process group of its own, so that no worker outlives a kill."""
    with log.open("ab") as file:
        return subprocess.Popen(
            case.command(out),
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def end(process: subprocess.Popen, log: Path) -> None:
    """Waits for a run, which must have ended well."""
    if process.wait() != 0:
        raise SystemExit(f"a run ended with {process.returncode}:\n{log.read_text()[-3000:]}")


def children(pid: int) -> list[int]:
    """Returns the processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(words[1]) == pid:
            found.append(int(status.parent.name))
    return sorted(found)


def kill(process: subprocess.Popen, one: random.Random | None) -> str:
    """Kills a run, or one of its workers; returns who was killed."""
    workers = children(process.pid) if one is not None else []
    if workers:
        pid = one.choice(workers) if one is not None else 0
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return "nobody: the worker had ended"
        return f"worker {workers.index(pid)}"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return "all"


def besieged(
    case: Case, out: Path, log: Path, length: float, count: int, one: bool, chance: random.Random
) -> Iterator[dict[str, Any]]:
    """Yields each of so many kills of one run, which then has been let end."""
    process, told = start(case, out, log), []
    for _ in range(count):
        instant = chance.uniform(0, length)
        try:
            process.wait(instant)
            told.append({"at": instant, "killed": "nobody: the run had ended"})
        except subprocess.TimeoutExpired:
            who = kill(process, chance if one else None)
            told.append({"at": instant, "killed": who})
            if who == "all":
                process = start(case, out, log)
    end(process, log)
    yield from told


# ---------------------------------------------------------------- comparison


def timeless(value: Any) -> Any:
    """Returns a value of JSON without its time fields."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def content(folder: Path) -> dict[str, Any]:
    """Returns what two runs must have alike, by its place: the bytes of tensors, and the words of
    logs and descriptions without times. Of the checkpoints, whose instants are of the clock,
    those of the last step of each stage."""
    last: dict[Path, int] = {}
    for path in folder.rglob("checkpoints/*/[0-9]*"):
        last[path.parent] = max(last.get(path.parent, 0), int(path.name))
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        step = path.parent
        if step.parent in last and step.name.isdigit() and int(step.name) != last[step.parent]:
            continue
        if any(part.startswith((".", "damaged-")) for part in place.parts):
            continue
        if path.suffix == ".safetensors":
            found[str(place)] = path.read_bytes()
        elif path.name == "metrics.jsonl":
            rows = path.read_text().splitlines()
            found[str(place)] = [timeless(json.loads(row)) for row in rows]
        elif path.name in ("result.json", "model.json"):
            found[str(place)] = timeless(json.loads(path.read_text()))
        elif path.name == "config.yaml":
            found[str(place)] = path.read_text()
    return found


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Returns where two runs differ; empty where they do not."""
    if ours.keys() != theirs.keys():
        return f"files: {sorted(ours.keys() ^ theirs.keys())}"
    return ", ".join(name for name in ours if ours[name] != theirs[name])


# ---------------------------------------------------------------- the siege


def siege(names: Sequence[str], kills: int, seed: int, place: Path) -> dict[str, Any]:
    """Besieges some cases; returns what was killed when, of each.

    Arguments:
        names: Their names.
        kills: The number of kills of all of them together.
        seed: The seed of the instants.
        place: A folder for the runs, emptied first.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    known, found, left = cases(place), {}, kills
    if "digits" in names:
        words = ["teach", "digits", "--steps", "300", "--width", "32", "--batch", "128"]
        log = place / "teacher.log"
        end(start(Case([*words, "--samples", "200"]), place / "teacher", log), log)
    for number, name in enumerate(names):
        case, chance = known[name], random.Random(f"{seed}/{name}")
        share = left // (len(names) - number)
        left -= share
        reference, log = place / name / "undisturbed", place / f"{name}.log"
        began = time.monotonic()
        end(start(case, reference, log), log)
        length = time.monotonic() - began
        told: list[dict[str, Any]] = []
        while len(told) < share:
            out = place / name / f"{len(told):04d}"
            count = min(EACH, share - len(told))
            one = case.processes > 0 and len(told) // EACH % 2 == 1
            told += besieged(case, out, log, length, count, one, chance)
            wrong = difference(content(out), content(reference))
            if wrong:
                print(f"{name}, {told[-count:]}: it differs in {wrong}; see {out}", flush=True)
                raise SystemExit(1)
            shutil.rmtree(out)
            print(f"{name}: {len(told)} of {share} kills, all alike", flush=True)
        found[name] = {"seconds": length, "kills": told}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", default=",".join(cases(Path())))
    parser.add_argument("--out", type=Path, default=Path("runs/siege"))
    args = parser.parse_args()
    names = args.cases.split(",")
    unknown = [name for name in names if name not in cases(Path())]
    if unknown or args.kills < len(names):
        parser.error(f"cases are {', '.join(cases(Path()))}, each killed once at least")
    found = siege(names, args.kills, args.seed, args.out.resolve())
    about = provenance(["python", "benchmarks/siege.py", *sys.argv[1:]], args.seed)
    text = json.dumps({"provenance": about, "kills": args.kills, "cases": found}, indent=1)
    (args.out / "siege.json").write_text(text + "\n")
    struck = [k for case in found.values() for k in case["kills"] if "nobody" not in k["killed"]]
    print(f"{args.kills} instants, {len(struck)} kills: every run ended as the undisturbed one")


if __name__ == "__main__":
    main()
