"""What a run tells: to whom, in which order, and of which network."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from rich.console import Console

from vardiu.denoisers.levels import LogUniform
from vardiu.errors import Interrupted
from vardiu.methods import METHODS, Code
from vardiu.methods.denoising import Denoising, Settings
from vardiu.methods.vardiu import VarDiU
from vardiu.monitoring.verdicts import COLLAPSED, RULES, Verdict
from vardiu.problems.toy import ToyProblem
from vardiu.runs import events
from vardiu.runs.console import ConsoleLines
from vardiu.runs.distill import distill
from vardiu.runs.measuring import cures_of
from vardiu.runs.progress import Pace, ProgressBar, counted, duration
from vardiu.runs.stages import Stages
from vardiu.runs.task import RunSettings, Task
from vardiu.settings.fields import DensitySettings
from vardiu.storage.artefacts import Artefacts
from vardiu.storage.interrupts import wish_to_stop
from vardiu.storage.run_folder import RunFolder
from vardiu.students.few_step import FewStep, OneStep
from vardiu.training.cures import CURES
from vardiu.training.optimizers import Optimisation
from vardiu.training.stage import Context, Stage
from vardiu.training.trainer import Trainer

ROOT = Path(__file__).parent.parent
LEVELS = LogUniform(0.5, 10.0)


class Spoken(Denoising):
    """A denoiser in training that says which generator it is."""

    def student_of(self, network):
        return OneStep(network, 10.0)


class Often(Denoising):
    """The same of three calls, each with a latent of its own."""

    def student_of(self, network):
        return FewStep(network, [10.0, 5.0, 2.0])


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


@pytest.mark.parametrize("objective_class, measured", [(Denoising, 0), (Spoken, 2), (Often, 2)])
def test_a_stage_that_trains_a_denoiser_is_measured_as_the_generator_that_it_is(
    objective_class, measured, carry_out
):
    heard = []
    carry_out(objective_class, [heard.append])
    stages = [e for e in heard if isinstance(e, events.StageStarted)]
    assert [e.stage for e in stages] == ["denoiser", "bound"]
    # Of a call, in the plane.
    assert [e.latent for e in stages] == [2 if measured else None, 2]
    found = [e for e in heard if isinstance(e, events.Measured) and e.stage == "denoiser"]
    assert len(found) == measured
    assert all("metric/mmd2" in e.values and "spread" in e.values for e in found)


def test_events_come_in_one_order_and_the_log_is_what_was_reported(carry_out):
    heard = []
    folder = carry_out(Denoising, [heard.append])
    beside = (events.AlarmRaised, events.WorkProgress)
    kinds = [type(e).__name__ for e in heard if not isinstance(e, beside)]
    first = ["StageStarted", "StepTaken", "Reported", "StepTaken", "StepTaken", "Reported"]
    measured = ["StudentMeasurementStarted", "Measured", "Reported"]
    second = ["StageStarted", "StepTaken", *measured, "StepTaken", "StepTaken", *measured]
    end = ["StepTaken", "Saved", "StageFinished"]
    last = ["FinalMeasurementStarted", "Shipped", "RunFinished"]
    assert kinds == ["RunStarted", *first, *end, *second, *end, *last]
    rows = folder.metrics()
    for row in rows:
        row.pop("alarms", None)
        row.pop("nonfinite", None)
    assert [row["step"] for row in rows] == [2, 4, 2, 4]
    work = [e for e in heard if isinstance(e, events.WorkProgress) and e.finished]
    names = ["probing the teacher", "measuring the student", "drawing the teacher"]
    assert [e.name for e in work] == names
    assert [e.done for e in work] == [e.total for e in work] == [7 * 512, 200, 69 * 1_000]
    result = folder.result()
    assert result["verdict"]["name"] in RULES and heard[-1].results.verdict.sentence
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
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        carry_out(Denoising, [heard.append, stop])
    kinds = [type(e).__name__ for e in heard]
    assert kinds[-3:] == ["StopAsked", "Saved", "RunInterrupted"]
    assert heard[-3] == events.StopAsked("step")


def test_a_stop_is_acknowledged_before_what_is_at_hand_has_ended():
    heard = []
    with wish_to_stop(lambda: heard.append("heard")) as wish:
        os.kill(os.getpid(), signal.SIGTERM)
        assert wish.asked and heard == ["heard"]


def test_portions_tell_that_they_stop():
    heard = []

    def make(index):
        os.kill(os.getpid(), signal.SIGINT)
        return {"x": torch.zeros(1)}

    artefacts = Artefacts(stopping=lambda: heard.append("heard"))
    with pytest.raises(Interrupted, match="after portion 1 of 3 of the pairs"):
        artefacts.get("pairs", {}, 3, make)
    assert heard == ["heard"]


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


class Clock:
    """A time that passes when it is told to."""

    now = 0.0

    def __call__(self):
        return self.now


def recorder(**options):
    return Console(record=True, width=200, file=io.StringIO(), **options)


def test_the_console_says_what_happens(tmp_path):
    console = recorder()
    lines = ConsoleLines(console)
    lines(events.StageStarted("bound", 20, 40, 5, 2, ("a file was changed",)))
    lines(events.StepTaken("bound", 40, 40))
    lines(events.StopAsked("step"))
    lines(events.TeacherNeeded("digits", Path("runs/teach-digits")))
    lines(events.RunAlreadyFinished(tmp_path))
    text = console.export_text()
    assert "skipped: a file was changed" in text and "going on with bound from step 20" in text
    assert "stage 1: bound: update 40 of 40, 0 s" in text and "vardiu teach digits" in text
    assert "stopping after this step, saving ..." in text
    assert "is finished; nothing to do" in text and str(tmp_path / "report.html") in text


def test_a_pipe_is_told_pace_time_left_and_the_headline(tmp_path):
    clock, console = Clock(), recorder()
    lines = ConsoleLines(console, clock)
    lines(events.RunStarted("distill", "mog40", "dmd2", tmp_path, "mmd2"))
    lines(events.StageStarted("dmd2", 0, 20_000, 500, 2, index=2, of=2, cycle=5))
    clock.now = 10.0
    lines(events.StepTaken("dmd2", 500, 20_000))  # nothing new, and not long ago
    lines(events.Measured("dmd2", 1_000, {"metric/mmd2": 0.00223, "metric/mmd2_error": 1e-4}))
    lines(events.StepTaken("dmd2", 1_000, 20_000))
    clock.now = 40.0
    lines(events.StepTaken("dmd2", 4_000, 20_000))
    first, second = console.export_text().strip().splitlines()
    wanted = "stage 2 of 2: dmd2: update 200 of 4,000, 10 s, 20 updates/s, 3 min 10 s left, "
    assert first.startswith(wanted + "MMD^2 0.00223, ") and first.endswith(" GB")
    assert second.startswith(
        "stage 2 of 2: dmd2: update 800 of 4,000, 40 s, 20 updates/s, 2 min 40"
    )


def test_work_beside_the_training_is_told_in_a_pipe():
    clock, console = Clock(), recorder()
    lines = ConsoleLines(console, clock)
    for done in range(5):
        clock.now = 20.0 * done
        lines(events.ArtefactProgress("pairs", done, 4))
    for done in range(0, 101, 25):
        clock.now += 16.0
        lines(events.WorkProgress("measuring the teacher", done, 100))
    lines(events.WorkProgress("measuring the teacher", 100, 100, finished=True))
    assert console.export_text().strip().splitlines() == [
        "making pairs: 0 of 4 portions",
        "making pairs: 2 of 4 portions, 20 s a portion, 40 s left",
        "making pairs: 4 of 4 portions, 20 s a portion",
        "measuring the teacher: 25 of 100 rows, 1.6 rows/s, 48 s left",
        "measuring the teacher: 75 of 100 rows, 1.6 rows/s, 16 s left",
    ]


def test_a_terminal_has_bars_of_pairs_stages_and_measurements(tmp_path):
    console = Console(record=True, width=160, file=io.StringIO(), force_terminal=True)
    bar, shown = ProgressBar(console), []

    def tell(event):
        bar(event)
        if bar.progress is not None:
            shown.append([(t.description, t.completed, t.total) for t in bar.progress.tasks])

    tell(events.RunStarted("distill", "mog40", "dmd2", tmp_path, "mmd2"))
    tell(events.ArtefactProgress("pairs", 1, 4))
    tell(events.ArtefactProgress("pairs", 4, 4))
    tell(events.StageStarted("dmd2", 0, 20_000, 500, 2, index=2, of=2, cycle=5))
    tell(events.Measured("dmd2", 500, {"metric/mmd2": 0.5}))
    tell(events.StepTaken("dmd2", 500, 20_000))
    pairs, stage = ("making pairs", 4, 4), "stage 2 of 2: dmd2"
    assert shown[0] == [("making pairs", 1, 4)]
    assert shown[2] == [pairs, (stage, 0, 4_000)] and shown[-1] == [pairs, (stage, 100, 4_000)]
    words = bar.progress.tasks[1].fields["words"]
    assert "MMD^2 0.5" in words and "left" in words and "loss" not in words
    tell(events.StageFinished("dmd2", 20_000))
    assert bar.progress is None
    tell(events.WorkProgress("measuring the teacher", 50, 100))
    assert shown[-1] == [("measuring the teacher", 50, 100)]
    tell(events.WorkProgress("measuring the teacher", 100, 100, finished=True))
    assert bar.progress is None
    assert "measuring the student" not in console.export_text()


def test_counted_work_is_told_with_the_time_left():
    clock, console = Clock(), recorder()
    with counted(console, "runs", 3, "run", clock) as tell:
        for done in (1, 2, 3):
            clock.now = 60.0 * done
            tell(done, f"seed [{done}]")
    assert console.export_text().splitlines() == [
        "runs: 3 runs",
        "1 of 3: seed [1] (1 min 00 s a run, 2 min 00 s left)",
        "2 of 3: seed [2] (1 min 00 s a run, 1 min 00 s left)",
        "3 of 3: seed [3]",
    ]


def test_a_terminal_has_a_bar_of_counted_work():
    console = Console(record=True, width=120, file=io.StringIO(), force_terminal=True)
    with counted(console, "runs", 2, "run") as tell:
        tell(1)
    assert "runs" in console.export_text(clear=False) and "1/2" in console.export_text()


def test_a_pipe_has_no_bar():
    bar = ProgressBar(recorder())
    bar(events.StageStarted("dmd2", 0, 20_000, 500, 2))
    assert bar.progress is None


def test_what_is_left_is_of_the_work_of_this_process():
    clock = Clock()
    pace = Pace(600, 1_000, clock)
    assert pace.left(600) is None and pace.words(600, "update") == ""
    clock.now = 10.0
    assert pace.left(700) == pytest.approx(30.0)
    assert Pace(0, None, clock).left(3) is None


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.4, "0 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3_600, "1 h 0 min"),
        (2e5, "2 d 7 h"),
    ],
)
def test_times_are_said_as_people_say_them(seconds, words):
    assert duration(seconds) == words


def test_the_end_repeats_alarms_and_judges(tmp_path):
    console = recorder()
    cost = {"seconds": 3.0, "teacher_calls": 0, "teacher_rows": 0}
    alarm = {"name": "collapse", "step": 4, "message": "1 of [4] modes", "cure": "lower --lr"}
    verdict = Verdict(COLLAPSED, "modes covered 1, below half of the 4 of true samples")
    results = events.Results([], [], "true samples", cost, verdict, [alarm])
    ConsoleLines(console)(events.RunFinished(tmp_path, results))
    text = console.export_text()
    assert "collapse: 1 of [4] modes. To try: lower --lr" in text
    assert f"{verdict}" in text and text.index("collapse:") < text.index("COLLAPSED:")


STARTS = [
    ("regression", 64),
    *((m, n) for m in ("diff_instruct", "dmd2", "vardiu") for n in (0, 64)),
]


@pytest.mark.parametrize("method, start", STARTS)
def test_recipes_say_of_how_many_stages_they_are(method, start):
    example = next(iter(METHODS[method].examples.values()))
    pairs = dataclasses.replace(example.settings.pairs, pairs=start, steps=1, batch=8)
    settings = dataclasses.replace(example.settings, pairs=pairs, steps=2)
    problem = ToyProblem(student="one_step")
    stages = Stages(METHODS[method].recipe(problem, settings, Context()))
    stage, told = stages.first(), []
    while stage is not None:
        told.append(stage.of)
        stage = stages.after(Trainer(stage.objective, stage.optimisation, steps=stage.steps))
    assert told == [len(told)] * len(told)


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
    known = {"--method", *options_of(METHODS[method].settings)}
    for kind, text in cures.items():
        named = set(re.findall(r"--[a-z][\w.-]*[\w]", text))
        assert named <= known, (kind, named - known)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"vardiu"}))
def test_no_other_method_is_told_to_take_a_posterior(method):
    assert not any("posterior" in text for text in cures_of(METHODS[method]).values())
