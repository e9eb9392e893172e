"""Makes the tables of the documents from the files of numbers, and writes them in their places.

    python benchmarks/tables.py            # writes what differs
    python benchmarks/tables.py --check    # names what differs, and writes nothing

A table stands between two comments, of which the first names the file and how it is shown:

    <!-- table: cost docs/results/cost.json -->
    <!-- end of table -->

`recorded NAME docs/results/recorded.json` is a table that a command printed and whose other output
was not kept: the file has the command, the machine and the printed cells.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PLACE = re.compile(
    r"(?P<open><!-- table: (?P<words>[^\n]*?) -->\n).*?\n?<!-- end of table -->",
    re.DOTALL,
)

# As the documents write them.
ARMS = {
    "gaussian": "VarDiU, Gaussian",
    "mixture": "VarDiU, mixture of 16",
    "flow": "VarDiU, flow",
    "particles": "VarDiU, Gaussian, 4 particles",
    "shared": "VarDiU, minibatch mixture",
    "diff-instruct-1": "Diff-Instruct, 1 fake update",
    "diff-instruct-5": "Diff-Instruct, 5",
    "diff-instruct-10": "Diff-Instruct, 10",
}


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("|" + "|".join(f" {cell} " for cell in line) + "|" for line in lines).replace(
        "| --- ", "|---"
    )


def scientific(value: float) -> str:
    return f"{value * 1e3:.1f}e-3"


def median(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.median(run["metrics"][name] for run in runs)


def three(runs: Sequence[Mapping[str, Any]]) -> str:
    """Log-density, MMD^2 and modes: medians of the seeds."""
    density, mmd2, modes = (median(runs, name) for name in ("log_density", "mmd2", "modes"))
    return f"{density:.2f} / {scientific(mmd2)} / {modes:.0f}"


def middle(runs: Sequence[Mapping[str, Any]], name: str) -> float:
    return statistics.median(run["cost"][name] for run in runs)


def bake_off_time(found: Mapping[str, Any], *arms: str) -> str:
    """Equal time, a teacher a column; some arms only where they are named."""
    teachers = ("exact", "learned", "kde")
    more = not arms
    columns = ["log-density / MMD² / modes", *(f"{name} teacher" for name in teachers)]
    rows = []
    for arm in arms or ARMS:
        runs = {name: found["groups"][f"time-20s/{name}"][arm] for name in teachers}
        row = [ARMS[arm], *(three(runs[name]) for name in teachers)]
        if more:
            row += [f"{middle(runs['exact'], 'student_updates'):,.0f}"]
            row += [f"{middle(runs['exact'], 'teacher_rows'):,.0f}"]
        rows.append(row)
    return markdown(
        [*columns, *(["updates (exact)", "teacher rows (exact)"] if more else [])], rows
    )


def bake_off_calls(found: Mapping[str, Any]) -> str:
    rows = []
    for arm, title in ARMS.items():
        runs = found["groups"]["calls-256000rows/exact"][arm]
        seconds, updates = middle(runs, "seconds"), middle(runs, "student_updates")
        cells = three(runs).split(" / ")
        rows.append([title, *cells, f"{seconds:.0f}", f"{updates:,.0f}"])
    return markdown(["arm", "log-density", "MMD²", "modes", "seconds", "updates"], rows)


def bake_off_gradients(found: Mapping[str, Any]) -> str:
    rows = []
    for arm, title in ARMS.items():
        points = found["gradients"]["exact"][arm]
        rows.append(
            [
                title,
                " / ".join(f"{p['cosine']:.2f}" for p in points),
                " / ".join(f"{p['deviation']:.1f}" for p in points),
                " / ".join(f"{p['bias']:.2f} ± {p['bias_error']:.2f}" for p in points),
            ]
        )
    return markdown(["arm", "cosine", "deviation", "bias, / norm"], rows)


BOUNDS = {
    "gaussian": "Gaussian",
    "cholesky": "full Gaussian",
    "mixture": "mixture of 16",
    "flow": "flow",
    "particles": "Gaussian, 4 particles",
    "shared": "minibatch mixture, 256",
}


def number(value: float) -> str:
    """One decimal below ten, none above."""
    text = f"{value:.1f}" if abs(value) < 9.95 else f"{value:.0f}"
    return text.replace("-0.0", "0.0")


def slack(found: Mapping[str, Any]) -> str:
    sizes = (2, 8, 32, 128, 512)
    rows = []
    for sigma in ("0.3", "3"):
        cells = found["cells"]
        information = [cells[f"slack/linear/gaussian/{d}"]["information"][sigma] for d in sizes]
        rows.append([sigma, "*I*", *map(number, information)])
        for family, title in BOUNDS.items():
            values = [cells.get(f"slack/linear/{family}/{d}") for d in sizes]
            shown = ["" if v is None else number(v["slack"][sigma][0]) for v in values]
            rows.append(["", title, *shown])
    return markdown(["σ", "bound", *(f"d = {d}" for d in sizes)], rows)


FIXES = {
    "train/gaussian": "Gaussian, ordinary start",
    "fixes/gaussian, 8 latents": "8 latents",
    "fixes/gaussian, sigma from 1": "smallest σ of 1",
    "fixes/gaussian, posterior first": "posterior trained first",
    "fixes/gaussian, all levels at once": "all levels from the first step",
    "fixes/gaussian after pairs": "after pairs",
    "fixes/framed": "`framed`",
    "train/shared": "minibatch mixture, ordinary start",
    "fixes/shared, batch 1024": "the same, batch of 1,024",
    "fixes/residual student, shared": "residual student, minibatch mixture",
    "fixes/residual student, gaussian": "residual student, ordinary Gaussian",
    "fixes/residual student and posterior": "**residual student and posterior**",
    "fixes/residual student, diff-instruct": "residual student, Diff-Instruct",
    "fixes/residual student, untrained": "residual student, untrained",
}


def fixes(found: Mapping[str, Any]) -> str:
    sizes, rows = (8, 32, 128, 512), []
    for key, title in FIXES.items():
        cells = [found["cells"][f"{key}/{d}/0"] for d in sizes]
        rows.append([title, *(f"{signed(c['spread'])} ({signed(c['gap'])})" for c in cells)])
    return markdown(["student", *(f"d = {d}" for d in sizes)], rows)


def signed(value: float) -> str:
    """Two decimals, and no minus before zero."""
    return f"{value:.2f}".replace("-0.00", "0.00")


LONGER = {
    "fixes/residual student, untrained": "residual student, untrained",
    "fixes/residual student and posterior": "residual student and posterior",
    "fixes/residual student, diff-instruct": "residual student, Diff-Instruct",
    "train/shared": "minibatch mixture, ordinary start",
}


def longer(found: Mapping[str, Any]) -> str:
    rows = []
    for key, title in LONGER.items():
        cells = [found["longer"].get(f"{key}/{d}/0") for d in (8, 32)]
        shown = ["" if c is None else f"{signed(c['gap'])}; {signed(c['spread'])}" for c in cells]
        rows.append([title, *shown])
    return markdown(["student", "d = 8", "d = 32"], rows)


PRESETS = {
    "mixture-diff-instruct": "`mixture-diff-instruct`",
    "diff-instruct, codes": "the same, a student that jumps",
    "anchored, levels to 5": "`mixture-anchored`: a rate of 0.2, levels up to 5",
    "anchored, rate falls, levels to 5": "the same, the rate falls from 0.5 to 0.02",
    "anchored, rate falls": "the same, the rate falls, levels up to 10",
    "anchored, rate 0.2, beta 0.5": "the same, levels up to 10, momentum of 0.5",
    "anchored, rate 0.05, beta 0.5": "the same, a rate of 0.05, levels up to 10, momentum of 0.5",
    "anchored, lr 5e-4": "the same, levels up to 10, half the learning rate",
    "anchored, codes": "the same, levels up to 10, a student that jumps",
}


def presets(found: Mapping[str, Any]) -> str:
    rows = []
    for key, title in PRESETS.items():
        cells = [found["cells"].get(f"presets/{key}/{d}/0") for d in (8, 32, 128)]
        if any(cells):
            shown = [
                "" if c is None else f"{c['gap']:.4f}; {c['spread']:.3f}; {round(40 * c['alive'])}"
                for c in cells
            ]
            rows.append([title, *shown])
    return markdown(["student", "d = 8", "d = 32", "d = 128"], rows)


def cost(found: Mapping[str, Any]) -> str:
    rows = []
    for axis, row in found["axes"].items():
        sizes = f"{row['sizes'][0]:,} to {row['sizes'][-1]:,}"
        rows.append([axis, sizes, f"{row['exponent']:.2f}", f"{row['arithmetic']:.2f}"])
    return markdown(["axis", "sizes", "time", "arithmetic"], rows)


PIPELINES = {
    "digits": ("UNet2DModel, classes", "digits, 1x8x8", "noise"),
    "flow": ("UNet2DModel", "patches, 3x16x16", "flow"),
    "pixels": ("UNet2DModel, classes", "patches, 3x32x32", "*v*, zero terminal signal"),
    "text": ("UNet2DConditionModel, CLIP, guidance 2", "latents, 4x8x8", "*v*"),
    "dit": ("DiT, classes", "latents, 4x8x8", "noise"),
    "pixart": ("PixArt, T5", "latents, 4x8x8", "noise"),
}


def pipelines(found: Mapping[str, Any]) -> str:
    rows = []
    for name, about in PIPELINES.items():
        if name not in found:
            continue
        di, var = found[name]["diff_instruct"], found[name]["vardiu"]
        students = [
            f"{d:.3g} ± {e:.2g}" for d, e in (row["student"]["frechet"] for row in (di, var))
        ]
        recalls = [f"{r['recall'][0]:.2f}" for r in (di["teacher"], di["student"], var["student"])]
        off = max(*di["differences"].values(), *var["differences"].values())
        rows.append(
            [*about, f"{di['teacher']['frechet'][0]:.3g}", *students, *recalls, f"{off:.0e}"]
        )
    columns = ["network", "data", "predicts", "Fréchet: teacher", "Diff-Instruct", "VarDiU"]
    return markdown(
        [*columns, "recall: teacher", "Diff-Instruct", "VarDiU", "export differs by"], rows
    )


def pipeline_seeds(last: Mapping[str, Any], *others: str) -> str:
    """Pipelines of two seeds or three, each in a file: values by seeds, and the differences' means
    with their 95 % intervals."""
    from vardiu.metrics.paired import paired

    seeds = [*(json.loads((ROOT / name).read_text()) for name in others), last]
    rows = []
    for kind, about in PIPELINES.items():
        runs = [found[kind] for found in seeds if kind in found]
        if len(runs) < 2:
            continue
        cells = []
        for metric, form, gap, sign in (
            ("frechet", ".3g", ".1f", -1),
            ("recall", ".2f", ".3f", 1),
        ):
            di, var = (
                dict(enumerate(run[m]["student"][metric][0] for run in runs))
                for m in ("diff_instruct", "vardiu")
            )
            teacher = [run["diff_instruct"]["teacher"][metric][0] for run in runs]
            many = (teacher, di.values(), var.values())
            cells += [" / ".join(f"{value:{form}}" for value in values) for values in many]
            ahead = paired(var, di)
            cells.append(f"{sign * ahead.mean:+{gap}} ± {ahead.half:{gap}}")
        rows.append([about[0], about[1], *cells])
    columns = ["network", "data", "Fréchet: teacher", "Diff-Instruct", "VarDiU", "nearer by"]
    more = ["recall: teacher", "Diff-Instruct", "VarDiU", "more by"]
    return markdown([*columns, *more], rows)


def recorded(found: Mapping[str, Any], name: str) -> str:
    return markdown(found["tables"][name]["columns"], found["tables"][name]["rows"])


PAPER = {
    "plain": "none",
    "recomputed": "`--checkpoint`",
    "narrow": "`--checkpoint --optimizer adam8bit --quantise`",
}


def paper(found: Mapping[str, Any]) -> str:
    """Gigabytes of 2^30 bytes that adapters on a network ask for."""
    parts = ("base", "student", "fake", "anchor", "activations", "total")
    rows = [
        [f"{name}: {row['numbers']:,}", PAPER[options], *(f"{row[p] / 2**30:.1f}" for p in parts)]
        for name, kept in found["rows"].items()
        for options, row in kept.items()
    ]
    columns = ["network: its numbers", "options", "frozen network", "student", "fake", "anchor"]
    return markdown([*columns, "one trained call", "in all, GB"], rows)


# The README's rows: the file, the preset, the data, what is measured, and the method.
SUMMARY = (
    ("digits-small-steps", "digits-vardiu-long", "8x8 digits", ("frechet", "recall"), ""),
    (
        "digits-small-methods",
        "digits",
        "8x8 digits",
        ("frechet", "recall"),
        "Diff-Instruct, from a shorter regression",
    ),
    (
        "digits-raw-preset",
        "digits-vardiu-raw",
        "8x8 digits",
        ("frechet", "recall"),
        "VarDiU, anchored, without pairs",
    ),
    (
        "patches-small-levels",
        "patches-vardiu-long",
        "16x16 photo patches",
        ("frechet", "recall"),
        "",
    ),
    ("mog40-codes", "mog40-codes", "MoG-40", ("log_density", "mmd2"), "VarDiU, `shared`, jumps"),
)


def summary(found: Mapping[str, Any]) -> str:
    """The README's one table: medians over the seeds, of files that `collect.py` wrote."""
    rows = []
    for file, preset, data, names, method in SUMMARY:
        kept = json.loads((ROOT / f"docs/results/{file}.json").read_text())["runs"]
        mine = [run for run in kept if preset in run["command"].split()]
        known = mine[0]["reference"]["metrics"]
        shapes = [HEADINGS[name][1] for name in names]
        middle = [statistics.median(run["metrics"][name][0] for run in mine) for name in names]
        values = "; ".join(map(str.format, shapes, middle))
        teacher = "; ".join(s.format(known[n][0]) for s, n in zip(shapes, names, strict=True))
        seeds = f"{len(mine)} seeds" if len(mine) > 1 else "1 seed"
        seconds = statistics.median(run["cost"]["seconds"] for run in mine)
        measure = "; ".join(HEADINGS[name][0] for name in names)
        cells = [data, measure, teacher, f"{values} ({seeds})", method or "VarDiU, anchored"]
        rows.append([*cells, f"{seconds:.0f} s, {mine[0]['device']}"])
    columns = ["data", "measure", "teacher, or true samples", "student, 1 call, median"]
    return markdown([*columns, "method", "training"], rows)


