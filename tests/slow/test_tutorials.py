"""Every command and program of the tutorials, and the first page's, in their order, with small settings.

The words are those of the pages; paths are put in for their placeholders, and options that make the work
small are appended.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_stories import blocks, carry_out, learnt_pipeline, settled, write_images

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted((ROOT / "docs/tutorials").glob("*.md"))
SHORT = "--batch 8 --evaluations 1 --reports 1 --threads 1"
POINTS = f"{SHORT} --steps 4 --samples 300 --width 8 --delay 0"
IMAGES = f"{SHORT} --steps 2 --delay 0 --reference 200"
PAIRS = "--pairs.pairs 64 --pairs.steps 2 --pairs.solver-steps 2"
TEACH = f"{SHORT} --batch 32 --steps 200 --lr 3e-3 --reference 200 --widths 8 16 --depth 1 "
TEACH += "--precision float32 --halflife 300"


@pytest.fixture
def here(tmp_path, monkeypatch):
    with settled(tmp_path, monkeypatch, "model", "wrapper", "mine", "contest") as folder:
        yield folder


def programs(page):
    """The blocks of Python of a page: those that name their file, and the others."""
    named, others = {}, []
    for text in blocks(page, "python"):
        name = re.match(r"# (\w+\.py)", text)
        if name is None:
            others.append(text)
        else:
            named[name[1]] = text
    return named, others


def follow(page, small, **places):
    """Carries out the blocks of commands of a page; returns what was done."""
    return [word for text in blocks(page) for word in carry_out(text, small, **places)]


def test_each_command_of_the_tutorials_exists():
    """Without carrying them out: the words of each line are a command's."""
    from vardiu.cli.main import COMMANDS

    assert len(PAGES) == 7
    for path in [ROOT / "docs/index.md", *PAGES]:
        for text in blocks(str(path.relative_to(ROOT))):
            for line in filter(None, text.split("\n")):
                first, *rest = shlex.split(line, comments=True)
                assert first in {"vardiu", "pip", "cp"} and (
                    first != "vardiu" or rest[0] in COMMANDS
                ), line


@pytest.mark.slow
def test_the_first_page_makes_a_picture_of_your_own_points(here):
    points = np.random.default_rng(0).normal(size=(300, 2))
    np.savetxt("points.csv", points, delimiter=",")
    (text,) = blocks("docs/index.md")
    install, *commands = text.strip().split("\n")
    assert install.startswith("pip install") and len(commands) <= 4
    done = carry_out("\n".join(commands), {"distill": POINTS, "sample": "--num 50"})
    assert done == ["distill", "sample"]
    assert next((here / "runs/points").glob("samples-*.png")).stat().st_size > 5_000


@pytest.mark.slow
def test_two_methods_in_two_dimensions(here, capsys):
    _, (program,) = programs("docs/tutorials/compare-2d.md")
    exec(program, {})
    assert np.loadtxt("ring.csv", delimiter=",").shape == (2000, 2)
    done = follow("docs/tutorials/compare-2d.md", {"distill": POINTS, "sample": "--num 50"})
    assert done == ["distill", "distill", "compare", "sample"]
    assert "runs/ring-diff_instruct" in capsys.readouterr().out
    assert list(here.rglob("comparison.html"))


@pytest.mark.slow
def test_own_images(here):
    write_images(here / "faces")
    small = {
        "teach": f"{TEACH} --side 8 --channels 1",
        "probe": "--reference 200",
        "distill": f"{IMAGES} {PAIRS}",
        "evaluate": "--num 100",
    }
    done = follow("docs/tutorials/own-images.md", small)
    assert done == ["teach", "probe", "distill", "sample", "evaluate"]
    assert next((here / "runs/faces").glob("samples-36-*.png")).is_file()


@pytest.mark.slow
def test_own_network(here):
    from vardiu.data.digits import digits

    page = "docs/tutorials/own-network.md"
    named, _ = programs(page)
    for name, text in named.items():
        (here / name).write_text(text)
    assert set(named) == {"model.py", "wrapper.py"}
    torch.manual_seed(0)
    from model import Net

    net, x = Net(), digits()[0]
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(1500):
        t, noise = torch.randint(1000, (128,)), torch.randn(128, 1, 8, 8)
        a = kept[t].reshape(-1, 1, 1, 1)
        x_t = a.sqrt() * x[torch.randint(len(x), (128,))] + (1 - a).sqrt() * noise
        loss = (net(x_t, t) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(net.state_dict(), "weights.pth")
    np.savez("images.npz", x=x.numpy())
    small = {"distill": f"{IMAGES} {PAIRS}", "probe": "--reference 200"}
    assert follow(page, small) == ["probe", "distill", "sample"]
    with np.load(next((here / "run").glob("samples-16-*.npz"))) as drawn:
        assert drawn["x"].shape == (16, 1, 8, 8)


@pytest.mark.slow
def test_from_diffusers_to_onnx(here):
    learnt_pipeline(here / "pipeline")
    write_images(here / "images")
    page = "docs/tutorials/diffusers-to-onnx.md"
    small = {"distill": f"{IMAGES} {PAIRS}", "probe": "--reference 200"}
    places = {"path/to/pipeline": "pipeline", "path/to/images": "images"}
    assert follow(page, small, **places) == ["probe", "distill", "export"]
    _, (program,) = programs(page)
    program += "import sys\nassert 'torch' not in sys.modules and x.shape == (16, 1, 8, 8)\n"
    ran = subprocess.run([sys.executable, "-c", program], cwd=here, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_restore_a_photograph(here):
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    small = {
        "teach": TEACH,
        "restore": "--steps 3",
        "distill": f"{SHORT} --steps 2 --delay 0 --reference 200",
    }
    done = follow("docs/tutorials/restore.md", small)
    assert done == ["teach", "restore", "distill", "upscale"]
    assert list((here / "restored").glob("*.png"))
    assert (here / "runs/sr/upscaled/photo.png/before-after.png").is_file()
    page = (ROOT / "docs/tutorials/restore.md").read_text()
    assert "`runs/sr/upscaled/photo.png`" in page and "`runs/teach-patches`" in page


@pytest.mark.slow
def test_add_a_method(here):
    page = "docs/tutorials/add-a-method.md"
    named, _ = programs(page)
    (here / "contest.py").write_text(named["contest.py"])
    assert named["contest.py"] in (ROOT / "docs/usage/bake-off.md").read_text()
    small = {
        "distill": "--steps 4 --batch 16 --samples 300 --width 8 --threads 1 --reports 1 --evaluations 1",
        "bake-off": "--budgets calls --calls 30000 --seeds 1 --samples 300 --evaluations 1 --no-study --jobs 2",
    }
    assert follow(page, small) == ["cp", "distill", "bake-off"]
    assert json.loads((here / "runs/bake-off-ring/results.json").read_text())["failures"] == []


@pytest.mark.slow
def test_the_site_in_a_browser(tmp_path):
    """Built without a warning; then links, pictures, contrast, the console and the search."""
    sys.path.insert(0, str(ROOT / "website"))
    import check

    if shutil.which("chromium") is None:
        pytest.skip("there is no chromium here")
    site = tmp_path / "site"
    words = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--quiet",
        "--site-dir",
        str(site),
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    assert check.main([str(site), "--browser", "--pictures", str(tmp_path / "shots")]) == 0
