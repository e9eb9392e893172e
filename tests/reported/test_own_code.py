"""Own code is executed only where this command line names it: never for a folder or a config."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import yaml

from vardiu.cli.main import main
from vardiu.errors import ConfigError
from vardiu.runs.task import load_task, problem_of
from vardiu.storage.code import load_code

EVIL = "from pathlib import Path\nPath('mark').touch()\n\n\ndef f():\n    Path('mark').touch()\n"

TEACHER = """
import vardiu
import torch


def make():
    return vardiu.GaussianDenoiser(torch.zeros(3, 8, 8), torch.ones(3, 8, 8), sigma_min=0.1, sigma_max=9.0)


def other():
    return make()
"""

IMAGES = ["--method", "regression", "--batch", "8", "--evaluations", "1", "--reports", "1"]
IMAGES += ["--reference", "400", "--pairs.pairs", "16", "--pairs.batch", "8", "--samples", "200"]
IMAGES += [
    "--pairs.solver-steps",
    "2",
    "--pairs.steps",
    "3",
    "--steps",
    "3",
    "--student",
    "fresh",
    "--depth",
    "1",
]


def changed(run: Path, **problem) -> dict:
    """Writes into a run's config another problem, and returns its settings."""
    path = run / "config.yaml"
    values = yaml.safe_load(path.read_text())
    values["problem"] = {"kind": "images", **problem}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return values


@pytest.mark.parametrize(
    ("setting", "source"),
    [
        ("teacher", "run/evil.py:f"),
        ("teacher", "evil_module:f"),
        ("teacher", "os:abort"),
        ("weak", "run/evil.py:f"),
    ],
)
def test_a_run_folder_names_no_code_to_execute(small_run, refused, source, setting, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(small_run)])
    (small_run / "evil.py").write_text(EVIL)
    (small_run / "evil_module.py").write_text(EVIL)
    changed(small_run, **{setting: source})
    config = small_run / "config.yaml"
    for words in (
        ["distill", "--config", config, "--out", "again"],
        ["distill", "--config", config, "--out", small_run],
        ["distill", "--config", config, "--dry-run"],
        ["probe", "--config", config],
        ["estimate", "--config", config],
    ):
        assert f"repeat --{setting} {source}" in refused(*words)
    for words in (["sample", small_run], ["evaluate", small_run], ["cite", small_run]):
        main([str(word) for word in words])
    with pytest.raises(ConfigError, match=f"repeat --{setting}|there is no teacher"):
        problem_of(load_task(config))
    assert not Path("mark").exists() and "evil_module" not in sys.modules


def test_own_code_is_repeated_on_every_command_and_a_changed_file_is_refused(here, refused):
    file = here / "mine.py"
    file.write_text(TEACHER)
    words = ["distill", "images", *IMAGES, "--out", "run"]
    typed = ["--teacher", "mine.py:make"]
    assert main([*words, *typed]) == 0
    kept = yaml.safe_load(Path("run/config.yaml").read_text())["code"]
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert kept == {"teacher": {"source": "mine.py:make", "sha256": sha256}}
    again = ["distill", "--config", "run/config.yaml", "--out", "run"]
    assert "repeat --teacher mine.py:make" in refused(*again)
    assert main([*again, *typed]) == 0
    assert main([*again, "--teacher=mine.py:make"]) == 0

    file.write_text(f"{TEACHER}\n# changed\n")
    for line in (refused(*again, *typed), refused(*words, *typed)):
        assert "mine.py:make was changed since" in line and sha256[:12] in line
        assert "--accept-changed-code" in line
    assert main([*again, *typed, "--accept-changed-code"]) == 0
    assert load_code("mine.py:make").sha256 in Path("run/code-changes.jsonl").read_text()
    assert yaml.safe_load(Path("run/config.yaml").read_text())["code"] == kept
    # Another name of the file is another teacher, which this run does not have.
    assert "problem.teacher" in refused_settings(again, here)


def refused_settings(words: list[str], here: Path) -> str:
    from vardiu.cli.options import parse_request
    from vardiu.storage.run_folder import RunFolder

    request = parse_request("distill", [*words[1:], "--teacher", "mine.py:other"])
    with pytest.raises(ValueError) as error:
        RunFolder(here / "run").open(request.task.to_mapping())
    return str(error.value)


def test_a_module_of_the_working_folder_and_neighbours_of_a_file_are_found(here, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (here / "my_networks.py").write_text(TEACHER)
    (here / "uses.py").write_text("from my_networks import make\n")
    assert load_code("my_networks:make").made().shape == (3, 8, 8)
    assert load_code("uses.py:make").made().shape == (3, 8, 8)


def test_own_code_that_fails_says_where(here):
    (here / "bad.py").write_text("def f():\n    return 1 / 0\n\n\ndef g(x):\n    return x\n")
    with pytest.raises(ConfigError, match="bad.py:f, line 2: ZeroDivisionError: division by zero"):
        load_code("bad.py:f").made()
    with pytest.raises(ConfigError, match="bad.py:g takes x: name a function without arguments"):
        load_code("bad.py:g").made()