def floors(found: Mapping[str, Any]) -> str:
    rows = [
        [title, *(f"{row['value']:.3g} ± {row['error']:.2g}" for row in space.values())]
        for title, space in found["spaces"].items()
    ]
    names = next(iter(found["spaces"].values()))
    return markdown(["Fréchet distance in", *names], rows)


# The headings of metrics, and how many digits are shown.
HEADINGS = {
    "log_density": ("log-density", "{:.2f}"),
    "mmd2": ("MMD²", "{:.2e}"),
    "modes": ("modes", "{:.0f}"),
    "sliced_w2": ("sliced W2", "{:.2f}"),
    "frechet": ("Fréchet distance", "{:.3g}"),
    "precision": ("precision", "{:.3f}"),
    "recall": ("recall", "{:.3f}"),
    "coverage": ("coverage", "{:.3f}"),
    "classes": ("classes", "{:.0f}"),
    "agreement": ("agreement", "{:.3f}"),
    "residual": ("residual", "{:.5f}"),
}


def measured(name: str, values: Sequence[float]) -> str:
    shape = HEADINGS[name][1]
    value, error = values[0], values[1]
    if shape == "{:.0f}":
        return shape.format(value)
    return (
        f"{shape.format(value)} ± {error:.1g}"
        if "e" not in shape
        else (f"{value * 1e3:.2f}e-3 ± {error * 1e3:.1g}e-3")
    )


