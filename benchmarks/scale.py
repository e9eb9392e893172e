"""What a step of each method computes and sends, and what one process and several take for it.

    python benchmarks/scale.py [--processes 2] [--batch 512] [--out docs/results/scale.json]

Counted: the floating-point operations of a step (products of matrices and convolutions, by torch's
counter) and the bytes of gradients that it averages, both means over the cycle of the phases.
Measured: seconds of a step of one process at the batch and at half of it; seconds of a step of
several processes that share the batch; and of one message, at two sizes. The processor's time is
given beside the clock's: other work on the machine spoils the latter first.

From one process's two batches follow the fixed and the proportional part of a step, from the two
messages the latency and the bandwidth; together they predict the step of several processes, which
is compared with the one that was measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vardiu.cli.options import parse_request
from vardiu.runs.execute import trainer_of
from vardiu.runs.stages import stages_of
from vardiu.runs.task import problem_of
from vardiu.storage import processes
from vardiu.storage.provenance import provenance

METHODS = {
    "VarDiU, anchored": ["--posterior", "anchored"],
    "Diff-Instruct": ["--method", "diff-instruct"],
    "DMD2": ["--method", "dmd2"],
    "SiD": ["--method", "sid"],
}
# Of the model for GPUs, which none was at hand to check: data sheets of an H100 with NVLink in
# machines of eight and a network of 400 Gbit/s each, and what large trainings report to reach.
OPERATIONS_A_SECOND = 0.4 * 989e12  # in bfloat16
NVLINK, NETWORK = 450e9, 50e9  # bytes a second, one way
HOP = 20e-6  # seconds, of each doubling of the processes
FORWARD, WEIGHTS = 6e12, 2.6e9  # of one call of SDXL's U-Net at 1024x1024, a row
BATCH = 2048  # of all GPUs
GPUS = (1, 8, 64, 1024)
# Numbers of the two messages that are timed.
MESSAGES = (2**10, 2**22)


def trainer_for(words: list[str], batch: int) -> tuple[Any, Any]:
    """Returns the trainer of a method on MoG-40 in float32, and its batches."""
    torch.manual_seed(0)
    given = ["mog40", *words, "--batch", str(batch), "--precision", "float32", "--steps", "1000"]
    task = parse_request("distill", given).task
    stage = stages_of(task, problem_of(task)).first()
    trainer = trainer_of(stage, task.run, torch.device("cpu"))
    stage.batches.rank, stage.batches.world = processes.rank(), processes.count()
    # Networks that wait for others at first are trained by then.
    delay = max(row.delay for row in stage.optimisation.rows.values())
    trainer.step = cycle(trainer) * math.ceil(delay / cycle(trainer))
    return trainer, stage.batches


def cycle(trainer: Any) -> int:
    return max(phase.cycle for phase in trainer.objective.phases)


def counted(words: list[str], batch: int) -> dict[str, float]:
    """Returns operations and bytes of gradients of a mean step."""
    trainer, batches = trainer_for(words, batch)
    steps, sent = cycle(trainer), 0
    for step in range(steps):
        for phase in trainer.objective.phases:
            if phase.due(step):
                times = phase.repeat * phase.minibatches
                networks = [trainer.objective.network(name) for name in phase.updates]
                weights = [p for n in networks for p in n.parameters() if p.requires_grad]
                sent += times * sum(p.numel() * p.element_size() for p in weights)
    with FlopCounterMode(display=False) as counter:
        for _ in range(steps):
            trainer.advance(batches)
    student = trainer.objective.generator
    with FlopCounterMode(display=False) as call, torch.no_grad():
        student(trainer.objective.latents(batch))
    weights = sum(p.numel() * p.element_size() for p in student.parameters())
    return {
        "operations": counter.get_total_flops() / steps,
        "bytes": sent / steps,
        "forwards": counter.get_total_flops() / steps / call.get_total_flops(),
        "teacher": trainer.objective.teacher_cost[1] / steps / batch,
        "sent": sent / steps / weights,
    }


def on_gpus(row: dict[str, float], count: int) -> dict[str, float]:
    """Returns the seconds of a step of a student of SDXL's size, whose teacher and critics are as
    large, and the share of the first GPU's work that a further one does; by the model of
    docs/scale.md."""

    def seconds(n: int) -> tuple[float, float]:
        calls = row["forwards"] + row["teacher"]
        work = calls * FORWARD * BATCH / n / OPERATIONS_A_SECOND
        if n == 1:
            return work, 0.0
        sent = 2 * (n - 1) / n * 4 * WEIGHTS * row["sent"]
        hops = 2 * HOP * math.log2(n) * row["sent"]
        return work, sent / (NVLINK if n <= 8 else NETWORK) + hops

    work, messages = seconds(count)
    alone = sum(seconds(1))
    return {
        "work": work,
        "messages": messages,
        "efficiency": alone / count / (work + messages),
    }


def timed(work: Callable[[], object], repeats: int) -> dict[str, float]:
    """Returns the medians of the clock's and of the processor's seconds."""
    work()
    rows = []
    for _ in range(repeats):
        clock, processor = time.perf_counter(), time.process_time()
        work()
        rows.append((time.perf_counter() - clock, time.process_time() - processor))
    clocks, processors = zip(*rows, strict=True)
    return {"clock": statistics.median(clocks), "processor": statistics.median(processors)}


def step_of(words: list[str], batch: int, repeats: int) -> dict[str, float]:
    """Returns the seconds of a mean step."""
    trainer, batches = trainer_for(words, batch)
    steps = cycle(trainer)
    found = timed(lambda: [trainer.advance(batches) for _ in range(steps)], repeats)
    return {name: value / steps for name, value in found.items()}


def worker(out: Path, batch: int, repeats: int) -> None:
    """What each of several processes measures; the writer writes it."""
    torch.set_num_threads(1)
    with processes.joined():
        steps = {name: step_of(words, batch, repeats) for name, words in METHODS.items()}
        messages = {}
        for size in MESSAGES:
            tensor = torch.zeros(size)
            found = timed(lambda t=tensor: torch.distributed.all_reduce(t), 4 * repeats)
            messages[4 * size] = found["clock"]
        if processes.is_writer():
            out.write_text(json.dumps({"steps": steps, "messages": messages}))


def started(count: int, batch: int, repeats: int) -> dict[str, Any]:
    """Returns what several processes measure, started by torchrun."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out.json"
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        words = [__file__, "--worker", str(out), "--batch", str(batch), "--repeats", str(repeats)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *launch, *words], check=True, env=environment)
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def predicted(row: dict[str, Any], small: float, large: float, count: int) -> float:
    """Returns the clock's seconds of a step of several processes, by the model of docs/scale.md.

    Arguments:
        row: What was measured of one process.
        small: Seconds of the small message.
        large: Seconds of the large one.
        count: The number of processes.
    """
    whole, half = row["one"]["clock"], row["half"]["clock"]
    slope = 2 * (whole - half)
    a_byte = (large - small) / (4 * (MESSAGES[1] - MESSAGES[0]))
    return whole - slope * (1 - 1 / count) + small + a_byte * row["bytes"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("docs/results/scale.json"))
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.batch, args.repeats)
        return
    torch.set_num_threads(1)
    shared = started(args.processes, args.batch, args.repeats)
    small, large = shared["messages"].values()
    rows = {}
    for name, words in METHODS.items():
        row: dict[str, Any] = counted(words, args.batch)
        row["one"] = step_of(words, args.batch, args.repeats)
        row["half"] = step_of(words, args.batch // 2, args.repeats)
        row["shared"] = shared["steps"][name]
        row["predicted"] = predicted(row, small, large, args.processes)
        row["ratio"] = row["shared"]["clock"] / row["predicted"]
        row["gpus"] = {count: on_gpus(row, count) for count in GPUS}
        row["efficiency"] = row["one"]["processor"] / args.processes / row["shared"]["processor"]
        rows[name] = row
        print(name, json.dumps(row), flush=True)
    about = provenance(["python", "benchmarks/scale.py", *sys.argv[1:]], 0)
    content = {"provenance": about, "batch": args.batch, "processes": args.processes}
    content |= {"load": os.getloadavg()[0], "messages": shared["messages"], "rows": rows}
    args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
