r"""Steps a second, memory, and one-call sampling on an accelerator.

    python benchmarks/gpu.py [--minutes 10] [--out docs/results/gpu.json]

Three networks (the MLP of `mog40`, the U-Net of `digits`, an ADM of 77 million weights at
3x64x64) are trained by VarDiU with the anchored posterior and by Diff-Instruct with one update of
the fake, at equal batches: eager, compiled, and compiled with captured graphs; in float32, in
float32 with TF32 products, and in bfloat16. Weights are random: the measurements do not depend
on them. Then the student samples: the median latency of one image, and the throughput of batches
of 256 with the fraction of the machine's peak. The peak is that of a large matrix product of the
same type, measured here.

Every row is written to the file as soon as it is measured. If the minutes do not suffice, the
script says what it left out. `--device cpu --tiny` tries the script on a processor.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
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
from vardiu.nn import UNet, with_precision
from vardiu.nn.adm import DhariwalUNet
from vardiu.problems.densities import DensityProblem
from vardiu.runs.presets import PRESETS
from vardiu.settings.fields import AnchorSettings
from vardiu.storage.files import write_text_atomic
from vardiu.students.base import Generator
from vardiu.students.few_step import OneStep
from vardiu.training.optimizers import Optimisation
from vardiu.training.trainer import Trainer

MODES = {"eager": None, "compiled": "default", "graphs": "reduce-overhead"}
PRECISIONS = ("float32", "tf32", "bfloat16")
BATCH, LARGEST = 1, 256


class Players(NamedTuple):
    """What is trained: a teacher, a student, a fake, and the rows of a batch."""

    teacher: Denoiser
    student: Generator
    fake: Denoiser
    rows: int


def density(precision: str, tiny: bool) -> Players:
    problem = DensityProblem(PRESETS["mog40"].problem, 0)
    return Players(
        problem.known_teacher,
        problem.networks.student(),
        problem.networks.fake(),
        32 if tiny else 512,
    )


def images(network: Callable[[], nn.Module], shape: tuple[int, ...], rows: int) -> Callable:
    def made(precision: str, tiny: bool) -> Players:
        def denoiser() -> Denoiser:
            inner = with_precision(network(), precision)
            return PreconditionedDenoiser(
                inner, shape=shape, sigma_data=0.5, sigma_min=0.01, sigma_max=80.0
            )

        return Players(denoiser(), OneStep(denoiser(), 2.5), denoiser(), 4 if tiny else rows)

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
        "digits": images(lambda: UNet(1, widths=(32, 64), depth=2), (1, 8, 8), 128),
        "adm": images(adm, (3, side, side), 64),
    }


def anchored(p: Players, levels: LogUniform) -> DiffInstruct:
    anchor = Anchor(p.student, AnchorSettings(), 1, 10**6)
    return AnchoredVarDiU(
        p.teacher, p.student, p.fake, levels=levels, anchor=anchor, antithetic=False
    )


def plain(p: Players, levels: LogUniform) -> DiffInstruct:
    return DiffInstruct(p.teacher, p.student, p.fake, levels=levels, ratio=1)


METHODS = {"vardiu, anchored": anchored, "diff_instruct": plain}


def backbones(module: nn.Module) -> Iterator[nn.Module]:
    """The networks in a module, without what is around them."""
    kinds = ("MLP", "UNet", "DhariwalUNet")
    yield from (m for m in module.modules() if type(m).__name__ in kinds)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def train(p: Players, method: str, mode: str | None, device: torch.device, seconds: float) -> dict:
    """Steps a second of a method, and the most memory that its tensors took."""
    objective = METHODS[method](p, LogUniform(0.1, 6.0)).to(device)
    objective.teacher.module.to(device)
    trainer = Trainer(objective, Optimisation.adam({"fake": 1e-5, "generator": 1e-5}), steps=10**6)
    if mode is not None:
        for network in (objective.generator, objective.fake, objective.teacher.module):
            for inner in backbones(network):
                inner.compile(mode=mode)
    batches = DataFree(p.rows)
    started = time.perf_counter()
    for _ in range(3):
        trainer.advance(batches)
    wait(device)
    warm = time.perf_counter() - started
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started, steps = time.perf_counter(), 0
    while steps < 5 or time.perf_counter() - started < seconds:
        trainer.advance(batches)
        steps += 1
    wait(device)
    spent = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {
        "steps_per_second": steps / spent,
        "peak_mib": peak,
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


def cell(name: str, made: Callable, chosen: argparse.Namespace, device: torch.device) -> Iterator:
    """Yields the rows of one network and type, one a method and mode, and that of sampling."""
    network, precision = name.split("/")
    set_products(precision)
    kind = "bfloat16" if precision == "bfloat16" else "float32"
    for method in METHODS:
        for mode in chosen.modes:
            torch.manual_seed(0)
            players = made(kind, chosen.tiny)
            size = sum(p.numel() for p in players.student.parameters())
            row = train(players, method, MODES[mode], device, 0.2 if chosen.tiny else 3.0)
            yield {
                "network": network,
                "weights": size,
                "precision": precision,
                "method": method,
                "mode": mode,
                **row,
            }
            torch._dynamo.reset()
            del players
            gc.collect()
    players = made(kind, chosen.tiny)
    peak = products(precision, device, 256 if chosen.tiny else 8192)
    found = sample(players.student, device, peak, chosen.tiny)
    yield {
        "network": network,
        "precision": precision,
        "method": "sampling",
        "mode": "eager",
        "peak_flops": peak,
        **found,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as two tables in Markdown."""
    steps = ["| network | type | method | mode | steps/s | MiB |", "|---|---|---|---|---|---|"]
    calls = [
        "| network | type | one image, ms | images/s, batch | of the peak |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if row["method"] == "sampling":
            calls.append(
                f"| {row['network']} | {row['precision']} | {row['latency_ms']:.2f} | "
                f"{row['images_per_second']:.0f}, {row['batch']} | {row['fraction_of_peak']:.1%} |"
            )
        else:
            memory = "–" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}"
            steps.append(
                f"| {row['network']} | {row['precision']} | {row['method']} | {row['mode']} | "
                f"{row['steps_per_second']:.1f} | {memory} |"
            )
    return "\n".join([*steps, "", *calls])


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
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "a processor"
    made, rows, skipped = cases(chosen.tiny), [], []
    ends = time.monotonic() + 60 * chosen.minutes
    # The types that matter most first: what the time does not suffice for comes last.
    order = [f"{network}/{kind}" for kind in reversed(PRECISIONS) for network in made]
    for name in order:
        todo = cell(name, made[name.split("/")[0]], chosen, device)
        while time.monotonic() < ends and (row := next(todo, None)) is not None:
            rows.append(row)
            print(json.dumps(row), flush=True)
            content = {
                "command": [
                    "python",
                    "benchmarks/gpu.py",
                    *(sys.argv[1:] if words is None else words),
                ],
                "versions": {"vardiu": vardiu.__version__, "torch": torch.__version__},
                "device": card,
                "rows": rows,
            }
            write_text_atomic(chosen.out, json.dumps(content, indent=1) + "\n")
        if time.monotonic() >= ends:
            skipped.append(name)
    print(table(rows))
    if skipped:
        print(f"the minutes did not suffice for all of: {', '.join(skipped)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