def runs(found: Mapping[str, Any], names: str, only: str = "") -> str:
    """Runs that `benchmarks/collect.py` kept: a row a run, and what they are compared with.

    `names` are metrics by commas; `only` is a word of the command, a preset's name.
    """
    metrics, rows, references = names.split(","), [], dict[str, list[str]]()
    for run in found["runs"]:
        words = run["command"].removeprefix("vardiu distill ").split()
        if only and only not in words:
            continue
        cells = [measured(name, run["metrics"][name]) for name in metrics]
        cost = [f"{run['cost']['student_updates']:,}", f"{run['cost']['seconds']:.0f}"]
        rows.append([f"`{' '.join(words)}`", str(run["seed"]), *cells, *cost, run["device"]])
        against = run["reference"]
        if all(name in against["metrics"] for name in metrics):
            known = [measured(name, against["metrics"][name]) for name in metrics]
            references.setdefault(against["name"], [against["name"], "", *known, "", "", ""])
    columns = ["run", "seed", *(HEADINGS[name][0] for name in metrics)]
    return markdown([*columns, "updates", "seconds", "device"], [*references.values(), *rows])


def by_seeds(found: Mapping[str, Any], names: str, only: str = "") -> str:
    """Students of several calls of runs that `benchmarks/collect.py --num` kept, a row each.

    `names` are metrics by commas; `only` is a word of the command, a preset's name.
    """
    metrics, rows, references = names.split(","), [], dict[str, list[str]]()
    for run in found["runs"]:
        preset = run["command"].split()[2]
        if only and only != preset:
            continue
        against = run["reference"]
        known = [measured(name, against["metrics"][name]) for name in metrics]
        references[against["name"]] = [against["name"], "", "", *known]
        for calls, values in run.get("calls", {"1": run["metrics"]}).items():
            cells = [measured(name, values[name]) for name in metrics]
            rows.append([f"`{preset}`", calls, str(run["seed"]), *cells])
    rows.sort()
    columns = ["samples of", "calls", "seed", *(HEADINGS[name][0] for name in metrics)]
    return markdown(columns, [*references.values(), *rows])


