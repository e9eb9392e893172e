"""Runs that several processes share: what they train, what they say, and what they refuse.

The processes are forked from the test's own and find themselves in torchrun's environment.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import FORK, Crew
from safetensors.torch import load_file
from torch.distributed.checkpoint import hf_storage

from vardiu.cli.main import main
from vardiu.cli.options import parse_request
from vardiu.errors import CheckpointError, ConfigError, ProcessLost
from vardiu.runs.execute import trainer_of
from vardiu.runs.sharing import shared_folder
from vardiu.runs.stages import stages_of
from vardiu.runs.task import problem_of
from vardiu.storage import launch, processes
from vardiu.storage.checkpoints import Checkpoints
from vardiu.storage.files import is_left_behind
from vardiu.storage.launch import following_parent
from vardiu.storage.processes import talking
from vardiu.storage.shards import is_divided
from vardiu.training.distributed import averaged, buckets

SMALL = ["--width", "16", "--depth", "1", "--batch", "16", "--precision", "float32"]
# All methods by four processes too: `VARDIU_EVERY=1`, some seconds more.
EVERY = "VARDIU_EVERY" in os.environ
# Refreshed by trust and by count, see `test_both_refreshes_happen`.
HELD = ["--anchor.refresh", "3", "--anchor.settle", "1", "--anchor.trust", "0.001"]
METHODS = {
    "anchored": ["mog40", "--posterior", "anchored", *SMALL],
    "held": ["mog40", "--posterior", "anchored", *HELD, *SMALL],
    "diff-instruct": ["mog40", "--method", "diff-instruct", *SMALL],
    "dmd2": ["mog40", "--method", "dmd2", *SMALL],
}


@pytest.fixture(autouse=True)
def single():
    """Commands compute in float32, as they do outside of the tests."""
    torch.set_default_dtype(torch.float32)


def trainer_for(name, steps=20, **run):
    torch.manual_seed(0)
    task = parse_request("distill", [*METHODS[name], "--steps", str(steps)]).task
    task = dataclasses.replace(task, run=dataclasses.replace(task.run, **run))
    stage = stages_of(task, problem_of(task)).first()
    return trainer_of(stage, task.run, torch.device("cpu")), stage.batches


def states(place, world):
    """Trains twenty steps of each method, and writes what came of it and what was reported; as two
    processes once more with divided networks, whose checkpoint in the middle is kept."""
    names = METHODS if world < 4 or EVERY else ("dmd2",)
    for name, shard in itertools.product(names, ("none", "full") if world == 2 else ("none",)):
        trainer, batches = trainer_for(name, shard=shard)
        trainer.steps, reports = 20, []
        if shard == "full":
            parts = [p for p in trainer.objective.generator.parameters() if is_divided(p)]
            assert parts and parts[0].to_local().numel() < parts[0].numel()
            batches.rank, batches.world = processes.rank(), processes.count()
            for _ in range(10):
                trainer.advance(batches)
            Checkpoints(place / name).save(10, trainer.state_dict(batches))
        trainer.fit(batches, report_every=20, report=reports.append)
        trainer.make_whole()
        state = {
            "networks": {k: v for k, v in trainer.objective.state_dict().items()},
            "average": trainer.average.state_dict(),
            "values": dict(reports[-1].values),
            "cost": trainer.objective.teacher_cost,
        }
        torch.save(state, place / f"{name}-{shard}-{world}-{processes.rank()}.pt")
    if world == 4:
        gone_on(place)


def gone_on(place):
    """Goes on with what two processes saved in parts, in parts of another size."""
    trainer, batches = trainer_for("dmd2", shard="full")
    trainer.steps = 20
    trainer.load_state_dict(Checkpoints(place / "dmd2").newest()[1], batches)
    assert trainer.step == 10 and trainer.division is not None
    trainer.fit(batches)
    trainer.make_whole()
    if processes.is_writer():
        torch.save(dict(trainer.objective.state_dict()), place / "gone-on.pt")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("trained")
    states(place, 1)
    for world in (2, 4):
        codes, words = Crew(world, lambda w=world: states(place, w), place / "log").wait()
        assert codes == [0] * world, words
    return place


@pytest.fixture(scope="module")
def trained(place):
    def load(name, world, rank=0, shard="none"):
        return torch.load(place / f"{name}-{shard}-{world}-{rank}.pt", weights_only=True)

    return load


def flat(state):
    return {
        **state["networks"],
        **{f"average.{k}": v for k, v in state["average"]["module"].items()},
    }


@pytest.mark.parametrize("name", METHODS)
def test_one_two_and_four_processes_train_the_same(name, trained):
    alone = trained(name, 1)
    for world in (2, 4) if name == "dmd2" or EVERY else (2,):
        first, last = trained(name, world), trained(name, world, world - 1)
        for key, value in flat(alone).items():
            assert torch.equal(flat(first)[key], flat(last)[key])  # all processes have the same
            torch.testing.assert_close(flat(first)[key], value, rtol=1e-5, atol=1e-5)
        assert first["cost"] == alone["cost"]
    assert name != "dmd2" or any(key.startswith("head.") for key in alone["networks"])


def test_both_refreshes_happen():
    trainer, batches = trainer_for("held")
    since = []
    for _ in range(20):
        trainer.advance(batches)
        since.append(trainer.objective.anchor.since.value)
    # By count three updates after a step that settled, by trust earlier.
    before = [a for a, b in itertools.pairwise(since) if b == 0]
    assert 3 in before and set(before) & {1, 2}


@pytest.mark.parametrize("name", METHODS)
def test_what_is_reported_is_of_all_rows(name, trained):
    alone, shared = trained(name, 1)["values"], trained(name, 2)["values"]
    assert shared.keys() == alone.keys()
    for key in alone:
        assert shared[key] == pytest.approx(alone[key], rel=1e-3, abs=1e-4), key
    assert trained(name, 2, 1)["values"] == shared


# ---------------------------------------------------------------- divided networks


@pytest.mark.parametrize("name", METHODS)
def test_divided_networks_train_the_same(name, trained):
    alone = trained(name, 1)
    divided = trained(name, 2, shard="full"), trained(name, 2, 1, shard="full")
    for key, value in flat(alone).items():
        assert torch.equal(flat(divided[0])[key], flat(divided[1])[key])
        torch.testing.assert_close(flat(divided[0])[key], value, rtol=1e-5, atol=1e-5)
    assert divided[0]["values"] == pytest.approx(alone["values"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_what_two_processes_saved_in_parts_one_goes_on_with(name, place, trained):
    folder = place / name / "000000010"
    assert len(list(folder.glob("shard-*.safetensors"))) == 2
    trainer, batches = trainer_for(name)
    trainer.steps = 20
    _, state, skipped = Checkpoints(place / name).newest()
    assert not skipped
    trainer.load_state_dict(state, batches)
    assert trainer.step == 10
    trainer.fit(batches)
    networks = trainer.objective.state_dict()
    for key, value in trained(name, 1)["networks"].items():
        torch.testing.assert_close(networks[key], value, rtol=1e-5, atol=1e-5)


def test_what_two_processes_saved_in_parts_four_go_on_with(place, trained):
    networks = torch.load(place / "gone-on.pt", weights_only=True)
    for key, value in trained("dmd2", 1)["networks"].items():
        torch.testing.assert_close(networks[key], value, rtol=1e-5, atol=1e-5)


def test_a_missing_shard_is_named(place, tmp_path):
    shutil.copytree(place / "anchored", tmp_path / "copy")
    (shard, _) = sorted((tmp_path / "copy" / "000000010").glob("shard-*"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name} is missing. Delete .*000000010"):
        Checkpoints(tmp_path / "copy").newest()


def lone(monkeypatch, world):
    """Has this process believe that it is one of several, without any to talk to."""
    monkeypatch.setattr(processes, "count", lambda: world)


def test_messages_are_of_one_type_and_not_too_long(monkeypatch):
    monkeypatch.setattr("vardiu.training.distributed.BUCKET", 10)
    sizes = [(6, torch.float32), (4, torch.float32), (1, torch.float32), (1, torch.bfloat16)]
    groups = list(buckets([torch.zeros(n, dtype=kind) for n, kind in sizes]))
    assert [[t.numel() for t in group] for group in groups] == [[6, 4], [1], [1]]
    assert averaged(torch.tensor(3.0)) == 3


# ---------------------------------------------------------------- whole runs


RUN = ["mog40", "--method", "regression", *SMALL, "--pairs.pairs", "40", "--steps", "12"]
RUN += ["--pairs.solver-steps", "4", "--samples", "200", "--reports", "5", "--evaluations", "2"]
# Times differ, and nothing else does.
TIMES = {"seconds"}


def words(place):
    return ["distill", *RUN, "--save-every", "0", "--out", str(place)]


def log(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def same_runs(ours, theirs):
    """Asserts that two runs have the same student, checkpoints and log, to the byte."""
    assert student_of(ours).read_bytes() == student_of(theirs).read_bytes()
    assert log(ours) == log(theirs)
    for path in sorted((ours / "checkpoints").rglob("*.safetensors")):
        other = theirs / path.relative_to(ours)
        assert path.read_bytes() == other.read_bytes(), path


def student_of(folder):
    (path,) = (folder / "student").glob("*.safetensors")
    return path


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A run of two processes, undisturbed."""
    out = tmp_path_factory.mktemp("shared") / "run"
    codes, text = Crew(2, words(out), out.parent / "log").wait()
    assert codes == [0, 0], text
    return out, text


