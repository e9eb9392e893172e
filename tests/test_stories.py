"""Three users, from the words of the README and of the pages that it links, with tiny settings.

The commands are those of the fenced blocks. Paths are put in for the README's placeholders, and
options that make the work small are appended; nothing else is.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pipelines
import pytest
import torch

from vardiu.cli.main import main
from vardiu.data.digits import digits

ROOT = Path(__file__).parent.parent


def blocks(page: str, language: str = "") -> list[str]:
    """The fenced blocks of a page in a language; none is that of commands."""
    found = re.findall(
        r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )
    return [text for kind, text in found if kind == language]


def block(page: str, word: str, language: str = "") -> str:
    """The one fenced block of a page that has a word in it."""
    (found,) = [text for text in blocks(page, language) if word in text]
    return found


def carry_out(commands: str, small: dict[str, str], **places: str) -> list[str]:
    """Runs each line of a block, with the options that make its command small; returns them.

    The options are those of the longest beginning of a command.
    """
    done = []
    for line in filter(None, commands.split("\n")):
        words = shlex.split(line, comments=True)
        key = max((key for key in small if f"vardiu {key}" in line), key=len, default="")
        words = [places.get(word, word) for word in words]
        if words[0] == "cp":
            shutil.copy(ROOT / words[1], words[2])
        else:
            assert words[0] == "vardiu", line
            assert main([*words[1:], *small.get(key, "").split()]) == 0, line
        done.append(words[1] if words[0] == "vardiu" else words[0])
    return done


@contextlib.contextmanager
def settled(folder, monkeypatch, *written):
    """In a folder of its own, with few images measured; the modules that were written there go."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name in ("quick", "samples"):
        monkeypatch.setattr(f"vardiu.problems.image_scores.ImageScores.{name}", 40)
    yield folder
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture
def here(tmp_path, monkeypatch):
    with settled(tmp_path, monkeypatch, "mine") as folder:
        yield folder


def learnt_pipeline(folder: Path) -> None:
    """A pipeline of digits as an engineer has one: trained for a moment, saved by diffusers."""
    import diffusers

    torch.manual_seed(0)
    network = pipelines.unet(10, widths=(16,), attention=False)
    schedule = pipelines.scheduler("v_prediction")
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    x, label = digits()
    for _ in range(90):
        rows = torch.randint(len(x), (32,))
        t, noise = torch.randint(1000, (32,)), torch.randn(32, 1, 8, 8)
        told = network(schedule.add_noise(x[rows], noise, t), t, class_labels=label[rows]).sample
        loss = (told - schedule.get_velocity(x[rows], noise, t)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    diffusers.ConsistencyModelPipeline(network, schedule).save_pretrained(folder)


def write_images(folder: Path) -> None:
    """Images in folders of their classes."""
    from PIL import Image

    x, label = digits()
    for i in range(400):
        place = folder / str(int(label[i]))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(((x[i, 0] + 1) * 127.5).byte().numpy()).save(place / f"{i}.png")


def test_a_student_compares_two_methods_on_her_own_data(here, capsys):
    """Reads the section `Two methods on your own data`: points, then images by class."""
    random = np.random.default_rng(0)
    angles = random.uniform(0, 2 * np.pi, 400)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) + 0.1 * random.normal(
        size=(400, 2)
    )
    np.savetxt("points.csv", points, delimiter=",")
    write_images(here / "faces")
    short = "--batch 8 --evaluations 1 --reports 1 --threads 1"
    images = f"{short} --steps 2 --delay 0 --reference 200"
    small = {
        "distill points.csv": f"{short} --steps 4 --samples 300 --width 8",
        "distill points.csv --method": f"{short} --steps 4 --samples 300 --width 8 --delay 0",
        "teach": f"{short} --batch 32 --steps 200 --lr 3e-3 --reference 200 --widths 8 16 --depth 1 "
        "--side 8 --channels 1 --precision float32 --halflife 300",
        "distill --teacher": f"{images} --pairs.pairs 64 --pairs.steps 2 --pairs.solver-steps 2",
        "sample": "--num 4",
    }
    done = carry_out(block("README.md", "vardiu distill points.csv"), small)
    assert done == ["distill"] * 2 + ["compare", "teach"] + ["distill"] * 2 + ["compare", "sample"]
    told = capsys.readouterr().out
    for run in ("runs/points-diff_instruct", "runs/faces-vardiu"):
        assert (here / run / "result.json").is_file() and Path(run).name in told
    pages = "".join(page.read_text() for page in here.rglob("comparison*.html"))
    assert "diff_instruct" in pages or "Diff-Instruct" in pages
    with np.load(next((here / "runs/faces").glob("samples-4-*.npz"))) as shown:
        assert shown["x"].shape == (4, 1, 8, 8) and shown["label"].tolist() == [3] * 4