def by_calls(found: Mapping[str, Any], names: str) -> str:
    """What `vardiu evaluate RUN --calls 1,2,4` wrote: student and teacher at equal calls."""
    metrics, rows = names.split(","), []
    for row in found["rows"]:
        known = {m["name"]: (m["value"], m["error"], m["n"]) for m in row["metrics"]}
        rows.append([row["who"], str(row["calls"]), *(measured(n, known[n]) for n in metrics)])
    known = {m["name"]: (m["value"], m["error"], m["n"]) for m in found["reference"]["metrics"]}
    rows.append([found["reference"]["name"], "", *(measured(n, known[n]) for n in metrics)])
    rows.sort(key=lambda row: (row[0].startswith("student"), row[0]))
    return markdown(["samples of", "calls", *(HEADINGS[name][0] for name in metrics)], rows)


def restorations(found: Mapping[str, Any]) -> str:
    """Arms of `benchmarks/super_resolution.py`: medians of the seeds."""
    names = {
        "psnr": ("PSNR, dB", "{:.2f}"),
        "edges": ("edges", "{:.3f}"),
        "high_frequencies": ("high frequencies", "{:.3f}"),
        "dists": ("DISTS", "{:.4f}"),
        "frechet": ("Fréchet distance, random filters", "{:.1f}"),
        "frechet_encoder": ("the same, teacher's encoder", "{:.2f}"),
    }
    rows = []
    for row in found["arms"].values():
        runs = list(row["runs"].values())
        middle = [statistics.median(run[name] for run in runs) for name in names]
        cells = [shape.format(v) for (_, shape), v in zip(names.values(), middle, strict=True)]
        rows.append([row["title"], f"{len(runs)}", *cells])
    return markdown(["arm", "seeds", *(heading for heading, _ in names.values())], rows)


def bars(found: Mapping[str, Any]) -> str:
    """Bars of `benchmarks/super_resolution.py`, the median of the seeds against each."""
    rows = []
    for row in found["bars"]:
        limit = f"≥ {row['least']:g}" if row["least"] is not None else f"≤ {row['most']:g}"
        seeds = ", ".join(f"{value:.3f}" for value in row["seeds"])
        word = "yes" if row["reached"] else "**no**"
        rows.append([row["bar"], limit, f"{row['median']:.3f}", seeds, word])
    return markdown(["bar", "limit", "median", "seeds", "reached"], rows)


def guide(found: Mapping[str, Any], names: str) -> str:
    """The points of a sweep of `vardiu guide`; `names` are metrics by commas."""
    rows = []
    for point in found["points"]:
        values = {row["name"]: (row["value"], row["error"]) for row in point["metrics"]}
        strength = point["strength"]
        kind = ["no guide", "", ""]
        if strength is not None:
            kind = [point["noise"], point["level"], f"{strength:g}"]
        calls = f"{point['student_calls']} + {point['guide_calls']}"
        cells = [measured(name, values[name]) for name in names.split(",")]
        rows.append([*kind, calls, *cells, f"{point['seconds']:.1f}"])
    headings = [HEADINGS[name][0] for name in names.split(",")]
    return markdown(["noise", "level", "strength", "calls", *headings, "seconds"], rows)


def guided(found: Mapping[str, Any]) -> str:
    """The distances of `benchmarks/guided.py`: a row a student, a column a kind of guide."""
    kinds = list(next(reversed(found["distances"].values())))
    rows = []
    for name, row in found["distances"].items():
        cells = [f"{row[k][0]:.3f} ± {row[k][1]:.1g}" if k in row else "" for k in kinds]
        rows.append([name, *cells])
    return markdown(["student", *kinds], rows)


# Options that say how and where a run was made, and not what it trains.
WHERE = {"--threads", "--device", "--evaluations", "--samples", "--seed", "--reports"}


def kept_runs(folder: Path) -> list[dict[str, Any]]:
    """The runs of all files of a folder that `collect.py` wrote. One that was measured again
    stands in two of them: it is taken by the most samples."""
    files = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    # Other files of numbers lie here too.
    lists = [found.get("runs", ()) for found in files if isinstance(found, dict)]
    kept = [run for runs in lists for run in runs if isinstance(run, dict) and "command" in run]
    once: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in kept:
        key = run["command"], run["seed"], run["cost"]["seconds"]
        if key not in once or samples_of(run) > samples_of(once[key]):
            once[key] = run
    return list(once.values())


def samples_of(run: Mapping[str, Any]) -> int:
    """The number of samples that a run was measured by."""
    return max(int(metric[2]) for metric in run["metrics"].values())


def trained_as(command: str) -> str:
    """A run's preset and the options that change what it trains."""
    words = command.removeprefix("vardiu distill ").split()
    kept, skip = [], False
    for word in words:
        skip, before = word in WHERE, skip
        kept += [] if skip or before else [word]
    return " ".join(kept)


CHOICE = {"mog40": ("mmd2", "log_density", "modes"), "digits": ("frechet", "precision", "recall")}


def over_reference(run: Mapping[str, Any], name: str) -> float:
    """A metric of a run over that of what it was compared with, by as many samples; infinite where
    it was compared with nothing, as of a training without a teacher."""
    own, theirs = run["metrics"][name], run["reference"]["metrics"].get(name)
    if theirs is None:
        return math.inf
    if own[2] != theirs[2]:
        raise SystemExit(f"{run['command']}: {name} and its reference's are of other samples")
    return float(own[0] / theirs[0])


