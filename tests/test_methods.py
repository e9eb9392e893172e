"""The table of methods: what an object must be, where methods come from, what is refused."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import pkgutil
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

import vardiu.methods
from vardiu import cite
from vardiu.cli.main import main
from vardiu.cli.rows import options_of
from vardiu.comparison.contests import CONTESTS, Competitor, Contest, entered, load_contest
from vardiu.errors import ConfigError
from vardiu.methods import METHODS, Arm, Example, Method, Needs, Preset, load_method
from vardiu.methods.registry import Methods, own_methods
from vardiu.methods.vardiu import Settings, recipe
from vardiu.runs.presets import PRESETS, TEACHERS
from vardiu.runs.task import PROBLEM_KINDS, RunSettings, load_task, task_from_preset
from vardiu.settings.fields import Training
from vardiu.settings.grounds import MOG40
from vardiu.storage.run_folder import RunFolder

ROOT = Path(__file__).parent.parent
SKELETON = ROOT / "docs" / "methods" / "skeleton.py"
QUICK = ["--steps", "20", "--batch", "16", "--samples", "500", "--width", "8", "--threads", "1"]
QUICK += ["--reports", "1", "--evaluations", "1"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 500)
    shutil.copy(SKELETON, tmp_path / "mine.py")
    return tmp_path


def told(capsys) -> str:
    return " ".join(capsys.readouterr().err.split())


def method(**changes) -> Method:
    given = {
        "name": "mine",
        "title": "Mine",
        "year": 2030,
        "address": "https://arxiv.org",
        "networks": ("student",),
        "settings": Settings,
        "recipe": recipe,
    }
    return Method(**{**given, **changes})


# ---------------------------------------------------------------- the objects


def test_every_module_has_one_object_and_one_class_of_settings():
    modules = {m.name for m in pkgutil.iter_modules(vardiu.methods.__path__)}
    # What several methods, or starts and posteriors of theirs, stand on.
    shared = {"anchored", "banked", "adp", "critics", "frames", "lagging"}
    shared |= {"imitated", "policy_gradient", "rewards", "self_consistency", "starts", "halving"}
    assert modules - {"base", "registry", *shared} == set(own_methods())
    # In the method's file, or in one of its folder.
    assert [m.settings.__module__.split(".")[2] for m in own_methods().values()] == sorted(
        own_methods()
    )
    assert {m.settings.__name__ for m in own_methods().values()} == {"Settings"}
    assert not METHODS["denoising"].needs.teacher and "digits" in TEACHERS
    assert not any(METHODS[row.method].teaches for row in PRESETS.values())
    assert METHODS["denoising"].teaches and not METHODS["consistency_training"].needs.teacher
    assert all(m.examples for m in own_methods().values())


def test_an_option_of_a_method_is_none_of_a_problem_or_a_run():
    """All three are options of one command line, which has one of a name."""

    def names(row: type) -> set[str]:
        return {option.flag for option in options_of(row)}

    others = {**PROBLEM_KINDS, "run": RunSettings}
    shared = {
        (method.name, kind, name)
        for method in METHODS.values()
        for kind, row in others.items()
        for name in names(method.settings) & names(row)
    }
    assert not shared


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "My method"}, "lower-case letters"),
        ({"year": "2026"}, "year must be a number, got '2026'"),
        ({"address": "arxiv.org"}, "must begin with https://, got 'arxiv.org'"),
        ({"networks": "student"}, r'a tuple such as \("student",\), got \'student\''),
        (
            {"cures": {"colapse": "raise --batch"}},
            "it has a cure of the alarm 'colapse'; did you mean collapse?",
        ),
        ({"settings": dict}, "settings must be a subclass of Training"),
        ({"recipe": None}, "its recipe a function"),
        (
            {"presets": {"mine-1": Preset("", MOG40, Training())}},
            "settings of its preset 'mine-1' are of Training",
        ),
        ({"arms": {"mog40": {"a": Arm("A", Training())}}}, "of its arm 'a' of 'mog40'"),
        ({"examples": {"b": Example(Training())}}, "of its example 'b'"),
        ({"cites_by": lambda settings: ("c",)}, "it cites 'c'; its bibtex has nothing"),
    ],
)
def test_a_malformed_object_is_refused_in_one_line(changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        method(**changes)
    assert "\n" not in str(error.value)


def test_citations_follow_the_settings():
    chosen = METHODS["vardiu"]
    plain = chosen.citations(Settings())
    assert set(plain) == {"vardiu"}
    flow = chosen.citations(Settings(posterior="flow", particles=2))
    assert set(flow) == {"vardiu", "nsf", "iwhvi"} and "durkan2019nsf" in flow["nsf"]
    digits = cite.cited(chosen, Settings(posterior="framed"), "digits")
    assert set(digits) == {"vardiu", "mppca", "digits", "edm", "vardiu_software"}
    images = PRESETS["digits"].settings
    assert set(METHODS["diff_instruct"].citations(images)) == {"diff_instruct", "dmd", "luhman"}


# ---------------------------------------------------------------- where they come from


class Point:
    """An entry point of a distribution."""

    def __init__(self, name, found):
        self.name, self.found, self.value = name, found, f"theirs:{name}"
        self.dist = type("Distribution", (), {"name": "their-package"})

    def __lt__(self, other):
        return self.name < other.name

    def load(self):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def with_points(monkeypatch, *points: Point) -> Methods:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    return Methods()


def test_a_distribution_brings_its_method_and_a_broken_one_breaks_nothing(monkeypatch):
    good = method(presets={"mine-1": Preset("", MOG40, Settings())})
    found = with_points(
        monkeypatch,
        Point("mine", good),
        Point("broken", ImportError("no module named jax")),
        Point("number", 3),
        Point("vardiu", METHODS["vardiu"]),
    )
    assert found["mine"] is good and set(found) == {*own_methods(), "mine"}
    assert list(found)[0] == "mine"  # the newest
    assert set(found.broken) == {"broken", "number", "vardiu"}
    line = found.broken["broken"]
    assert "'broken' of the distribution their-package cannot be used" in line
    assert "no module named jax" in line and "\n" not in line
    assert "must be a vardiu.methods.Method, got int" in found.broken["number"]
    assert "of another method" in found.broken["vardiu"]


def test_commands_name_a_broken_distribution(monkeypatch, capsys, here):
    broken = with_points(monkeypatch, Point("broken", SyntaxError("bad")))
    monkeypatch.setattr(METHODS, "_found", None)
    monkeypatch.setattr(METHODS, "_broken", {})
    assert main(["list"]) == 0
    assert broken.broken["broken"] in " ".join(capsys.readouterr().out.split())
    assert main(["distill", "mog40", "--method", "broken"]) == 2
    assert "'broken' of the distribution their-package cannot be used" in told(capsys)


def test_two_modules_with_one_name_are_refused(monkeypatch):
    module = sys.modules["vardiu.methods.regression"]
    monkeypatch.setattr(module, "METHOD", dataclasses.replace(module.METHOD, name="vardiu"))
    with pytest.raises(ConfigError, match="the name 'vardiu' of another method: rename one"):
        own_methods()
    taken = {"mog40": Preset("", MOG40, module.Settings())}
    monkeypatch.setattr(module, "METHOD", method(settings=module.Settings, presets=taken))
    with pytest.raises(ConfigError, match="a preset 'mog40', as the method"):
        own_methods()


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "file.py cannot be read: No such file"),
        ("METHOD = 3", "must be a vardiu.methods.Method, got int"),
        ("x = 1\n1 / 0", "file.py, line 2: ZeroDivisionError: division by zero"),
        ("x = (", "file.py, line 1: SyntaxError"),
        ("OTHER = 3", "file.py has no 'METHOD'"),
        ("import neighbour_that_is_not", "line 1: ModuleNotFoundError: No module named"),
        ("from vardiu.methods.vardiu import METHOD", "the name 'vardiu' of another method"),
    ],
)
def test_a_file_that_brings_no_method(tmp_path, text, message):
    path = tmp_path / "file.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_method(f"{path}:METHOD")
    assert "\n" not in str(error.value)


def test_a_file_may_import_its_neighbour_and_a_module_is_named_without_a_file(here, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (here / "beside_the_skeleton.py").write_text(SKELETON.read_text())
    (here / "uses.py").write_text("from beside_the_skeleton import METHOD\n")
    code = load_method("uses.py:METHOD")
    assert code.method.name == "skeleton" and len(code.sha256) == 64
    assert load_method("uses.py:METHOD").method is code.method  # executed once
    assert load_method("beside_the_skeleton:METHOD").method is code.method


def test_a_file_that_a_neighbour_imported_is_not_executed_again(here):
    (here / "method_of_two.py").write_text(SKELETON.read_text())
    (here / "first.py").write_text("from method_of_two import METHOD\n")
    (here / "second.py").write_text("from method_of_two import METHOD as AGAIN\n")
    first = load_method("first.py:METHOD").method
    assert load_method("method_of_two.py:METHOD").method is first
    assert load_method("second.py:AGAIN").method is first
    changed = SKELETON.read_text() + "CHANGED = True\n"
    (here / "method_of_two.py").write_text(changed)
    assert load_method("method_of_two.py:METHOD").method is not first


# ---------------------------------------------------------------- runs by a file's method


def test_the_skeleton_is_distilled_sampled_and_refused_without_its_option(here, capsys):
    command = ["distill", "mog40", "--method", "mine.py:METHOD", *QUICK]
    typed = ["--method", "mine.py:METHOD"]
    run = RunFolder("runs/mog40-skeleton")
    assert len(SKELETON.read_text().splitlines()) <= 80
    assert main(command) == 0
    assert run.result()["cost"]["student_updates"] == 20
    kept = yaml.safe_load(run.file("config.yaml").read_text())["code"]["method"]
    assert kept == load_method("mine.py:METHOD").to_mapping()
    assert main(["sample", str(run.path), "--num", "8", *typed]) == 0
    assert main(["cite", str(run.path), *typed]) == 0
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out

    config = str(run.file("config.yaml"))
    again = ["distill", "--config", config, "--out", str(run.path)]
    assert main([*again, *typed]) == 0
    others = [
        ["sample", str(run.path)],
        ["evaluate", str(run.path)],
        ["export", str(run.path), "--to", "safetensors"],
        ["cite", str(run.path)],
        ["compare", str(run.path)],
        again,
    ]
    for words in others:
        capsys.readouterr()
        assert main(words) == 2
        line = told(capsys)
        assert "repeat --method mine.py:METHOD" in line, words
    assert main(["sample", str(run.path), "--method", "skeleton"]) == 2
    assert "'skeleton' names no code: give FILE.py:NAME" in told(capsys)


def test_a_changed_file_is_refused_until_it_is_accepted(here, capsys, monkeypatch):
    command = ["distill", "mog40", "--method", "mine.py:METHOD", *QUICK]
    code = load_method("mine.py:METHOD")
    task = task_from_preset("distill", "mog40", code=code)
    run = RunFolder("runs/mog40-skeleton")
    assert main([*command, "--dry-run"]) == 0
    values = yaml.safe_load(capsys.readouterr().out)
    run.open(values)
    run.file("checkpoints").mkdir()  # it was begun
    path = here / "mine.py"
    path.write_text(path.read_text() + "\n# changed\n")
    for words in (command, ["sample", str(run.path), "--method", "mine.py:METHOD"]):
        assert main(words) == 2
        line = told(capsys)
        assert "mine.py:METHOD was changed since" in line
        assert code.sha256[:12] in line and "--accept-changed-code" in line
    assert main([*command, "--accept-changed-code"]) == 0
    changes = run.file("code-changes.jsonl").read_text().splitlines()
    assert len(changes) == 1 and load_method("mine.py:METHOD").sha256 in changes[0]
    kept = yaml.safe_load(run.file("config.yaml").read_text())["code"]["method"]
    assert kept == task.code.to_mapping()
    sample = ["sample", str(run.path), "--method", "mine.py:METHOD"]
    assert main(sample) == 2
    assert main([*sample, "--accept-changed-code"]) == 0


def test_a_config_file_executes_nothing(here):
    """The file that a config names would leave a mark if it were executed."""
    (here / "evil.py").write_text("from pathlib import Path\nPath('mark').touch()\nMETHOD = 1\n")
    values = task_from_preset("distill", "mog40").to_mapping()
    values["code"] = {"method": {"source": "evil.py:METHOD", "sha256": "0" * 64}}
    path = here / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="repeat --method evil.py:METHOD"):
        load_task(path)
    other = load_method("mine.py:METHOD")
    with pytest.raises(ConfigError, match="was changed since"):
        load_task(path, [other])
    assert main(["distill", "--config", "config.yaml"]) == 2
    for wrong in ("evil.py:METHOD", {"method": "evil.py:METHOD"}, {"other": {}}):
        path.write_text(yaml.safe_dump({**values, "code": wrong}))
        with pytest.raises(ConfigError, match="its group `code` must hold"):
            load_task(path)
    assert not Path("mark").exists()


def test_a_method_is_offered_by_its_own_command(here, capsys):
    assert main(["distill", "mog40", "--method", "denoising"]) == 2
    assert "unknown method 'denoising'" in told(capsys)
    assert main(["teach", "mog40", "--method", "mine.py:METHOD"]) == 2
    assert "not a method of `teach`: use vardiu distill" in told(capsys)


def test_a_files_presets_are_found(here):
    text = SKELETON.read_text().replace(
        "recipe=recipe,", "recipe=recipe,\n    presets={'mine': Preset('', MOG40, Settings())},"
    )
    head = "from vardiu.methods import Preset\nfrom vardiu.settings.grounds import MOG40\n"
    (here / "more.py").write_text(text.replace("\nimport torch\n", f"\nimport torch\n{head}"))
    code = load_method("more.py:METHOD")
    task = task_from_preset("distill", "mine", code=code)
    assert task.method == "skeleton" and task.problem == MOG40
    assert task_from_preset("distill", "mog40", code=code).settings == task.settings


# ---------------------------------------------------------------- contests


def test_contests_take_their_arms_from_the_methods(here):
    arms = entered("mog40", CONTESTS["mog40"]).arms
    own = [name for m in METHODS.values() for name in m.arms.get("mog40", {})]
    assert list(arms) == own and {"adm", "gaussian", "diff-instruct-10"} <= set(own)
    digits = entered("digits", CONTESTS["digits"]).arms
    assert {"anchored", "framed", "diff-instruct", "pairs"} <= set(digits)
    code = load_method("mine.py:METHOD")
    mine = dataclasses.replace(
        code.method, arms={"mog40": {"mine": Arm("Mine", code.method.settings())}}
    )
    more = entered("mog40", CONTESTS["mog40"], [dataclasses.replace(code, value=mine)]).arms
    assert set(more) - set(arms) == {"mine"} and more["mine"].code is not None
    own = Competitor("Own", "skeleton", code.method.settings())
    contest = Contest("", {"exact": MOG40}, {"own": own}, seconds=1.0, rows=100)
    assert entered("own", contest, [code]).arms["own"].code == code
    with pytest.raises(ConfigError, match="arm 'own': unknown method 'skeleton'"):
        entered("own", contest)
    wrong = dataclasses.replace(own, settings=Settings())
    with pytest.raises(ConfigError, match="its settings are of vardiu.methods.vardiu"):
        entered("own", dataclasses.replace(contest, arms={"own": wrong}), [code])


CONTEST = """
import vardiu
from vardiu.comparison.contests import Competitor, Contest
from vardiu.methods import METHODS, load_method
from vardiu.settings.fields import DensitySettings