def test_an_engineer_ships_a_pipeline_as_onnx(here, capsys):
    """Reads the section `Your model in`, and runs its last block in a process without torch."""
    learnt_pipeline(here / "pipeline")
    write_images(here / "images")
    small = {
        "distill": "--pairs.pairs 64 --pairs.steps 2 --pairs.solver-steps 2 --steps 2 --delay 0 --batch 8 "
        "--evaluations 1 --reports 1 --threads 1 --reference 200",
        "evaluate": "--num 100",
        "probe": "--reference 200",
    }
    commands = block("README.md", "vardiu probe --teacher")
    places = {"path/to/pipeline": "pipeline", "path/to/images": "images"}
    done = carry_out(commands, small, **places)
    assert done == ["probe", "distill", "sample", "evaluate", "export"]
    told = capsys.readouterr().out
    assert "it denoises" in told and re.search("GOOD|IMPROVING|STUCK|COLLAPSED|NOT JUDGED", told)
    assert (here / "runs/own/report.html").stat().st_size > 5_000

    program = block("README.md", "onnxruntime", "python")
    program += "import sys\nassert 'torch' not in sys.modules and 'vardiu' not in sys.modules\n"
    program += "numpy.savez('shown.npz', x=x, **given)\n"
    ran = subprocess.run([sys.executable, "-c", program], cwd=here, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    from vardiu import models

    with np.load("shown.npz") as shown:
        assert shown["x"].shape == (16, 1, 8, 8) and shown["label"].tolist()[9:12] == [9, 0, 1]
        student = models.load("runs/own/student")
        z, label = torch.from_numpy(shown["z"]), torch.from_numpy(shown["label"])
        with torch.no_grad():
            own = student(z, label=label).numpy()
        assert np.abs(shown["x"] - own).max() < 1e-4


@pytest.mark.slow
def test_a_researcher_adds_a_method_and_a_contest(here, capsys):
    """Reads `Which method when`, and the page of contests that it links."""
    commands = block("README.md", "docs/methods/skeleton.py")
    contest = block("docs/usage/bake-off.md", "# contest.py", "python")
    (here / "contest.py").write_text(contest)
    small = {
        "distill": "--steps 4 --batch 16 --samples 300 --width 8 --threads 1 --reports 1 "
        "--evaluations 1",
        "bake-off": "--budgets calls --calls 30000 --seeds 1 --samples 300 --evaluations 1 "
        "--no-study --jobs 2",
    }
    assert carry_out(commands, small) == ["cp", "distill", "bake-off"]
    results = json.loads((here / "runs/bake-off-ring/results.json").read_text())
    (group,) = results["groups"].values()
    assert set(group) == {"mine", "other"} and not results["failures"]
    assert all(run["metrics"]["mmd2"] > 0 for (run,) in group.values())
    spent = [run["cost"]["teacher_rows"] for (run,) in group.values()]
    assert all(abs(rows - 30_000) < 512 for rows in spent), spent  # whole updates
    told = capsys.readouterr().out
    assert "My method" in told and "Diff-Instruct" in told


def test_other_words_of_these_pages_are_commands_too():
    """Each block of commands in README has commands that exist and options that are known."""
    from vardiu.cli.main import COMMANDS

    for text in blocks("README.md"):
        for line in filter(None, text.split("\n")):
            first, *rest = shlex.split(line, comments=True)
            assert first in {"vardiu", "make", "pip", "cp"}, line
            assert first != "vardiu" or rest[0] in COMMANDS