def choice(found: Mapping[str, Any], ground: str) -> str:
    """What was measured of each method on one ground: medians over the seeds, nearest first.

    Students of a learned teacher are ordered by their distance over that teacher's, of as many
    samples: there are several teachers, and a distance is the greater the fewer samples there are.
    The methods of which no run of their own is kept are named below; a contest may have them.
    """
    from vardiu.methods import METHODS
    from vardiu.runs.presets import PRESETS

    mine: dict[str, list[Mapping[str, Any]]] = {}
    for run in found["runs"]:
        made = trained_as(run["command"])
        if made.split()[0] in PRESETS and PRESETS[made.split()[0]].problem.name == ground:
            mine.setdefault(made, []).append(run)
    names, rows, seen = CHOICE[ground], [], set()

    beside = ground == "digits"

    def nearest(made: str) -> float:
        if beside:
            return statistics.median(over_reference(run, names[0]) for run in mine[made])
        return statistics.median(run["metrics"][names[0]][0] for run in mine[made])

    for made in sorted(mine, key=nearest):
        kept, words = mine[made], made.split()
        method = PRESETS[words[0]].method
        if "--method" in words:
            method = words[words.index("--method") + 1]
        seen.add(method)
        middles = [statistics.median(run["metrics"][name][0] for run in kept) for name in names]
        values = [HEADINGS[name][1].format(v) for name, v in zip(names, middles, strict=True)]
        cost = statistics.median(run["cost"]["seconds"] for run in kept)
        device = " and ".join(sorted({"CPU" if r["device"] == "CPU" else "GPU" for r in kept}))
        if beside:
            ratio = nearest(made)
            values.insert(1, f"{ratio:.2f}" if math.isfinite(ratio) else "no teacher")
        rows.append([f"`{made}`", METHODS[method].title, str(len(kept)), *values])
        counts = {run["metrics"][names[0]][2] for run in kept} if beside else set()
        rows[-1] += [", ".join(f"{n:,}" for n in sorted(counts))] if beside else []
        rows[-1].append(f"{cost:.0f} s, {device}")
    heads = [HEADINGS[name][0] for name in names]
    if beside:
        heads.insert(1, "over the teacher's")
        heads.append("samples")
    table = markdown(["run", "method", "seeds", *heads, "training"], rows)
    students = [m for m in METHODS.values() if not (m.teaches or m.needs.paired)]
    without = sorted(m.title for m in students if m.name not in seen)
    return f"{table}\n\nNo run of its own is kept of: {', '.join(without)}."


def _of(found: Sequence[Mapping[str, Any]], key: str, **fixed: Any) -> str:
    """The median over seeds of what restorations have in common."""
    rows = [r[key] for r in found if key in r and all(r.get(k) == v for k, v in fixed.items())]
    return f"{statistics.median(rows):.1f}" if rows else ""


def restored_photos(found: Mapping[str, Any], side: str = "16") -> str:
    """PSNR by step size: DPS under an exact Gaussian prior of patches."""
    rows = [r for r in found["restorations"] if r["part"] == "photos" and r["side"] == int(side)]
    steps = sorted({r["step"] for r in rows if "step" in r})
    lines = []
    for name in dict.fromkeys(r["operator"] for r in rows):
        for variant in dict.fromkeys(r["variant"] for r in rows if "step" in r):
            fixed = {"operator": name, "variant": variant}
            cells = [_of(rows, "psnr", step=z, **fixed) for z in steps]
            known = [float(cell) for cell in cells if cell]
            if not known:
                continue
            spread = f"{max(known) - min(known):.1f}"
            low = " / ".join(_of(rows, "tenth", step=z, **fixed) for z in steps)
            lines.append([name, variant, *cells, spread, low])
        for line in ("posterior mean", "posterior sample"):
            value = _of(rows, "psnr", operator=name, variant=line)
            lines.append([name, line, value, *[""] * (len(steps) + 1)])
    head = ["operator", "projection", *(f"ζ = {z:g}" for z in steps)]
    return markdown([*head, "largest less smallest", "10th percentiles"], lines)


def restored_solvers(found: Mapping[str, Any]) -> str:
    rows = [r for r in found["restorations"] if r["part"] == "solvers"]
    lines = []
    for name in dict.fromkeys(r["solver"] for r in rows):
        steps = sorted({r["step"] for r in rows if r["solver"] == name})
        for variant in dict.fromkeys(r["variant"] for r in rows):
            fixed = {"solver": name, "variant": variant}
            for key, title in (("psnr", "PSNR"), ("residual", "residual")):
                cells = [
                    statistics.median(r[key] for r in rows if r["step"] == z and _is(r, fixed))
                    for z in steps
                ]
                shown = " / ".join(f"{c:.1f}" if key == "psnr" else f"{c:.3f}" for c in cells)
                sizes = " / ".join(f"{z:g}" for z in steps)
                lines.append([name, variant, sizes, title, shown])
    return markdown(["solver", "projection", "step sizes", "what", "medians"], lines)


def _is(row: Mapping[str, Any], fixed: Mapping[str, Any]) -> bool:
    return all(row.get(key) == value for key, value in fixed.items())


def restored_digits(found: Mapping[str, Any]) -> str:
    rows = [r for r in found["restorations"] if r["part"] == "digits"]
    variants = list(dict.fromkeys(r["variant"] for r in rows if "solver" in r))
    lines = []
    for name in dict.fromkeys(r["operator"] for r in rows):
        known = [(r["solver"], r["step"]) for r in rows if "solver" in r and r["operator"] == name]
        exact = _of(rows, "psnr", operator=name, variant="posterior sample")
        for solver, step in sorted(set(known)):
            fixed = {"operator": name, "solver": solver, "step": step}
            cells = [_of(rows, "psnr", variant=v, **fixed) for v in variants]
            lines.append([name, f"{solver}, {step:g}", *cells, exact])
    return markdown(["operator", "solver, step size", *variants, "posterior sample"], lines)


