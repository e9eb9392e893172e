"""Where tensors lie, how wide they are, and what rounds them; on a CPU, as far as it shows there."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from cases import EXAMPLES, denoiser
from problems import mixture_teacher
from torch import nn

from vardiu.cli.main import main
from vardiu.denoisers.base import place_of
from vardiu.denoisers.levels import LogUniform
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.errors import ConfigError
from vardiu.functional.tensors import sent
from vardiu.methods import frames
from vardiu.methods.diff_instruct import DiffInstruct
from vardiu.methods.regression import Regression, drawn_pairs
from vardiu.nn import MLP
from vardiu.nn.precision import Precision
from vardiu.problems.densities import DensityProblem
from vardiu.problems.starts import denoiser_with_precision
from vardiu.problems.toy import ToyProblem
from vardiu.runs.execute import Execution, device_of
from vardiu.runs.presets import PRESETS
from vardiu.runs.task import RunSettings, task_from_preset
from vardiu.samplers.pairs import Pairs
from vardiu.storage.run_folder import RunFolder
from vardiu.students.few_step import OneStep
from vardiu.students.framed import Frame, Framed
from vardiu.training.economy import Economy, round_products
from vardiu.training.stage import Context


def learned(dtype: torch.dtype = torch.float32) -> PreconditionedDenoiser:
    torch.manual_seed(0)
    network = MLP((2,), (2,), width=8, depth=2, noisy=True)
    return PreconditionedDenoiser(
        network, shape=(2,), sigma_data=1.0, sigma_min=0.1, sigma_max=10.0
    ).to(dtype)


def problem() -> DensityProblem:
    return DensityProblem(PRESETS["mog40"].problem, 0)


def test_the_hash_of_a_teacher_is_that_of_its_bytes():
    found, hashes = problem(), []
    for teacher in (learned(), learned(), learned(torch.bfloat16), learned(torch.float64)):
        found.teacher = teacher
        hashes.append(found.hashes()["teacher"])
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3
    with torch.no_grad():
        next(teacher.parameters()).view(-1)[0] += 1e-12
    assert found.hashes()["teacher"] not in hashes


def test_a_problem_computes_where_it_is_told():
    found = problem()
    found.compute_on(torch.device("meta"))
    assert found.data.teacher.device == found.space.device == torch.device("meta")


@pytest.mark.parametrize("waits", [False, True])
def test_a_teacher_that_waits_is_sampled_on_the_device_and_goes_back(waits, monkeypatch, tmp_path):
    run = RunSettings(device="cpu", economy=Economy(offload=waits))
    task = dataclasses.replace(task_from_preset("distill", "mog40"), run=run)
    found = problem()
    Execution(task, found, RunFolder(tmp_path))
    assert found.space.device == found.data.teacher.device == torch.device("cpu")
    teacher, back = found.data.teacher, []
    teacher.denoiser, teacher.device = learned(), torch.device("meta")
    monkeypatch.setattr("vardiu.nn.offload.move_to_host", back.append)
    with teacher.near() as device:
        assert device == place_of(teacher.known) == torch.device("meta") and not back
    assert back == [teacher.known] * waits
    with teacher.near():  # one that lies there already stays, as a stage of pairs has it
        pass
    assert len(back) == waits


def test_what_is_sent_keeps_its_values():
    x = torch.randn(3, 2)
    assert sent(x, "cpu") is x
    assert sent(x, torch.device("meta")).device.type == "meta"


def test_pairs_are_drawn_where_they_lie():
    z, x = torch.randn(5, 2).float(), torch.randn(5, 2).float()
    pairs = Pairs(z, x, {"label": torch.arange(5)})
    objective = Regression(mixture_teacher(), OneStep(learned(), 1.0), pairs)
    objective.streams.reset(0)
    drawn = drawn_pairs(objective, pairs, 4)
    for row in range(4):
        assert torch.equal(drawn.z[row], z[drawn.cond["label"][row]])
        assert torch.equal(drawn.x[row], x[drawn.cond["label"][row]])
    assert pairs.to("meta").cond["label"].device.type == "meta"


class Elsewhere(torch.nn.Module):
    """A student whose copies have been sent to a device, and which asks that rows be there."""

    shape, place = (2,), torch.device("cpu")

    def to(self, device: object) -> Elsewhere:
        self.place = torch.device(device)
        return self

    def forward(self, z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        assert z.device == label.device == self.place
        return z.new_zeros(len(z), 2)


def test_a_students_samples_for_its_frame_are_made_where_the_run_computes(monkeypatch):
    row = EXAMPLES["vardiu-framed-of-student"][1].settings.frame
    label, asked = torch.arange(200) % 2, []
    frame = Frame(2, 2, 2, 1).fit(torch.randn(200, 2), label)
    student = Framed(denoiser(2), frame, 0.3)

    def samples(student, z, cond, device):
        asked.append(device)
        return torch.randn(len(z), 2, dtype=z.dtype)

    made, student_at = frames.in_batches, Elsewhere()
    monkeypatch.setattr(frames, "in_batches", samples)
    context = Context(device=torch.device("meta"))
    found = frames.pair_frame(ToyProblem(2), student, row, context)
    assert asked == [context.device] and found.means.device.type == "cpu"
    with pytest.raises(NotImplementedError, match="meta"):  # asked there, and has no values
        made(student_at, torch.randn(5, 2), {"label": torch.arange(5)}, "meta")
    x = made(student_at, torch.randn(5, 2), {"label": torch.arange(5)}, "cpu")
    assert x.shape == (5, 2) and student_at.place == torch.device("cpu")


def test_a_teacher_computes_in_the_precision_of_the_run():
    teacher = learned()
    narrow = denoiser_with_precision(teacher, "bfloat16")
    assert any(isinstance(module, Precision) for module in narrow.modules())
    x, sigma = torch.randn(64, 2).float(), torch.full((64,), 0.5).float()
    assert {p.data_ptr() for p in narrow.parameters()} == {
        p.data_ptr() for p in teacher.parameters()
    }
    error = (narrow(x, sigma) - teacher(x, sigma)).abs().max()
    assert 0 < error < 0.05


@pytest.fixture(autouse=True)
def products():
    """What a test says of them is not said to the next one."""
    before = rounding()
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def rounding() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def objective(teacher: nn.Module) -> DiffInstruct:
    return DiffInstruct(teacher, OneStep(learned(), 1.0), learned(), levels=LogUniform(0.1, 2.0))


def test_products_are_rounded_where_that_is_asked_for_and_nothing_exact_is():
    Economy(tf32=True).apply(objective(learned()))
    assert rounding() == ("high", True)
    Economy().apply(objective(learned()))
    assert rounding() == ("highest", False)
    with pytest.raises(ConfigError, match="economy.tf32 would round the means"):
        Economy(tf32=True).apply(objective(mixture_teacher()))


@pytest.mark.parametrize("rounded", [False, True])
def test_products_are_rounded_as_the_run_says_before_anything_is_computed(rounded, tmp_path):
    """Pairs, and samples of the teacher, are made before the first stage is."""
    run = RunSettings(device="cpu", economy=Economy(tf32=rounded))
    task = dataclasses.replace(task_from_preset("distill", "mog40"), run=run)
    round_products(not rounded)
    Execution(task, problem(), RunFolder(tmp_path))
    assert rounding() == (("high", True) if rounded else ("highest", False))
    round_products(True)
    device_of("cpu")  # of commands without such an option
    assert rounding() == ("highest", False)


def test_a_student_is_sampled_with_the_products_of_its_run(tmp_path):
    place = tmp_path / "run"
    words = ["--steps", "2", "--samples", "100", "--evaluations", "1", "--out", str(place)]
    assert main(["distill", "mog40", "--batch", "8", *words]) == 0
    config = place / "config.yaml"
    for told, found in (("false", ("highest", False)), ("true", ("high", True))):
        config.write_text(config.read_text().replace("tf32: false", f"tf32: {told}"))
        round_products(told == "false")
        assert (
            main(["sample", str(place), "--num", "4", "--out", str(tmp_path / f"{told}.npz")]) == 0
        )
        assert rounding() == found
