r"""Steps a second, memory, and one-call sampling on an accelerator.

    python benchmarks/gpu.py [--minutes 10] [--out docs/results/gpu.json]

Three networks (the MLP of `mog40`, the U-Net of `digits`, an ADM of 77 million weights at
3x64x64) are trained by VarDiU with the anchored posterior and by Diff-Instruct with one update of
the fake, at equal batches: eager, compiled, and compiled with captured graphs; in float32, in
float32 with TF32 products, and in bfloat16. Weights are random: the measurements do not depend
on them. Then the student samples: the median latency of one image, and the throughput of batches
of 256 with the fraction of the machine's peak. The peak is that of a large matrix product of the
same type, measured here.

Networks compile apart: each is a graph of its own, the anchor's among them. Memory is what the
process has reserved, captured graphs' own pool included, of which the allocator's peak knows
nothing.

Eager rows of all types come first, then what is compiled of the small networks, and of the large
one last. A row that is compiled starts only while more time is left than the longest compilation
took so far. Every row is written to the file as soon as it is measured: the same command goes on
from there, on the same card with the same torch. What was left out, and what did not fit in the
card's memory, is said there too. `--device cpu --tiny` tries the script on a processor.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import vardiu
from vardiu.data.batches import DataFree
from vardiu.denoisers.base import Denoiser
from vardiu.denoisers.levels import LogUniform
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.methods.anchored import Anchor, AnchoredVarDiU
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.nn import UNet, backbones, with_precision
from vardiu.nn.adm import DhariwalUNet
from vardiu.problems.densities import DensityProblem
from vardiu.runs.presets import PRESETS
from vardiu.settings.fields import AnchorSettings
from vardiu.storage.files import write_text_atomic
from vardiu.students.base import Generator
from vardiu.students.few_step import OneStep
from vardiu.training.objective import networks
from vardiu.training.optimizers import Optimisation
from vardiu.training.trainer import Trainer

MODES = {"eager": None, "compiled": "default", "graphs": "reduce-overhead"}
PRECISIONS = ("float32", "tf32", "bfloat16")
BATCH, LARGEST = 1, 256
# The rows of a batch in training.
ROWS = {"mog40": 512, "digits": 128, "adm": 64}
TINY_ROWS = {"mog40": 32, "digits": 4, "adm": 4}
# Seconds of a network's compilation before one has been seen: on an H100 it took 140 to 160.
COMPILES = {"adm": 160.0}


class Players(NamedTuple):
    """What is trained: a teacher, a student, a fake, and the rows of a batch."""

    teacher: Denoiser
    student: Generator
    fake: Denoiser
    rows: int


class Job(NamedTuple):
    """What a row is of; `sampling` stands in the place of a method."""

    network: str
    precision: str
    method: str
    mode: str


def rows_of(network: str, tiny: bool) -> int:
    return (TINY_ROWS if tiny else ROWS)[network]


def density(precision: str, tiny: bool) -> Players:
    """The exact teacher of MoG-40, and perceptrons that compute in the type."""
    row = dataclasses.replace(PRESETS["mog40"].problem, precision=precision)
    problem = DensityProblem(row, 0)
    return Players(
        problem.known_teacher,
        problem.networks.student(),
        problem.networks.fake(),
        rows_of("mog40", tiny),
    )


def images(name: str, network: Callable[[], nn.Module], shape: tuple[int, ...]) -> Callable:
    def made(precision: str, tiny: bool) -> Players:
        def denoiser() -> Denoiser:
            inner = with_precision(network(), precision)
            return PreconditionedDenoiser(
                inner, shape=shape, sigma_data=0.5, sigma_min=0.01, sigma_max=80.0
            )

        return Players(denoiser(), OneStep(denoiser(), 2.5), denoiser(), rows_of(name, tiny))

    return made


def cases(tiny: bool) -> dict[str, Callable[[str, bool], Players]]:
    """The networks by name; tiny ones try the script."""
    width, side = (8, 16) if tiny else (128, 64)
    adm = lambda: DhariwalUNet(  # noqa: E731
        side,
        3,
        3,
        model_channels=width,
        channel_mult=(1, 2, 3, 3),
        num_blocks=2,
        attn_resolutions=() if tiny else (16, 8),
    )
    return {
        "mog40": density,
        "digits": images("digits", lambda: UNet(1, widths=(32, 64), depth=2), (1, 8, 8)),
        "adm": images("adm", adm, (3, side, side)),
    }


def anchored(p: Players, levels: LogUniform) -> DiffInstruct:
    anchor = Anchor(p.student, AnchorSettings(), 1, 10**6)
    return AnchoredVarDiU(
        p.teacher, p.student, p.fake, levels=levels, anchor=anchor, antithetic=False
    )


def plain(p: Players, levels: LogUniform) -> DiffInstruct:
    return DiffInstruct(p.teacher, p.student, p.fake, levels=levels, ratio=1)


METHODS = {"vardiu, anchored": anchored, "diff_instruct": plain}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compile_all(objective: nn.Module, mode: str) -> None:
    """Compiles the networks that the losses ask; the anchor's and the teacher's among them."""
    for network in networks(objective).values():
        for inner in backbones(network):
            inner.compile(mode=mode)


def free_memory(device: torch.device) -> None:
    """Gives back what rows before have left, captured graphs and their pools too."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def memory(device: torch.device) -> dict[str, float | None]:
    """The most MiB that were reserved since `free_memory`, and that tensors of the allocator's
    ordinary pool took."""
    if device.type != "cuda":
        return {"reserved_mib": None, "allocated_mib": None}
    return {
        "reserved_mib": torch.cuda.max_memory_reserved(device) / 2**20,
        "allocated_mib": torch.cuda.max_memory_allocated(device) / 2**20,
    }