def restored_mixture(found: Mapping[str, Any]) -> str:
    rows = [r for r in found["restorations"] if r["part"] == "mixture"]
    lines = []
    for name in dict.fromkeys(r["variant"] for r in rows):
        values = [r["w2"] for r in rows if r["variant"] == name]
        each = " / ".join(f"{value:.2f}" for value in values)
        lines.append([name, f"{statistics.median(values):.2f}", each])
    return markdown(["samples", "sliced W2, median", "each seed"], lines)


# What the table of a contest shows of points and of images: its heading, shape and unit. The first
# one orders it.
SHOWN = (
    {
        "mmd2": ("MMD², 1e-3", "{:.2f}", 1e3),
        "log_density": ("log-density", "{:.2f}", 1),
        "modes": ("modes", "{:g}", 1),
    },
    {
        "frechet": ("Fréchet distance", "{:.3g}", 1),
        "precision": ("precision", "{:.3f}", 1),
        "recall": ("recall", "{:.3f}", 1),
    },
)


def bake_off_all(found: Mapping[str, Any], group: str, *arms: str) -> str:
    """All arms of a contest under one budget, or some of them, the nearest first: median and range
    of the seeds."""
    groups, out = found["groups"][group], found.get("left_out", {}).get(group, {})
    groups = {arm: groups[arm] for arm in arms or groups}
    has = next(runs for runs in groups.values() if runs)[0]["metrics"]
    shown = next(columns for columns in SHOWN if set(columns) <= set(has))

    def spread(runs: Sequence[Mapping[str, Any]], name: str) -> str:
        _, shape, scale = shown[name]
        values = [run["metrics"][name] * scale for run in runs]
        ends = {shape.format(end(values)) for end in (min, max)}
        words = f" ({shape.format(min(values))} to {shape.format(max(values))})"
        return shape.format(statistics.median(values)) + (words if len(ends) > 1 else "")

    rows = []
    first = next(iter(shown))
    order = sorted((arm for arm in groups if groups[arm]), key=lambda a: median(groups[a], first))
    for arm in order:
        runs = groups[arm]
        verdicts = [run["verdict"] for run in runs]
        words = ", ".join(f"{v} {verdicts.count(v)}" for v in dict.fromkeys(verdicts))
        rows.append(
            [
                f"`{arm}`",
                *(spread(runs, name) for name in shown),
                f"{middle(runs, 'student_updates'):,.0f}",
                f"{middle(runs, 'teacher_rows'):,.0f}",
                f"{middle(runs, 'seconds'):.0f}",
                words,
                f"{len(runs)} of {found['seeds']}",
            ]
        )
    for arm in groups:
        if not groups[arm]:
            why = "left out" if arm in out else "not run"
            rows.append([f"`{arm}`", *[""] * 7, why])
    columns = ["arm", *(heading for heading, _, _ in shown.values()), "updates", "teacher rows"]
    return markdown([*columns, "seconds", "verdicts", "runs"], rows)


MOVES = {
    "msd_denoiser": "mean shift, denoiser",
    "msd_product": "mean shift, product",
    "sds": "SDS",
    "sdi": "SDI",
    "ddim": "DDIM's samples",
    "truth": "true samples",
}


def mean_shift(found: Mapping[str, Any]) -> str:
    """Where particles came to rest, by density, denoiser and method."""
    rows = []
    for cell, row in found["cells"].items():
        for name, title in MOVES.items():
            score = row["scores"][name]
            shown = [f"{score[key]:.2f}" for key in ("nll", "nll_median")]
            shown.append(f"{score['mmd2'] * 1e3:.1f}")
            shown += [f"{score[key]:.2f}" for key in ("precision", "recall")]
            calls = score.get("calls_a_step")
            rows.append([cell.replace("/", ", "), title, *shown, f"{calls:.0f}" if calls else ""])
    columns = ["density, denoiser", "", "NLL", "its median", "MMD², 1e-3", "precision", "recall"]
    return markdown([*columns, "calls a step"], rows)


def mean_shift_gradients(found: Mapping[str, Any]) -> str:
    """The error of one direction by the calls that it costs."""
    rows = []
    for cell, row in found["cells"].items():
        for name, points in row["gradients"].items():
            each = ", ".join(f"{calls}: {error:.2g}" for calls, error in points.items())
            rows.append([cell.replace("/", ", "), MOVES[name], each])
    return markdown(["density, denoiser", "", "calls: error"], rows)


