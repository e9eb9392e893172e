"""Types mean something: the checker is not told to look away, and reports what is wrong."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import vardiu

ROOT = Path(__file__).parent.parent
WRONG = Path("tests/typing/wrong.py")


def disabled() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert "vardiu" in settings["files"] and settings["check_untyped_defs"]
    assert not {"exclude", "ignore_errors"} & set(settings)
    for stricter in settings.get("overrides", []):
        assert stricter == {"module": "vardiu.*", "ignore_missing_imports": False}
    return settings.get("disable_error_code", [])


def test_the_checker_is_told_to_look_at_everything():
    assert set(disabled()) <= {"misc"}


def test_ignored_lines_name_the_code_and_a_reason():
    for path in (ROOT / "vardiu").rglob("*.py"):
        for line in path.read_text().splitlines():
            if re.search(r"#\s*type:\s*ignore", line):
                assert re.search(r"# type: ignore\[[\w, -]+\]  # \w", line), f"{path}: {line}"
            assert "# mypy:" not in line, f"{path}: {line}"


def test_the_stub_names_what_is_imported_lazily_and_nothing_else():
    tree = ast.parse((ROOT / "vardiu/__init__.pyi").read_text())
    stated = next(node for node in tree.body if isinstance(node, ast.Assign))
    assert ast.unparse(stated.targets[0]) == "__all__"
    assert ast.literal_eval(stated.value) == vardiu.__all__
    (version,) = (node for node in tree.body if isinstance(node, ast.AnnAssign))
    modules = {
        alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    # The rooms, loaded lazily too.
    rooms = {name for name, module in modules.items() if module is None}
    assert rooms == set(dir(vardiu)) - set(vardiu.__all__) and vardiu.teachers.load
    modules = {name: module for name, module in modules.items() if name not in rooms}
    assert {ast.unparse(version.target), *modules} == set(vardiu.__all__)
    for name, module in modules.items():
        owner = importlib.import_module(f"vardiu.{module}")
        assert getattr(owner, name) is getattr(vardiu, name), name


def test_nine_mistakes_are_reported_and_nothing_else():
    lines = (ROOT / WRONG).read_text().splitlines()
    expected = {
        (number, found[1])
        for number, line in enumerate(lines, 1)
        if (found := re.search(r"# expect: ([\w-]+)$", line))
    }
    assert len(expected) == 9
    # Normally none: the options, and with them the cache, are then those of the linter's run.
    enabled = [f"--enable-error-code={c}" for c in {c for _, c in expected} & set(disabled())]
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *enabled, str(WRONG)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and not done.stderr, done.stdout + done.stderr
    pattern = rf"^{re.escape(str(WRONG))}:(\d+): error: .*\[([\w-]+)\]$"
    reported = {(int(n), code) for n, code in re.findall(pattern, done.stdout, re.MULTILINE)}
    assert reported == expected, done.stdout