SMALL = DensitySettings(name="ring8", width=16, depth=1)
OWN = Contest(
    "my own",
    {"exact": SMALL},
    {
        "gaussian": Competitor("Gaussian", "vardiu", METHODS["vardiu"].settings(batch=16)),
        "mine": Competitor(
            "Mine", "skeleton", load_method("mine.py:METHOD").method.settings(batch=32)
        ),
    },
    seconds=0.4,
    rows=2_000,
)
"""


def test_a_contest_from_a_file_is_read(here, capsys):
    (here / "contest.py").write_text(CONTEST)
    name, contest = load_contest("contest.py:OWN")
    codes = [load_method("mine.py:METHOD")]
    arms = entered(name, contest, codes).arms
    assert name == "own" and [arm.code for arm in arms.values()] == [None, codes[0]]
    assert main(["bake-off"]) == 2
    assert "which contest? One of: mog40" in told(capsys)
    assert main(["bake-off", "--contest", "mine.py:METHOD"]) == 2
    assert "must be a Contest, got Method" in told(capsys)
    words = ["bake-off", "--contest", "contest.py:OWN"]
    assert main(words) == 2
    assert "arm 'mine': unknown method 'skeleton'" in told(capsys)


@pytest.mark.slow
def test_a_contest_and_a_method_from_files_are_carried_out(here, capsys):
    (here / "contest.py").write_text(CONTEST)
    words = ["bake-off", "--contest", "contest.py:OWN", "--method", "mine.py:METHOD"]
    words += ["--budgets", "calls", "--seeds", "1", "--samples", "400", "--evaluations", "1"]
    assert main([*words, "--no-study"]) == 0, capsys.readouterr().err
    table = Path("runs/bake-off-own/results.md").read_text()
    assert "| Mine |" in table and "| Gaussian |" in table


def test_needs_say_what_a_teacher_is_for():
    assert Needs() == Needs(data=False, teacher=True, pairs=False, gradient=False)
    assert METHODS["regression"].needs.pairs and METHODS["denoising"].needs.data