def train(p: Players, method: str, mode: str | None, device: torch.device, seconds: float) -> dict:
    """Steps a second of a method, and its memory."""
    objective = METHODS[method](p, LogUniform(0.1, 6.0)).to(device)
    trainer = Trainer(objective, Optimisation.adam({"fake": 1e-5, "generator": 1e-5}), steps=10**6)
    if mode is not None:
        compile_all(objective, mode)
    batches = DataFree(p.rows)
    started = time.perf_counter()
    for _ in range(3):
        trainer.advance(batches)
    wait(device)
    warm = time.perf_counter() - started
    started, steps = time.perf_counter(), 0
    while steps < 5 or time.perf_counter() - started < seconds:
        trainer.advance(batches)
        steps += 1
    wait(device)
    spent = time.perf_counter() - started
    return {
        "steps_per_second": steps / spent,
        **memory(device),
        "warm_seconds": warm,
        "rows": p.rows,
    }


def products(precision: str, device: torch.device, n: int) -> float:
    """The floating-point operations a second of a product of two matrices of side n."""
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(n, n, device=device, dtype=kind) for _ in range(2))
    for _ in range(3):
        a @ b
    wait(device)
    started, times = time.perf_counter(), 0
    while times < 10 or time.perf_counter() - started < 0.5:
        a @ b
        times += 1
        wait(device)
    return 2 * n**3 * times / (time.perf_counter() - started)


@torch.no_grad()
def sample(student: Generator, device: torch.device, peak: float, tiny: bool) -> dict:
    """The latency of one image, and the throughput of a batch with its fraction of the peak."""
    student = student.to(device).eval()
    largest = 8 if tiny else LARGEST

    def call(z: torch.Tensor) -> float:
        started = time.perf_counter()
        student(z)
        wait(device)
        return time.perf_counter() - started

    one, many = (student.latent(n).to(device) for n in (BATCH, largest))
    times = {}
    for name, z in (("one", one), ("many", many)):
        for _ in range(5):
            call(z)
        times[name] = statistics.median(call(z) for _ in range(10 if tiny else 50))
    with FlopCounterMode(display=False) as counter:
        student(many)
    rate = counter.get_total_flops() / times["many"]
    return {
        "latency_ms": 1e3 * times["one"],
        "images_per_second": largest / times["many"],
        "fraction_of_peak": rate / peak,
        "batch": largest,
    }


def set_products(precision: str) -> None:
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def jobs(modes: Sequence[str]) -> list[Job]:
    """All rows, in their order; the types that matter most first."""
    made = [
        Job(network, kind, method, mode)
        for kind in reversed(PRECISIONS)
        for network in ROWS
        for method, mode in (
            *((method, mode) for method in METHODS for mode in modes),
            ("sampling", "eager"),
        )
    ]
    return sorted(made, key=lambda job: (job.mode != "eager") * (1 + (job.network in COMPILES)))


def measured(job: Job, tiny: bool, device: torch.device) -> dict[str, Any]:
    """What is measured of a row, or what failed."""
    free_memory(device)
    set_products(job.precision)
    kind = "bfloat16" if job.precision == "bfloat16" else "float32"
    torch.manual_seed(0)
    players = cases(tiny)[job.network](kind, tiny)
    try:
        if job.method == "sampling":
            peak = products(job.precision, device, 256 if tiny else 8192)
            return {"peak_flops": peak, **sample(players.student, device, peak, tiny)}
        size = sum(p.numel() for p in players.student.parameters())
        found = train(players, job.method, MODES[job.mode], device, 0.2 if tiny else 3.0)
        return {"weights": size, **found}
    except torch.OutOfMemoryError:
        return {"failed": "out of memory", "rows": players.rows, **card_memory(device)}


