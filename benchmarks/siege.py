"""Kills real runs at random instants, and compares what comes of them with undisturbed ones.

    python benchmarks/siege.py [--kills 200] [--seed 0] [--kinds density,teach] [--out runs/siege]
    python benchmarks/siege.py --collect runs/siege [runs/other ...] > docs/results/siege.json

Each kind of run is a command, shrunk to some seconds. It is carried out once undisturbed; then
again and again in fresh folders, killed (SIGKILL, imports and measuring included) at instants that
are uniform over its time, started again as it was typed, killed again, and let end. Of the kind
`processes`, which torchrun starts, a kill is by chance of one worker, which torchrun brings back,
or of torchrun alone, whose workers must then end by themselves, or of all of them at once.
Student, teacher and checkpoints must be equal to the byte, and so must logs and results without
their time fields. The first difference ends the siege with status 1.

Every second run of a kind is started as it is typed, with its imports. Each start of the others,
but for those of torchrun, is a fork of this process, which has imported the library: imports are
half of what a short run costs, and more kills meet training, measuring and writing.

Each kill is a row of `kills.jsonl` as soon as it is made, and so is each comparison. The same
command goes on where it stopped, until each kind has its share of the kills by the library as it
is now; several may work in folders of their own, with other seeds or kinds.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import multiprocessing
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

import vardiu
from vardiu.storage.provenance import provenance
from vardiu.storage.run_folder import RunFolder

# Fields that tell how long something took, or where and when it was.
TIMES = {"seconds", "wall", "processor", "memory", "time", "when", "made", "pid", "prices", "host"}
# Of kills and comparisons.
LOG = "kills.jsonl"
# Kills of one run at most, before it is let end.
EACH = 5
# Seconds in which workers must end whose torchrun was killed: a step, a checkpoint, a measurement.
ORPHANED = 90
# Seconds of a run from a kill to its end: many times what any takes on busy cores.
LONGEST = 900
SHORT = ["--samples", "100", "--reports", "3", "--save-every", "0.2"]
STUDENT = ["--width", "16", "--evaluations", "1", *SHORT]
# What forks find imported.
IMPORTED = (
    "vardiu.cli.main",
    "vardiu.cli.runs",
    "torch._dynamo",
    "matplotlib.pyplot",
    "sklearn.datasets",
)
# What a run is at after an event of its log; before any it is starting.
AFTER = {
    "artefact_progress": "making pairs",
    **dict.fromkeys(("stage_started", "reported", "alarm_raised", "saved"), "training"),
    **dict.fromkeys(("stage_finished", "teacher_probed", "shipped"), "measuring"),
    **dict.fromkeys(("final_measurement_started", "run_finished"), "measuring"),
}
CONTEST = """
from vardiu.comparison.contests import Competitor, Contest
from vardiu.methods import METHODS
from vardiu.settings.fields import DensitySettings

settings = {name: METHODS[name].settings for name in ("vardiu", "diff_instruct")}
SMALL = Contest(
    "two methods on eight Gaussians",
    {"exact": DensitySettings(name="ring8", width=16, depth=1)},
    {
        "gaussian": Competitor("VarDiU", "vardiu", settings["vardiu"](batch=16)),
        "fake": Competitor("Fake", "diff_instruct", settings["diff_instruct"](batch=32, ratio=2)),
    },
    seconds=1.0,
    rows=4_000,
)
"""


class Kind(NamedTuple):
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
            start += ["--max-restarts", "100", "--monitor-interval", "0.1"]
            start += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]
        return [*start, "-m", "vardiu", *self.words, "--out", str(out)]


def kinds(place: Path) -> dict[str, Kind]:
    """Returns the kinds by name; the digits' teacher and the contest are those in a place."""
    digits = ["--teacher-run", str(place / "teacher"), "--pairs.pairs", "400", "--batch", "16"]
    digits += ["--pairs.solver-steps", "3", "--pairs.batch", "16", "--steps", "60"]
    contest = ["--contest", f"{place / 'contest.py'}:SMALL", "--budgets", "calls", "--seeds", "1"]
    contest += ["--samples", "100", "--evaluations", "1", "--no-study"]
    anchored = ["--posterior", "anchored", "--steps", "300", "--depth", "1", "--batch", "32"]
    return {
        "density": Kind(["distill", "mog40", *anchored, *STUDENT]),
        "digits": Kind(["distill", "digits", "--method", "regression", *digits, *STUDENT]),
        "teach": Kind(["teach", "ring8", "--width", "16", "--steps", "300", *SHORT]),
        "bake-off": Kind(["bake-off", *contest]),
        "processes": Kind(["distill", "mog40", *anchored, *STUDENT], processes=2),
    }