def fifths(values: Sequence[float]) -> tuple[float, float]:
    """The medians of the first and of the last fifth of a series."""
    part = max(1, len(values) // 5)
    return statistics.median(values[:part]), statistics.median(values[-part:])


def adversarial(found: Mapping[str, Any]) -> str:
    """The students of `benchmarks/adm.py`, and DMD's loss at the first and the last fifth."""
    rows = []
    for title, row in found["rows"].items():
        metrics, losses = row["metrics"], row["log"].get("head/dmd")
        ends = "{:.3g} to {:.3g}".format(*fifths(losses)) if losses else ""
        modes = f"{metrics['modes']['value']:.0f}"
        near = [f"{metrics['log_density']['value']:.2f}", f"{metrics['mmd2']['value'] * 1e3:.2f}"]
        rows.append([title, modes, *near, f"{row['steps']:,}", ends])
    return markdown(["student", "modes", "log-density", "MMD², 1e-3", "steps", "DMD's loss"], rows)


def families(found: Mapping[str, Any]) -> str:
    """What stock pipelines drew of `benchmarks/families.py`: distances to patches."""
    rows = []
    for kind, row in found["kinds"].items():
        for drawn in row["rows"]:
            near = [f"{f['value']:.0f} ± {f['error']:.2g}" for f in drawn["frechet"]]
            calls = str(drawn["calls"]) if drawn["calls"] else ""
            rows.append([kind, drawn["of"], calls, str(drawn["images"]), *near])
    heads = ["shaped as", "images of", "calls", "images"]
    return markdown([*heads, "Fréchet distance, random filters", "principal components"], rows)


def held_out(found: Mapping[str, Any]) -> str:
    """Students and their teacher against images that nobody trained on."""
    names = ("frechet", "precision", "recall")
    rows = [
        [f"`{row['preset']}`", str(row["seed"])]
        + [measured(name, row["metrics"][name]) for name in names]
        for row in found["rows"]
    ]
    known = found["rows"][0]["teacher"]
    teacher = ["teacher, 69 calls", "", *(measured(name, known[name]) for name in names)]
    return markdown(["samples of", "seed", *(HEADINGS[n][0] for n in names)], [teacher, *rows])


def after_regression(found: Mapping[str, Any]) -> str:
    """Bounds after one regression: against the patches of the training, and the others."""
    sets = {"held_out": "held out", "training": "training patches"}
    cells = [(data, name) for data in sets for name in ("frechet", "recall")]
    known = {"bound": "teacher, 69 calls", **found["teacher"]}
    rows = [
        [row["bound"], *(measured(name, row[data][name]) for data, name in cells)]
        for row in (known, *found["rows"])
    ]
    heads = [f"{HEADINGS[name][0]}, {sets[data]}" for data, name in cells]
    return markdown(["the bound", *heads], rows)


def tries(found: Mapping[str, Any]) -> str:
    """Runs of one preset, each by the options that tell it apart from the others; of patches also
    against those that nobody trained on."""
    options = [
        re.findall(r"--\S+(?: [^-]\S*)?", trained_as(run["command"])) for run in found["rows"]
    ]
    shared = set.intersection(*map(set, options))
    names = ("frechet", "precision", "recall")
    cells = [("metrics", name) for name in names]
    heads = [HEADINGS[name][0] for name in names]
    if "held_out" in found["rows"][0]:
        apart = ("frechet", "recall")
        cells += [("held_out", name) for name in apart]
        heads += [f"{HEADINGS[name][0]}, held out" for name in apart]
    reference = found["rows"][0]["reference"]
    rows = [[reference["name"], *(measured(n, reference[of][n]) for of, n in cells)]]
    for run, own in zip(found["rows"], options, strict=True):
        told = " ".join(option for option in own if option not in shared)
        values = (measured(name, run[of][name]) for of, name in cells)
        rows.append([f"`{told}`" if told else "none", *values])
    return markdown(["options", *heads], rows)


def relations(found: Mapping[str, Any]) -> str:
    """Arms of `benchmarks/rdd.py` at one step: each seed's distance, and the means."""
    rows = []
    for arm, seeds in found["runs"].items():
        distances = [row["frechet"] for row in seeds.values()]
        named = ("precision", "recall")
        means = [statistics.fmean(row[name] for row in seeds.values()) for name in named]
        each = ", ".join(f"{value:.3f}" for value in distances)
        rows.append([arm, f"{statistics.fmean(distances):.3f}", each])
        rows[-1] += [f"{value:.3f}" for value in means]
    heads = ["arm", "Fréchet distance, mean", "of each seed", "precision", "recall"]
    return markdown(heads, rows)


def solvers(found: Mapping[str, Any]) -> str:
    """A teacher's samples by method and number of steps, see `benchmarks/solvers.py`."""
    rows = []
    for name, row in found["rows"].items():
        solver, steps = name.split()
        title = "DDIM" if solver == "ddim" else "Heun"
        frechet = f"{row['frechet'][0]:.4f} ± {row['frechet'][1]:.2f}"
        parts = [f"{row[key][0]:.3f}" for key in ("precision", "recall")]
        cells = [f"{row['deviation']:.4f}", frechet, f"{row['ratio in random filters']:.2f}"]
        rows.append([title, steps, str(row["calls"]), *cells, *parts])
    heads = ["method", "steps", "calls", "deviation of N(0, ¼)", "Fréchet distance"]
    return markdown([*heads, "ratio in random filters", "precision", "recall"], rows)


def attention(found: Mapping[str, Any]) -> str:
    """Milliseconds of `benchmarks/attention.py`: a row of a part, a column of a way."""
    ways = list(dict.fromkeys(row["how"] for row in found["rows"]))
    parts: dict[str, dict[str, str]] = {}
    for row in found["rows"]:
        name = row["what"]
        if name in found["shapes"]:
            name = "attention, " + " x ".join(map(str, found["shapes"][name]))
        parts.setdefault(name, {})[row["how"]] = f"{row['milliseconds']:.1f}"
    rows = [[name, *(by[way] for way in ways)] for name, by in parts.items()]
    return markdown(["forward and backward, ms", *ways], rows)


def card_steps(found: Mapping[str, Any]) -> str:
    """Updates a second and memory of `benchmarks/gpu.py`: a row a network and method."""
    modes = ("eager", "compiled", "graphs")
    cells: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in found["rows"]:
        if row["method"] != "sampling" and "failed" not in row:
            key = row["network"], row["method"], row["precision"]
            cells.setdefault(key, {})[row["mode"]] = row
    # Older files have the allocator's peak alone.
    old = any("peak_mib" in row for row in found["rows"])
    kept = "peak_mib" if old else "reserved_mib"
    rows = []
    for (network, method, kind), by in cells.items():
        first = next(iter(by.values()))
        about = [network, f"{first['weights']:,}", str(first["rows"]), kind, method]
        speeds = [f"{by[m]['steps_per_second']:.1f}" if m in by else "–" for m in modes]
        sizes = [by[m][kept] if m in by else None for m in modes]
        memory = ["–" if size is None else f"{size:,.0f}" for size in sizes]
        rows.append([*about, " / ".join(speeds), " / ".join(memory)])
    heads = ["network", "weights", "rows", "type", "method"]
    what = "MiB of the allocator, without graphs' own" if old else "MiB reserved"
    heads += ["updates/s: eager / compiled / graphs", f"{what}: the same"]
    return markdown(heads, rows)


def card_calls(found: Mapping[str, Any]) -> str:
    """One-call sampling of `benchmarks/gpu.py`."""
    rows = [
        [
            row["network"],
            row["precision"],
            f"{row['latency_ms']:.2f}",
            f"{row['images_per_second']:,.0f}",
            f"{row['fraction_of_peak']:.2%}",
        ]
        for row in found["rows"]
        if row["method"] == "sampling" and "failed" not in row
    ]
    heads = ["network", "type", "one sample, ms", "samples/s in batches of 256", "of the peak"]
    return markdown(heads, rows)


def scale_messages(found: Mapping[str, Any]) -> str:
    """What a step computes and sends, of `benchmarks/scale.py`."""
    columns = ["method on MoG-40", "forwards a step", "teacher's calls a step"]
    return markdown(
        [*columns, "networks sent", "MiB sent"],
        [
            [
                name,
                *(f"{row[key]:.2f}" for key in ("forwards", "teacher", "sent")),
                f"{row['bytes'] / 2**20:.2f}",
            ]
            for name, row in found["rows"].items()
        ],
    )


def scale_times(found: Mapping[str, Any]) -> str:
    """The clock of a step by one process and by two, beside the model's, of the same file."""
    columns = ["method", "one process, clock", "shared by two, clock", "predicted"]
    return markdown(
        [*columns, "measured / predicted", "efficiency in processor time"],
        [
            [
                name,
                *(f"{1000 * row[key]['clock']:.0f} ms" for key in ("one", "shared")),
                f"{1000 * row['predicted']:.0f} ms",
                f"{row['ratio']:.2f}",
                f"{row['efficiency']:.2f}",
            ]
            for name, row in found["rows"].items()
        ],
    )


def scale_gpus(found: Mapping[str, Any]) -> str:
    """The model's seconds of a step on many GPUs, of the same file: on paper."""
    numbers = list(next(iter(found["rows"].values()))["gpus"])
    columns = ["method", f"{numbers[0]} GPU", *(f"{int(n):,}" for n in numbers[1:])]
    return markdown(
        [*columns, f"efficiency at {int(numbers[-1]):,}"],
        [
            [
                name,
                *(f"{row['gpus'][n]['work'] + row['gpus'][n]['messages']:.3g} s" for n in numbers),
                f"{row['gpus'][numbers[-1]]['efficiency']:.2f}",
            ]
            for name, row in found["rows"].items()
        ],
    )


def siege(found: Mapping[str, Any]) -> str:
    """Kills of runs by what the run was at, of `benchmarks/siege.py`."""
    titles = {"density": "a density", "digits": "digits, with pairs", "teach": "a teacher"}
    titles |= {"bake-off": "a bake-off", "processes": "two processes under torchrun"}
    stages = {"starting": ["starting"], "making pairs or training": ["making pairs", "training"]}
    stages |= {"measuring or writing": ["measuring"]}
    rows, sums = [], [0] * (len(stages) + 4)
    for name, kind in found["kinds"].items():
        kills = kind["kills"]
        alone = sum(kill["killed"] != "all" for kill in kills)
        at = [sum(kill["at"] in places for kill in kills) for places in stages.values()]
        counts = [kind["runs"], len(kills), *at, alone, kind["differing"]]
        sums = [total + count for total, count in zip(sums, counts, strict=True)]
        rows.append([titles[name], *map(str, counts)])
    columns = ["run", "runs", "kills", *stages, "of one process of several", "runs that differ"]
    return markdown(columns, [*rows, ["all", *map(str, sums)]])


RENDERERS: Mapping[str, Callable[..., str]] = {
    "attention": attention,
    "families": families,
    "held_out": held_out,
    "relations": relations,
    "solvers": solvers,
    "card-steps": card_steps,
    "card-calls": card_calls,
    "restorations": restorations,
    "bars": bars,
    "bake-off-time": bake_off_time,
    "bake-off-calls": bake_off_calls,
    "bake-off-gradients": bake_off_gradients,
    "bake-off-all": bake_off_all,
    "mean-shift": mean_shift,
    "mean-shift-gradients": mean_shift_gradients,
    "adversarial": adversarial,
    "slack": slack,
    "fixes": fixes,
    "longer": longer,
    "presets": presets,
    "cost": cost,
    "pipelines": pipelines,
    "pipeline_seeds": pipeline_seeds,
    "after_regression": after_regression,
    "tries": tries,
    "paper": paper,
    "recorded": recorded,
    "summary": summary,
    "floors": floors,
    "runs": runs,
    "guide": guide,
    "guided": guided,
    "choice": choice,
    "by_calls": by_calls,
    "by_seeds": by_seeds,
    "scale-messages": scale_messages,
    "scale-times": scale_times,
    "scale-gpus": scale_gpus,
    "siege": siege,
    "restored-photos": restored_photos,
    "restored-solvers": restored_solvers,
    "restored-digits": restored_digits,
    "restored-mixture": restored_mixture,
}


def rendered(words: str) -> str:
    """The table that a comment asks for: a renderer, its arguments, and the file last; a folder
    stands for all runs that its files keep."""
    name, *arguments, last = words.split()
    place = ROOT / last
    found = {"runs": kept_runs(place)} if place.is_dir() else json.loads(place.read_text())
    return RENDERERS[name](found, *arguments)


def written(text: str) -> str:
    """A page with its tables made anew."""
    return PLACE.sub(lambda m: f"{m['open']}{rendered(m['words'])}\n<!-- end of table -->", text)


def pages() -> Iterator[Path]:
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    different = 0
    for page in pages():
        text = page.read_text()
        new = written(text)
        if new != text:
            different += 1
            print(page.relative_to(ROOT))
            if not check:
                page.write_text(new)
    return int(check and different > 0)


if __name__ == "__main__":
    sys.exit(main())