def card_memory(device: torch.device) -> dict[str, float | None]:
    """The MiB of the card, and those of them that nobody has taken."""
    if device.type != "cuda":
        return {"free_mib": None, "total_mib": None}
    free, total = (size / 2**20 for size in torch.cuda.mem_get_info(device))
    return {"free_mib": free, "total_mib": total}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as two tables in Markdown; what failed is below them."""
    steps = ["| network | type | method | mode | steps/s | MiB |", "|---|---|---|---|---|---|"]
    calls = [
        "| network | type | one image, ms | images/s, batch | of the peak |",
        "|---|---|---|---|---|",
    ]
    failed = []
    for row in rows:
        if "failed" in row:
            words = [row[name] for name in ("network", "precision", "method", "mode", "failed")]
            failed.append(", ".join(words))
        elif row["method"] == "sampling":
            calls.append(
                f"| {row['network']} | {row['precision']} | {row['latency_ms']:.2f} | "
                f"{row['images_per_second']:.0f}, {row['batch']} | {row['fraction_of_peak']:.1%} |"
            )
        else:
            mib = "–" if row["reserved_mib"] is None else f"{row['reserved_mib']:,.0f}"
            steps.append(
                f"| {row['network']} | {row['precision']} | {row['method']} | {row['mode']} | "
                f"{row['steps_per_second']:.1f} | {mib} |"
            )
    return "\n".join([*steps, "", *calls, *(["", *failed] if failed else [])])


def about(chosen: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """What rows must have in common to stand in one file."""
    on_card = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_card else "a processor",
        "memory_mib": card_memory(device)["total_mib"],
        "torch": torch.__version__,
        "tiny": chosen.tiny,
        "batch_rows": TINY_ROWS if chosen.tiny else ROWS,
    }


def kept_rows(path: Path, here: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a file that this machine was measured for; what failed is tried again.

    Raises:
        ValueError: It is of something else.
    """
    if not path.exists():
        return []
    cure = f"give another file with --out, as --out {path.with_stem(path.stem + '-2')}"
    try:
        found = json.loads(path.read_text())
        there = {name: found.get(name) for name in here} | {"torch": found["versions"]["torch"]}
        rows = [row for row in found["rows"] if "failed" not in row]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no rows of this script: {cure}") from error
    other = [
        f"{name} {there[name]}, here {here[name]}" for name in here if there[name] != here[name]
    ]
    if other:
        raise ValueError(f"{path} is of {'; '.join(other)}: it stays as it is; {cure}")
    return rows


def longest_compile(rows: Iterable[Mapping[str, Any]], network: str) -> float:
    """The seconds that a compilation of a network may take: the longest so far of any, and what is
    known of this network before one of its own has been seen."""
    compiled = [row for row in rows if row["mode"] != "eager" and "warm_seconds" in row]
    own = any(row["network"] == network for row in compiled)
    first = [] if own else [COMPILES.get(network, 0.0)]
    return max([*(row["warm_seconds"] for row in compiled), *first], default=0.0)


def key_of(row: Mapping[str, Any]) -> Job:
    return Job(*(row[name] for name in Job._fields))


def measure(chosen: argparse.Namespace, content: dict[str, Any], device: torch.device) -> None:
    """Measures what the content lacks, and writes it after each row."""
    rows, tiny = content["rows"], chosen.tiny
    ends = time.monotonic() + 60 * chosen.minutes
    done = {key_of(row) for row in rows}
    for job in jobs(chosen.modes):
        if job in done:
            continue
        wanted = 0.0 if job.mode == "eager" or tiny else longest_compile(rows, job.network)
        if ends - time.monotonic() <= wanted:
            content["left_out"].append(job._asdict())
        else:
            row = {**job._asdict(), **measured(job, tiny, device)}
            rows.append(row)
            print(json.dumps(row), flush=True)
        write_text_atomic(chosen.out, json.dumps(content, indent=1) + "\n")


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--out", type=Path, default=Path("docs/results/gpu.json"))
    parser.add_argument("--tiny", action="store_true", help="small networks: a test of the script")
    chosen = parser.parse_args(words)
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing was measured (--device cpu --tiny tries the script)")
        return 2
    here = about(chosen, device)
    try:
        rows = kept_rows(chosen.out, here)
    except ValueError as error:
        print(error)
        return 2
    if rows:
        print(f"{len(rows)} rows of {chosen.out} are kept")
    versions = {"vardiu": vardiu.__version__, "torch": here.pop("torch")}
    content = {
        "command": ["python", "benchmarks/gpu.py", *(sys.argv[1:] if words is None else words)],
        "versions": versions,
        **here,
        "minutes": chosen.minutes,
        "rows": rows,
        "left_out": [],
    }
    measure(chosen, content, device)
    print(table(rows))
    if content["left_out"]:
        names = ("/".join(job.values()) for job in content["left_out"])
        print(f"the minutes did not suffice for all of: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
