"""What a run tells: to whom, in which order, and of which network."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from vardiu.denoisers.levels import LogUniform
from vardiu.errors import Interrupted
from vardiu.methods import METHODS, Code
from vardiu.methods.denoising import Denoising, Settings
from vardiu.methods.vardiu import VarDiU
from vardiu.monitoring.alarms import CURES
from vardiu.runs import events
from vardiu.runs.distill import distill
from vardiu.runs.listeners import ConsoleLines
from vardiu.runs.measuring import cures_of
from vardiu.runs.task import RunSettings, Task
from vardiu.settings.fields import DensitySettings
from vardiu.storage.run_folder import RunFolder
from vardiu.students.few_step import OneStep
from vardiu.training.optimizers import Optimisation
from vardiu.training.stage import Stage

ROOT = Path(__file__).parent.parent
LEVELS = LogUniform(0.5, 10.0)


class Spoken(Denoising):
    """A denoiser in training that says which generator it is."""

    def student_of(self, network):
        return OneStep(network, 10.0)


def recipe_of(objective_class):
    """A denoiser is trained on data, then a student by VarDiU."""

    def recipe(problem, settings, context):
        optimisation = Optimisation.adam({"generator": settings.lr})
        denoising = objective_class(problem.networks.denoiser(), levels=LEVELS, sigma_data=10.0)
        data = problem.data.clean(settings.batch, 0)
        yield Stage("denoiser", denoising, settings.steps, data, optimisation)
        bound = VarDiU(problem.teacher, problem.networks.student(), levels=LEVELS, shared=True)
        batches = problem.data.free(settings.batch, 0)
        trained = yield Stage("bound", bound, settings.steps, batches, optimisation)
        return trained.network

    return recipe


@pytest.fixture
def carry_out(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 200)

    def carry_out(objective_class, listeners):
        method = dataclasses.replace(
            METHODS["regression"],
            name="two_stages",
            settings=Settings,
            recipe=recipe_of(objective_class),
            presets={},
            arms={},
            examples={},
            cites_by=lambda settings: (),
        )
        code = Code("two_stages.py:METHOD", "0" * 64, method, "0" * 64)
        problem = DensitySettings(name="mog40", width=8, depth=1)
        run = RunSettings(reports=2, evaluations=2, samples=200, threads=1, device="cpu")
        settings = Settings(steps=4, batch=8)
        task = Task("distill", "", problem, method.name, settings, run, code)
        return distill(task, tmp_path / "run", listeners)

    return carry_out


@pytest.mark.parametrize("objective_class, measured", [(Denoising, 0), (Spoken, 2)])
def test_a_stage_that_trains_a_denoiser_is_measured_as_the_generator_that_it_is(
    objective_class, measured, carry_out
):
    heard = []
    carry_out(objective_class, [heard.append])
    stages = [e for e in heard if isinstance(e, events.StageStarted)]
    assert [e.stage for e in stages] == ["denoiser", "bound"]
    assert [e.latent for e in stages] == [2 if measured else None, 2]
    found = [e for e in heard if isinstance(e, events.Measured) and e.stage == "denoiser"]
    assert len(found) == measured
    assert all("metric/mmd2" in e.values and "spread" in e.values for e in found)


def test_events_come_in_one_order_and_the_log_is_what_was_reported(carry_out):
    heard = []
    folder = carry_out(Denoising, [heard.append])
    kinds = [type(e).__name__ for e in heard if not isinstance(e, events.AlarmRaised)]
    first = ["StageStarted", "StepTaken", "Reported", "StepTaken", "StepTaken", "Reported"]
    second = ["StageStarted", "StepTaken", "Measured", "Reported", "StepTaken", "StepTaken"]
    second += ["Measured", "Reported"]
    end = ["StepTaken", "Saved", "StageFinished"]
    last = ["FinalMeasurementStarted", "Shipped", "RunFinished"]
    assert kinds == ["RunStarted", *first, *end, *second, *end, *last]
    rows = folder.metrics()
    for row in rows:
        row.pop("alarms", None)
        row.pop("nonfinite", None)
    assert [row["step"] for row in rows] == [2, 4, 2, 4]
    reports = [e.row() for e in heard if isinstance(e, events.Reported)]
    assert [set(row) for row in rows] == [set(row) for row in reports]
    heard.clear()
    carry_out(Denoising, [heard.append])
    assert heard == [events.RunAlreadyFinished(folder.path)]


def test_a_listener_that_raises_ends_the_run_and_the_others_are_told(carry_out):
    heard = []

    def broken(event):
        if isinstance(event, events.Measured):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        carry_out(Denoising, [broken, heard.append])
    assert isinstance(heard[-1], events.RunFailed)
    assert RunFolder(next(e.folder for e in heard if hasattr(e, "folder"))).result() is None


def test_a_stop_is_told(carry_out):
    heard = []

    def stop(event):
        if isinstance(event, events.StepTaken):
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        carry_out(Denoising, [heard.append, stop])
    assert heard[-1] == events.RunInterrupted("stopped")


def test_what_a_listener_broadcasts_is_told_to_all_after_the_event_at_hand():
    heard = []
    broadcast = events.Broadcaster()
    first, second = events.RunInterrupted("first"), events.RunInterrupted("second")

    def answer(event):
        heard.append(("answer", event))
        if event is first:
            broadcast(second)

    broadcast.listeners += [answer, lambda event: heard.append(("other", event))]
    broadcast(first)
    assert heard == [("answer", first), ("other", first), ("answer", second), ("other", second)]


def test_the_console_says_what_happens(tmp_path):
    console = Console(record=True, width=200, file=open("/dev/null", "w"))
    lines = ConsoleLines(console)
    lines(events.StageStarted("bound", 20, 40, 5, 2, ("a file was changed",)))
    lines(events.Reported("bound", 40, 40, 40, 3.0, 40, {}))
    lines(events.TeacherNeeded("digits", Path("runs/teach-digits")))
    lines(events.RunAlreadyFinished(tmp_path))
    text = console.export_text()
    assert "skipped: a file was changed" in text and "going on with bound from step 20" in text
    assert "bound: step 40 of 40, 3 s" in text and "vardiu teach digits" in text
    assert "is finished; nothing to do" in text and str(tmp_path / "report.html") in text


def test_the_documented_program_listens(tmp_path, monkeypatch, capsys):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 200)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.samples", 300)
    page = (ROOT / "docs/usage/runs.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {})
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 10 and RunFolder("runs/watched").result() is not None
    assert float(told[-1].split()[1]) > 0


# ---------------------------------------------------------------- cures


def options_of(settings: type, prefix: str = "") -> set[str]:
    """The options of a class of settings, as the command line has them."""
    found = set()
    for field in dataclasses.fields(settings):
        name = prefix + field.name.replace("_", "-")
        found.add(f"--{name}")
        default = field.default
        if dataclasses.is_dataclass(default):
            found |= options_of(type(default), f"{name}.")
    return found


@pytest.mark.parametrize("method", sorted(METHODS))
def test_cures_name_options_that_the_methods_command_has(method):
    cures = cures_of(METHODS[method])
    assert cures.keys() == CURES.keys()
    known = options_of(METHODS[method].settings)
    for kind, text in cures.items():
        named = set(re.findall(r"--[a-z][\w.-]*[\w]", text))
        assert named <= known, (kind, named - known)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"vardiu"}))
def test_no_other_method_is_told_to_take_a_posterior(method):
    assert not any("posterior" in text for text in cures_of(METHODS[method]).values())