def prepare(place: Path, names: Sequence[str]) -> None:
    """Makes what kinds need that is not killed: a teacher of digits, and a contest's file."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "contest.py").write_text(CONTEST)
    if "digits" in names and not (place / "teacher" / "result.json").is_file():
        words = ["teach", "digits", "--steps", "300", "--width", "32", "--batch", "128", *SHORT]
        end(start(Kind(words), place / "teacher", place / "teacher.log"), place / "teacher.log")


# ---------------------------------------------------------------- runs


class Forked:
    """A run in a fork of this process; to be asked as `subprocess.Popen` is."""

    def __init__(self, words: Sequence[str], log: Path) -> None:
        from vardiu.cli.main import main

        def work() -> None:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            with log.open("a", buffering=1) as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
                sys.stdout = sys.stderr = file
                raise SystemExit(main(words))

        self.process = multiprocessing.get_context("fork").Process(target=work)
        self.process.start()
        self.pid = self.process.pid or 0
        while self.poll() is None and os.getpgid(self.pid) != self.pid:
            time.sleep(0.001)

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("vardiu", timeout or 0)
        return self.process.exitcode


Run = subprocess.Popen | Forked


def start(kind: Kind, out: Path, log: Path, forked: bool = False) -> Run:
    """Starts a run in a process group of its own, by a command or by a fork."""
    if forked:
        return Forked([*kind.words, "--out", str(out)], log)
    with log.open("ab") as file:
        return subprocess.Popen(
            kind.command(out),
            stdout=file,
            stderr=file,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def end(process: Run, log: Path) -> None:
    """Waits for a run, which must have ended well."""
    try:
        process.wait(LONGEST)
    except subprocess.TimeoutExpired:
        raise SystemExit(f"a run goes on after {LONGEST} s:\n{log.read_text()[-3000:]}") from None
    if process.returncode != 0:
        raise SystemExit(f"a run ended with {process.returncode}:\n{log.read_text()[-3000:]}")


def children(pid: int) -> list[int]:
    """Returns the processes that a process has started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(status.parent.name))
    return sorted(found)


def strike(process: Run, who: str, chance: random.Random) -> str:
    """Kills all of a run, or of one that torchrun has started a worker or torchrun alone; returns
    who was killed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGSTOP)  # so that it starts nobody meanwhile
    workers = children(process.pid)
    struck = workers if who == "all" else []
    if who == "worker" and workers:
        struck = [chance.choice(workers)]
        who = f"worker {workers.index(struck[0])}"
    for pid in struck:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if struck and who != "all":
        os.killpg(process.pid, signal.SIGCONT)
        return who
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    orphans = [pid for pid in workers if pid not in struck]
    began = time.monotonic()
    while any(is_running(pid) for pid in orphans):
        if time.monotonic() > began + ORPHANED:
            raise SystemExit(f"torchrun was killed, and its workers {orphans} go on without it")
        time.sleep(0.05)
    return "all" if who == "worker" else who  # there was no worker yet


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def occupation(out: Path, since: float) -> str:
    """Returns what a run is at that was started at a time, by the newest of its events."""
    logs = [(path.stat().st_mtime, path) for path in out.rglob("events.jsonl")]
    written, path = max(logs, default=(0.0, out))
    if written < since:
        return "starting"
    lines = path.read_bytes().split(b"\n")[:-1]
    return AFTER.get(json.loads(lines[-1])["event"], "starting") if lines else "starting"


def besieged(
    kind: Kind,
    out: Path,
    log: Path,
    length: float,
    most: int,
    chance: random.Random,
    forked: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yields each kill of one run, at most so many; then lets it end."""
    began, process = time.time(), start(kind, out, log, forked)
    try:
        for _ in range(most):
            instant = chance.uniform(0, length)
            who = chance.choice(("all", "worker", "torchrun")) if kind.processes else "all"
            try:
                process.wait(instant)
                break
            except subprocess.TimeoutExpired:
                at = occupation(out, began)
                who = strike(process, who, chance)
                way = {"forked": True} if forked else {}
                yield {"after": round(instant, 3), "at": at, "killed": who, **way}
                began = time.time()
                if not who.startswith("worker"):
                    process = start(kind, out, log, forked)
        end(process, log)
    finally:
        if process.poll() is None:
            strike(process, "all", chance)


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
        if ".tmp-" in place.name:
            found[str(place)] = "left behind"
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


def rows_of(place: Path) -> list[dict[str, Any]]:
    """Returns the rows of a siege; without a last one that was cut short."""
    path = place / LOG
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]


