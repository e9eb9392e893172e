"""Reports: commands that can be typed as they stand."""

from __future__ import annotations

import html
import json
import shlex

import pytest

from vardiu.reports.html import write_report
from vardiu.storage.files import write_text_atomic
from vardiu.storage.run_folder import RunFolder


def commands(run, command):
    run.open({"command": command})
    write_text_atomic(run.file("provenance.json"), json.dumps({}))
    about = {"metrics": [], "reference": [], "reference_name": "", "cost": {}, "pictures": []}
    text = write_report(run, title="t", **about).read_text(encoding="utf-8")
    block = html.unescape(text.split("What next")[1].split("<pre>")[1].split("</pre>")[0])
    return [shlex.split(line) for line in block.splitlines()]


def test_commands_of_a_folder_with_spaces_are_quoted(tmp_path):
    run = RunFolder(tmp_path / "my runs; rm")
    lines = commands(run, "distill")
    assert [line[1] for line in lines] == ["sample", "evaluate", "cite", "distill"]
    assert all(line[2] == str(run.path) for line in lines[:3])
    assert lines[3][3] == str(run.file("config.yaml"))


@pytest.mark.parametrize("absent", ["sample", "evaluate", "distill"])
def test_a_teachers_report_has_commands_of_a_teacher(tmp_path, absent):
    lines = commands(RunFolder(tmp_path / "t"), "teach")
    assert absent not in [line[1] for line in lines]
    assert lines[-1][1:3] == ["teach", "--config"]