def test_two_processes_make_one_run(shared, tmp_path):
    """Its numbers are those of a lone process, up to the order of sums; it is told once."""
    out, text = shared
    assert main(words(tmp_path / "alone")) == 0
    for ours, theirs in zip(log(out), log(tmp_path / "alone"), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            if key.startswith("regression/") or isinstance(value, int):
                assert ours[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key
    ours, theirs = (json.loads((p / "result.json").read_text()) for p in (out, tmp_path / "alone"))
    for key in ("teacher_calls", "teacher_rows", "student_updates", "steps"):
        assert ours["cost"][key] == theirs["cost"][key]
    student, other = (load_file(student_of(place)) for place in (out, tmp_path / "alone"))
    for key, value in student.items():
        torch.testing.assert_close(value, other[key], rtol=1e-4, atol=1e-5)
    assert text.count("report:") == 1 and "Traceback" not in text
    assert {p.name for p in out.iterdir()} == {p.name for p in (tmp_path / "alone").iterdir()}


@pytest.mark.slow  # the siege kills too
def test_a_killed_process_ends_all_and_the_run_goes_on(shared, tmp_path):
    """What torchrun does after a death: all start again."""
    out = tmp_path / "run"
    crew = Crew(2, words(out), tmp_path / "log")
    while not any((out / "checkpoints").rglob("manifest.json")):
        time.sleep(0.02)
        assert all(process.exitcode is None for process in crew.processes), crew.log.read_text()
    crew.kill(1)
    codes, text = crew.wait()
    assert codes[1] == -signal.SIGKILL and codes[0] in (1, 0)
    assert "another process of this run has ended" in text and "Traceback" not in text
    codes, text = Crew(2, words(out), tmp_path / "log").wait()
    assert codes == [0, 0], text
    same_runs(out, shared[0])


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_one_that_is_asked_to_stop_stops_all_and_another_number_goes_on(shared, tmp_path, asked):
    out = tmp_path / "run"
    crew = Crew(2, [*words(out), "--steps", "40"], tmp_path / "log")
    while not any((out / "checkpoints").rglob("manifest.json")):
        time.sleep(0.02)
    crew.kill(asked, signal.SIGTERM)
    codes, text = crew.wait()
    assert codes == [130, 130], text
    assert text.count("and saved. To go on: the same torchrun ... -m vardiu distill") == 1
    assert main([*words(out), "--steps", "40"]) == 0
    assert main([*words(tmp_path / "alone"), "--steps", "40"]) == 0
    ours, theirs = (load_file(student_of(p)) for p in (out, tmp_path / "alone"))
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-4, atol=1e-5)


def test_processes_that_take_the_place_of_others_do_not_take_their_addresses(tmp_path):
    first = Crew(4, lambda: None, tmp_path / "first")
    assert first.wait(60) == ([0] * 4, "")

    def late(rank):
        time.sleep((3 - rank) / 5)  # the others find the old address of the first

    assert Crew(4, lambda: None, tmp_path / "again", late, first).wait(30) == ([0] * 4, "")


def test_a_worker_ends_when_what_started_it_was_killed(monkeypatch):
    monkeypatch.setattr("vardiu.storage.launch.LOOK", 0.02)
    reads, writes = os.pipe()

    def work():
        with following_parent():
            os.write(writes, b"begun")
            time.sleep(60)

    def torchrun():
        FORK.Process(target=work).start()
        time.sleep(60)

    starter = FORK.Process(target=torchrun)
    starter.start()
    os.close(writes)
    assert os.read(reads, 5) == b"begun"
    starter.kill()
    # Its end closes the last descriptor.
    assert select.select([reads], [], [], 30)[0] and os.read(reads, 1) == b""
    os.close(reads)


def saved_in_parts(place, fault):
    """Saves a divided network, of which one process cannot write its part; writes what was said."""

    def write_data(*args):
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(28, "No space left on device")

    if processes.rank() == 1:
        hf_storage.HuggingFaceStorageWriter.write_data = write_data
    trainer, batches = trainer_for("anchored", shard="full")
    try:
        Checkpoints(place / "kept").save(0, trainer.state_dict(batches))
    except (CheckpointError, ProcessLost) as error:
        (place / f"{processes.rank()}.txt").write_text(str(error))
        os._exit(3)


@pytest.mark.parametrize("fault", ["full", "killed"])
def test_a_process_that_cannot_write_its_part_ends_all(fault, tmp_path):
    codes, text = Crew(2, lambda: saved_in_parts(tmp_path, fault), tmp_path / "log").wait()
    said = [path.read_text() for path in sorted(tmp_path.glob("*.txt"))]
    left = list((tmp_path / "kept").iterdir())
    if fault == "killed":
        assert codes == [3, -signal.SIGKILL], text
        assert said[0].startswith("another process of this run has ended")
        (partial,) = left
        assert is_left_behind(partial)
    else:
        assert codes == [3, 3] and said[0] == said[1] and not left, text
        assert "000000000 could not be written (process 1: [Errno 28] No space left" in said[0]
        assert "Free some space" in said[0]
    # Whoever saves next finds no obstacle, and clears away what is left.
    Checkpoints(tmp_path / "kept").save(0, {"networks": {"a": torch.zeros(1)}})
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["000000000"]


# ---------------------------------------------------------------- what is refused


def refused(argv, tmp_path, count=2):
    """Returns the one line that several processes say, which all end with 2."""
    codes, text = Crew(count, argv, tmp_path / "log").wait()
    assert codes == [2] * count, text
    (line,) = text.splitlines()
    return line


def test_rows_that_cannot_be_divided_are_refused(tmp_path):
    line = refused([*words(tmp_path / "run"), "--batch", "15"], tmp_path)
    assert line.startswith("vardiu distill: method.batch must be a multiple of 2, for 2 processes")
    assert not (tmp_path / "run").exists()


def test_other_commands_are_the_work_of_one(tmp_path):
    line = refused(["evaluate", "runs/any"], tmp_path)
    assert "torchrun has started 2 processes, and this command is the work of one" in line


def test_what_couples_rows_is_refused(tmp_path):
    argv = ["distill", "mog40", "--posterior", "shared", *SMALL, "--out", str(tmp_path / "run")]
    line = refused(argv, tmp_path)
    assert "2 processes would train another objective than one: the minibatch mixture" in line
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_refused_once(tmp_path, shared):
    from vardiu.storage.run_folder import RunFolder

    with RunFolder(shared[0]).lock():
        codes, text = Crew(2, words(shared[0]), tmp_path / "log").wait()
    # The writer is refused; the other learns that it has ended.
    assert codes == [2, 1]
    (line,) = text.splitlines()
    assert f"another process (pid {os.getpid()}) writes to" in line


def test_the_folder_of_a_process_goes_with_it_or_with_the_next(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "is_writer", lambda: False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with shared_folder(tmp_path / "run") as folder:
        own = folder.path
        dead = tmp_path / own.name.replace(f"tmp-{os.getpid()}-", "tmp-999999999-")
    assert not own.exists()
    (dead / "student").mkdir(parents=True)
    with shared_folder(tmp_path / "run") as folder:
        assert list(tmp_path.iterdir()) == [folder.path]


def test_batch_norms_are_refused(monkeypatch):
    lone(monkeypatch, 2)
    task = parse_request("distill", METHODS["diff-instruct"]).task
    stage = stages_of(task, problem_of(task)).first()
    stage.objective.generator.add_module("norm", torch.nn.BatchNorm1d(2))
    with pytest.raises(ConfigError, match="BatchNorm1d takes statistics of the rows of one"):
        trainer_of(stage, task.run, torch.device("cpu"))


def test_fewer_cards_than_processes_are_refused(monkeypatch):
    from vardiu.runs import execute
    from vardiu.runs.execute import device_of

    monkeypatch.setattr(execute, "place_on_host", lambda: (1, 2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="2 processes were started on a machine with 1 CUDA"):
        device_of("auto")
    with pytest.raises(ConfigError, match="names one card, and 2 processes would share it"):
        device_of("cuda:0")
    assert device_of("cpu") == torch.device("cpu")
    # Of `torchrun --virtual-local-rank` each sees its own card alone, as the first one.
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(execute, "place_on_host", lambda: (0, 2))
    assert device_of("cuda") == torch.device("cuda", 0) and taken == [0]


ORPHAN = """
import os, time
from vardiu.storage import launch
print(os.getpid(), flush=True)
while os.getppid() == launch.BORN[1]:
    time.sleep(0.01)
with launch.following_parent():
    time.sleep(60)
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
print(int(child.stdout.readline()))
"""


def test_a_process_whose_torchrun_died_while_it_imported_ends():
    words = [sys.executable, "-c", PARENT, ORPHAN]
    orphan = int(subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=60).stdout)
    began = time.monotonic()
    while Path(f"/proc/{orphan}").exists() and time.monotonic() < began + 30:
        time.sleep(0.1)
    ended = not Path(f"/proc/{orphan}").exists()
    if not ended:
        os.kill(orphan, signal.SIGKILL)
    assert ended


def test_a_table_that_is_gone_is_not_waited_for(monkeypatch):
    """It was there before the processes: torchrun has died with it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": "1"}
    for name, value in {**place, "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "PATIENCE", datetime.timedelta(seconds=1))
    began = time.monotonic()
    with pytest.raises(ProcessLost, match="another process of this run has ended"), talking():
        launch.meeting(datetime.timedelta(minutes=15))
    assert time.monotonic() < began + 60


def test_a_card_that_is_named_is_the_current_one(monkeypatch):
    from vardiu.runs.execute import device_of

    taken = []
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: None)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert device_of("cuda:1") == torch.device("cuda", 1)
    assert taken == [torch.device("cuda", 1)]