def verified(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the kills of the runs that were compared with the undisturbed one, and are alike."""
    alike = {(row["kind"], row["run"]) for row in rows if row.get("differs") == ""}
    return [row for row in rows if "killed" in row and (row["kind"], row["run"]) in alike]


def siege(names: Sequence[str], kills: int, seed: int, place: Path) -> list[dict[str, Any]]:
    """Besieges some kinds of runs, until all together have so many kills; returns these.

    Arguments:
        names: The kinds' names, each of which has its share.
        kills: The number of kills of all of them together.
        seed: The seed of the instants.
        place: A folder for the runs, in which an earlier siege is gone on with.
    """
    prepare(place, names)
    for module in IMPORTED:
        importlib.import_module(module)
    shares = {name: kills // len(names) + (i < kills % len(names)) for i, name in enumerate(names)}
    lengths: dict[str, tuple[float, ...]] = {}
    spent = dict.fromkeys(names, 0.0)

    codes = {name: code_of(kinds(place)[name]) for name in names}

    def kept() -> list[dict[str, Any]]:
        return [r for r in verified(rows_of(place)) if r["code"] == codes.get(r["kind"])]

    def done(name: str) -> int:
        return sum(row["kind"] == name for row in kept())

    # Whichever has had the least time is next: whenever it is stopped, all kinds have had kills.
    while waiting := [name for name in names if done(name) < shares[name]]:
        name = min(waiting, key=lambda name: spent[name])
        if name not in lengths:
            lengths[name] = undisturbed(name, place)
        began, most = time.monotonic(), min(EACH, shares[name] - done(name))
        one_run(name, place, seed, lengths[name], most)
        spent[name] += time.monotonic() - began
        print(f"{name}: {done(name)} of {shares[name]} kills, all alike", flush=True)
    return kept()


def code_of(kind: Kind) -> str:
    """Returns a digest of what an undisturbed run depends on: its words and the library."""
    digest = hashlib.sha256(json.dumps(kind).encode())
    for path in sorted(Path(vardiu.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def undisturbed(name: str, place: Path) -> tuple[float, ...]:
    """Carries out a run that is not killed, as it is typed and but for torchrun as a fork, which
    must be alike; returns the seconds of each. Those of an earlier siege by the same code are
    taken."""
    kind, seconds = kinds(place)[name], list[float]()
    code, made = code_of(kind), place / name / "undisturbed.json"
    known = json.loads(made.read_text()) if made.is_file() else {}
    if known.get("code") == code:
        for path in (place / name).glob("[0-9]*"):
            shutil.rmtree(path)
        return tuple(known["seconds"])
    shutil.rmtree(place / name, ignore_errors=True)
    (place / name).mkdir()
    log, ways = place / f"{name}.log", ("undisturbed", "forked")[: 1 if kind.processes else 2]
    for way in ways:
        began = time.monotonic()
        end(start(kind, place / name / way, log, way == "forked"), log)
        seconds.append(time.monotonic() - began)
        RunFolder(place).log({"kind": name, way: round(seconds[-1], 2)}, LOG)
    first, last = (content(place / name / way) for way in (ways[0], ways[-1]))
    if wrong := difference(first, last):
        raise SystemExit(f"{name}: a fork differs from a command in {wrong}; see {place / name}")
    made.write_text(json.dumps({"code": code, "seconds": seconds}))
    return tuple(seconds)


def one_run(name: str, place: Path, seed: int, lengths: Sequence[float], most: int) -> None:
    """Besieges one run, and compares it with the undisturbed one."""
    number = max((r["run"] for r in rows_of(place) if r["kind"] == name and "run" in r), default=0)
    row = {"kind": name, "run": number + 1, "code": code_of(kinds(place)[name])}
    out, log = place / name / f"{number + 1:04d}", place / f"{name}.log"
    chance = random.Random(f"{seed}/{name}/{number + 1}")
    # Numbered from one: the first is as it is typed.
    way = number % len(lengths)
    for told in besieged(kinds(place)[name], out, log, lengths[way], most, chance, way == 1):
        RunFolder(place).log(row | told, LOG)
    wrong = difference(content(out), content(place / name / "undisturbed"))
    RunFolder(place).log(row | {"differs": wrong}, LOG)
    if wrong:
        raise SystemExit(f"{name}, run {number + 1}: it differs in {wrong}; see {out}")
    shutil.rmtree(out)


def collected(places: Sequence[Path]) -> dict[str, Any]:
    """Returns what some sieges found, by the kind of run: how many there were, their seconds when
    undisturbed, and the kills."""
    found: dict[str, Any] = {}
    for name in kinds(Path()):
        rows = [[r for r in rows_of(place) if r["kind"] == name] for place in places]
        told = [row for siege_rows in rows for row in siege_rows]
        if told:
            seconds = sorted(row["undisturbed"] for row in told if "undisturbed" in row)
            found[name] = {
                "seconds": seconds,
                "runs": sum("differs" in row for row in told),
                "differing": sum(row.get("differs", "") != "" for row in told),
                "kills": [
                    {k: v for k, v in row.items() if k not in ("kind", "run", "code")}
                    for siege_rows in rows
                    for row in verified(siege_rows)
                ],
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(kinds(Path())))
    parser.add_argument("--out", type=Path, default=Path("runs/siege"))
    parser.add_argument("--collect", type=Path, nargs="+", metavar="FOLDER")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # ends the run at hand, too
    os.environ["OMP_NUM_THREADS"] = "1"  # of forks too; torch is imported later
    if args.collect:
        about = provenance(["python", "benchmarks/siege.py", *sys.argv[1:]], args.seed)
        print(json.dumps({"provenance": about, "kinds": collected(args.collect)}, indent=1))
        return
    names = args.kinds.split(",")
    unknown = [name for name in names if name not in kinds(Path())]
    if unknown or args.kills < len(names):
        parser.error(f"kinds are {', '.join(kinds(Path()))}, each killed once at least")
    found = siege(names, args.kills, args.seed, args.out.resolve())
    print(f"{len(found)} kills: every run ended as the undisturbed one")


if __name__ == "__main__":
    main()
