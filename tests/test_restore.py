"""`vardiu restore`, as a user types it: what is written, going on, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import Command

from vardiu.cli.main import main
from vardiu.data.operators import Inpainting, box_mask
from vardiu.problems.inverse import OPERATORS, OperatorSettings, operator_of
from vardiu.runs import restoring
from vardiu.runs.restoring import png
from vardiu.samplers.inverse import ReSample

CODE = """
import torch
from vardiu.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from vardiu.teachers import FunctionDenoiser

def gaussian(shape):
    d = torch.Size(shape).numel()
    place = torch.arange(d).float()
    cov = 0.25 * torch.exp(-(place[:, None] - place).abs() / 6) + 0.01 * torch.eye(d)
    return GaussianDenoiser(torch.zeros(shape), cov, sigma_min=0.01, sigma_max=80.0)

def grey(): return gaussian((1, 8, 8))
def colour(): return gaussian((3, 8, 8))
def vector(): return gaussian((5,))

def network():
    from vardiu.denoisers.preconditioned import PreconditionedDenoiser
    from vardiu.nn import UNet
    torch.manual_seed(0)
    return PreconditionedDenoiser(UNet(1, widths=(8, 8), depth=1), shape=(1, 8, 8), sigma_data=0.5,
        sigma_min=0.02, sigma_max=20.0)

def classes():
    means = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    denoiser = MixtureDenoiser(means, 0.2, labels=torch.tensor([0, 1]), sigma_min=0.01, sigma_max=80.0)
    return FunctionDenoiser(denoiser, shape=(1, 8, 8), sigma_min=0.01, sigma_max=80.0, classes=2)

def latent(): return coded(lambda x: torch.nn.functional.avg_pool2d(x, 2))
def blind(): return coded(None)

def coded(compress):
    inner = gaussian((1, 4, 4))
    up = lambda z: torch.nn.functional.interpolate(z, scale_factor=2)
    return FunctionDenoiser(inner, shape=(1, 4, 4), sigma_min=0.01, sigma_max=80.0, decode=up, compress=compress)

class Half:
    "As deepinv has them: a call adds noise, A does not."
    def A(self, x): return x[:, :, ::2]
    def A_adjoint(self, y):
        return torch.stack([y, torch.zeros_like(y)], dim=3).flatten(2, 3)
    def __call__(self, x): return self.A(x) + 100

class Wrong(Half):
    def A_adjoint(self, y): return 2 * super().A_adjoint(y)

class Square(Half):
    def A(self, x): return x[:, :, ::2] ** 2

half, wrong, square = Half(), Wrong(), Square()
def made(): return Half()
def power(x): return (x + 0.1 * x ** 3).flatten(1)
numbers = 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(CODE)
    monkeypatch.setattr(ReSample, "latents", ReSample.latents._replace(most=5))
    monkeypatch.setattr(ReSample, "pixels", ReSample.pixels._replace(most=5))
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 1, 8, 8, generator=g).cumsum(2).cumsum(3)
    x = 0.8 * x / x.abs().amax((1, 2, 3), keepdim=True)
    np.save("truth.npy", x.numpy())
    Path("photos").mkdir()
    for name, row in zip("abc", x, strict=True):
        Path(f"photos/{name}.png").write_bytes(png(row))


def restore(*words, operator="inpaint --mask box:3", teacher="mine.py:grey", steps=6, out="out"):
    line = f"restore --teacher {teacher} --operator {operator} --steps {steps} --out {out}"
    return main([*line.split(), *words])


def told(capsys, *words, **more):
    status = restore(*words, **more)
    found = capsys.readouterr()
    return status, found.out, found.err


def rows(out="out"):
    return json.loads(Path(out, "results.json").read_text())


def test_a_folder_of_pictures_is_restored_and_gone_on_with(capsys):
    status, out, _ = told(capsys, "--measurement", "photos", "--batch", "2")
    assert status == 0 and "restoring: 18 steps" in out and "3 of" not in out.split("\n")[0]
    assert "residual" in out and "PSNR" not in out
    first = {p.name: p.stat().st_mtime_ns for p in Path("out").iterdir() if p.stem[0] in "abc"}
    assert {"a.png", "a.npz", "a.json", "a-steps.png"} <= set(first)
    assert Image.open("out/measured/a.png").size == Image.open("out/a.png").size == (8, 8)
    hidden = np.asarray(Image.open("out/measured/a.png"))[3:5, 3:5]
    assert (hidden == 128).all()  # zero: what lies under the mask was not seen
    assert Image.open("out/a-steps.png").height == 8
    assert "dps" in Path("out/report.html").read_text()
    assert "chung2023dps" in Path("out/citations.bib").read_text()
    assert json.loads(Path("out/provenance.json").read_text())["command"][:2] == [
        "vardiu",
        "restore",
    ]
    assert main(["cite", "out"]) == 0 and "chung2023dps" in capsys.readouterr().out

    # A kill before the numbers of two were written, and a picture more.
    kept = {name: np.load(f"out/{name}.npz")["x"] for name in "bc"}
    for name in kept:
        Path(f"out/{name}.json").unlink()
    shutil.copy("photos/a.png", "photos/d.png")
    status, out, _ = told(capsys, "--measurement", "photos")
    assert (
        status == 0 and "a, residual" not in out and "b, residual" in out and "d, residual" in out
    )
    assert Path("out/a.npz").stat().st_mtime_ns == first["a.npz"]
    for name, x in kept.items():  # in another batch, and at another place of it
        np.testing.assert_allclose(np.load(f"out/{name}.npz")["x"], x, atol=1e-5)
    assert not np.allclose(np.load("out/d.npz")["x"], np.load("out/a.npz")["x"])  # its own seed

    status, _, err = told(capsys, "--measurement", "photos", "--noise", ".2")
    assert status == 2 and "noise: there 0.05, now 0.2" in err
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("photos/a.png")
    status, _, err = told(capsys, "--measurement", "photos")
    assert status == 2 and "out/a.json is of another measurement" in err
    assert Path("out/a.npz").stat().st_mtime_ns == first["a.npz"]


def test_a_batch_that_is_killed_goes_on_bit_for_bit(tmp_path):
    network = "mine.py:network"  # sums of a network are rounded by the size of a batch
    words = ["--measurement", "photos", "--batch", "2"]
    assert restore(*words, teacher=network, out="whole") == 0

    def end_at_the_second():
        real = restoring.write_image

        def write(folder, name, *rest):
            if name == "b":
                os.kill(os.getpid(), signal.SIGKILL)
            real(folder, name, *rest)

        restoring.write_image = write

    line = f"restore --teacher {network} --operator inpaint --mask box:3 --steps 6 --out killed"
    killed = Command([*line.split(), *words], tmp_path / "log", end_at_the_second)
    assert killed.wait()[0] == -signal.SIGKILL
    assert Path("killed/a.json").is_file() and not Path("killed/b.json").exists()
    first = Path("killed/a.npz").stat().st_mtime_ns
    assert restore(*words, teacher=network, out="killed") == 0
    assert Path("killed/a.npz").stat().st_mtime_ns == first
    for name in "abc":
        whole, gone_on = (np.load(f"{out}/{name}.npz")["x"] for out in ("whole", "killed"))
        np.testing.assert_array_equal(whole, gone_on)


def test_several_arms_are_compared_on_one_page(capsys):
    words = "--truth truth.npy --solver dps,psld --projection none,core --step 1"
    status, out, _ = told(capsys, *words.split(), "--draws", "2", "--num", "2", steps=3)
    assert status == 0
    assert [(r["solver"], r["projection"], r["step"]) for r in rows()] == [
        (s, p, 1.0) for s in ("dps", "psld") for p in ("none", "core")
    ]
    names = {m["name"] for m in rows()[1]["metrics"]}
    assert names == {"psnr", "ssim", "residual", "rank", "passed"}
    assert all(m["n"] == 2 and m["error"] > 0 for m in rows()[0]["metrics"])  # draws are averaged
    assert Path("out/curves.png").is_file() and Path("out/restored.png").is_file()
    assert "image-0000-draw1.png" in {p.name for p in Path("out/psld-core-1").iterdir()}
    page = Path("out/report.html").read_text()
    assert "psld" in page and "PSNR" in page.upper()
    before = Path("out/dps-core-1/image-0000-draw0.npz").stat().st_mtime_ns
    status, out, _ = told(capsys, *words.split(), "--draws", "2", "--num", "2", steps=3)
    assert status == 0 and "image-0000" not in out
    assert Path("out/dps-core-1/image-0000-draw0.npz").stat().st_mtime_ns == before


def test_one_arm_of_several_that_diverges_is_told_of(capsys):
    words = ["--truth", "truth.npy", "--step", "1,900000", "--num", "1", "--solver", "daps"]
    status, out, _ = told(capsys, *words, steps=3)
    assert status == 0 and "not finite" in out
    assert rows()[0]["metrics"] and not rows()[1]["metrics"] and "diverged" in rows()[1]["note"]
    status, _, err = told(capsys, *words[:2], "--step", "900000", *words[4:], steps=3, out="one")
    assert status == 1 and "take a smaller --step" in err


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_of_the_table_restores(capsys, operator):
    assert restore("--truth", "truth.npy", "--num", "1", operator=operator, steps=3) == 0
    assert rows()[0]["metrics"][0]["name"] == "psnr"
    about = operator_of(operator, OperatorSettings(mask="box:3"), (1, 8, 8))
    assert about.about["name"] == operator


def test_operators_of_ones_own_and_of_deepinv_are_taken_as_they_are(capsys):
    for name in ("half", "made", "power", "Half"):
        status, _, err = told(
            capsys, "--truth", "truth.npy", "--num", "1", operator=f"mine.py:{name}", out=name
        )
        assert status == 0, err
    np.save("y.npy", np.load("truth.npy")[:, :, ::2])
    psld = ("--measurement", "y.npy", "--solver", "psld")
    assert restore(*psld, operator="mine.py:half", out="psld") == 0
    assert {p.stem for p in Path("psld").glob("y-?.json")} == {"y-0", "y-1", "y-2"}


DEEPINV = """
from deepinv import physics
from deepinv.physics.blur import gaussian_blur
shape = (1, 8, 8)
def inpainting(): return physics.Inpainting(img_size=shape, mask=0.5)
def blur(): return physics.Blur(filter=gaussian_blur(sigma=(0.7, 0.7)), padding="circular")
def downsampling(): return physics.Downsampling(img_size=shape, factor=2, filter="bicubic")
"""


@pytest.mark.parametrize("name", ["inpainting", "blur", "downsampling"])
def test_the_classes_of_deepinv_restore(capsys, name):
    reason = "deepinv is no dependency, and needs torchvision, which must fit torch"
    pytest.importorskip("deepinv.physics", reason=reason, exc_type=Exception)
    Path("theirs.py").write_text(DEEPINV)
    words = ("--truth", "truth.npy", "--num", "1", "--solver", "dps,psld")
    status, _, err = told(capsys, *words, operator=f"theirs.py:{name}", steps=5)
    assert status == 0, err
    assert [row["solver"] for row in rows()] == ["dps", "psld"]  # which asks for the adjoint
    found = operator_of(f"theirs.py:{name}", OperatorSettings(), (1, 8, 8))
    assert found.shape == {"downsampling": (1, 4, 4)}.get(name, (1, 8, 8))


def test_latents_and_classes(capsys):
    words = ("--truth", "truth.npy", "--num", "1", "--solver", "dps,psld,resample,daps")
    assert restore(*words, "--projection", "core", teacher="mine.py:latent", steps=3) == 0
    assert np.load("out/resample-core-1/image-0000.npz")["x"].shape == (1, 8, 8)
    few = ("--truth", "truth.npy", "--num", "1")
    assert restore(*few, "--label", "1", teacher="mine.py:classes", out="one") == 0
    status, _, err = told(capsys, *few, teacher="mine.py:classes", out="two")
    assert status == 2 and "has 2 classes: give --label" in err
    status, _, err = told(capsys, *few, "--label", "2", teacher="mine.py:classes", out="two")
    assert status == 2 and "--label must be within 0 and 1" in err
    status, _, err = told(capsys, *few, teacher="mine.py:blind", out="two")
    assert status == 2 and "has no encoder of images" in err


def test_poisson_noise_and_a_picture_of_a_mask():
    Image.fromarray((box_mask(3, (1, 8, 8))[0].numpy() * 255).astype(np.uint8)).save("mask.png")
    few = ("--truth", "truth.npy", "--num", "1")
    assert restore(*few, "--poisson", ".02", operator="inpaint --mask mask.png") == 0
    assert rows()[0]["metrics"]
    # What lies under a mask is not looked at.
    x = torch.from_numpy(np.load("truth.npy"))
    y = Inpainting(box_mask(3, (1, 8, 8)), (1, 8, 8)).A(x)
    np.save("zero.npy", y.numpy())
    (y + (1 - box_mask(3, (1, 8, 8)))).numpy().tofile("raw")
    np.save("white.npy", (y + (1 - box_mask(3, (1, 8, 8)))).numpy())
    shutil.copy("zero.npy", "same.npy")
    assert restore("--measurement", "same.npy", out="a") == 0
    shutil.copy("white.npy", "same.npy")
    assert restore("--measurement", "same.npy", out="b") == 0
    np.testing.assert_array_equal(np.load("a/same-0.npz")["x"], np.load("b/same-0.npz")["x"])


def save(name, array, mode=None):
    if name.endswith(".npy"):
        np.save(name, array)
    else:
        Image.fromarray(array, mode).save(name)


GREY = np.full((8, 8), 128, np.uint8)
HOLE = np.zeros((2, 1, 8, 8), np.float32)
NAN = HOLE.copy()
NAN[1, 0, 3, 3] = np.nan


@pytest.mark.parametrize(
    ("words", "files", "more", "message"),
    [
        ("--measurement gone", {}, {"teacher": "mine.py:classes"}, "there is no data at gone"),
        ("--measurement y.npy --truth gone", {"y.npy": HOLE}, {}, "there is no data at gone"),
        ("", {}, {}, "give --measurement, what was measured, or --truth"),
        ("--measurement gone", {}, {}, "there is no data at gone"),
        ("--measurement y.npy", {"y.npy": NAN}, {}, "y-1 has 1 value that is not finite"),
        ("--measurement y.npy", {"y.npy": HOLE + 200}, {}, "reaches 200"),
        ("--measurement y.npy", {"y.npy": HOLE[:, :, :4]}, {}, "has shape (1, 4, 8)"),
        ("--measurement y.npy", {"y.npy": HOLE[:0]}, {}, "holds no measurement"),
        ("--measurement y.npy", {"y.npy": HOLE.astype(complex)}, {}, "floats are read"),
        ("--measurement y.png", {"y.png": GREY[:4]}, {}, "has 8x4 pixels"),
        ("--measurement y.png", {"y.png": GREY}, {"operator": "superresolve"}, "makes 4x4"),
        ("--measurement y.png", {"y.png": np.stack([GREY] * 4, 2)}, {}, "has an alpha channel"),
        ("--measurement y.png", {"y.png": np.stack([GREY] * 3, 2)}, {}, "is of colours"),
        ("--measurement y.png", {"y.png": GREY}, {"teacher": "mine.py:colour"}, "is grey"),
        (
            "--measurement y.png",
            {"y.png": GREY},
            {"operator": "phase-retrieval"},
            "makes 12x12",
        ),
        ("--measurement y.png", {"y.png": GREY}, {"operator": "mine.py:power"}, "no picture"),
        ("--truth y.png", {"y.png": GREY[:4, :4]}, {}, "too small: 4x4 pixels"),
        ("--truth y.png", {"y.png": np.stack([GREY] * 4, 2)}, {}, "has an alpha channel"),
        (
            "--truth y.npy",
            {"y.npy": np.zeros((2, 1, 16, 16), np.float32)},
            {},
            "has the shape (1, 16, 16)",
        ),
        (
            "--truth truth.npy --measurement y.npy",
            {"y.npy": HOLE},
            {},
            "3 images and --measurement 2",
        ),
        (
            "--truth truth.npy",
            {},
            {"operator": "deblur"},
            "unknown operator 'deblur'; did you mean blur",
        ),
        ("--truth truth.npy", {}, {"operator": "mine.py:wrong"}, "is not the adjoint of A"),
        (
            "--truth truth.npy",
            {},
            {"operator": "mine.py:square"},
            "has an adjoint and is not linear",
        ),
        ("--truth truth.npy", {}, {"operator": "mine.py:numbers"}, "fails on a tensor"),
        (
            "--truth truth.npy --solver psld",
            {},
            {"operator": "hdr"},
            "psld needs a linear operator",
        ),
        ("--truth truth.npy --solver ddrm", {}, {}, "unknown value of --solver: 'ddrm'"),
        ("--truth truth.npy --projection all", {}, {}, "unknown value of --projection"),
        ("--truth truth.npy --step 1,x", {}, {}, "--step: give numbers above 0"),
        ("--truth truth.npy --step nan", {}, {}, "--step: give numbers above 0"),
        ("--truth truth.npy --step 1,1.0", {}, {}, "--step names a number twice"),
        ("--truth truth.npy --tau 2 --projection core", {}, {}, "tau must be above 0"),
        ("--truth truth.npy --noise -1", {}, {}, "noise must be at least 0"),
        ("--truth truth.npy --steps 5000", {}, {}, "steps must be within 1 and"),
        ("--truth truth.npy --batch 0", {}, {}, "--batch must be at least 1"),
        ("--truth truth.npy --num 0", {}, {}, "--num must be at least 1"),
        ("--truth truth.npy --label 0", {}, {}, "has no classes; leave it out"),
        ("--truth truth.npy --prompt cat", {}, {}, "takes no text; leave it out"),
        ("--truth truth.npy", {}, {"operator": "inpaint --mask box:8"}, "a box must be within"),
        ("--truth truth.npy", {}, {"operator": "inpaint --mask no.png"}, "--mask: give box:SIDE"),
        (
            "--truth truth.npy",
            {"m.png": GREY},
            {"operator": "inpaint --mask m.png"},
            "black and white",
        ),
        ("--truth truth.npy", {}, {"operator": "blur --motion far"}, "--motion: give LENGTH"),
        (
            "--truth truth.npy",
            {},
            {"operator": "superresolve --factor 3"},
            "divide the image's sides",
        ),
        ("--truth truth.npy", {}, {"teacher": "mine.py:vector"}, "no images"),
        ("--truth truth.npy", {}, {"teacher": "gone"}, "no teacher can be read"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(capsys, words, files, more, message):
    for name, array in files.items():
        save(name, array)
    status, _, err = told(capsys, *words.split(), **more)
    assert status == 2 and message in err, err
    assert err.count("\n") == 1 and not Path("out").exists()


def test_a_folder_of_another_restoration_is_refused_before_any_is_begun(capsys):
    assert restore("--truth", "truth.npy", "--num", "1", out="a/psld-none-1") == 0
    capsys.readouterr()
    words = ("--truth", "truth.npy", "--num", "1", "--solver", "dps,psld", "--seed", "1")
    status, said, err = told(capsys, *words, "--step", "1", out="a")
    assert status == 2 and "holds another run, whose settings differ" in err
    assert "restoring" not in said + err
    assert [path.name for path in Path("a").iterdir()] == ["psld-none-1"]


def test_a_folder_that_is_not_a_restorations_is_left_as_it_is(capsys):
    Path("out").mkdir()
    Path("out/note.txt").write_text("mine")
    # Whatever else is wrong: a teacher that is not there would take longer to be told.
    status, said, err = told(capsys, "--truth", "truth.npy", teacher="gone")
    assert status == 2 and "not empty" in err and not said
    assert [p.name for p in Path("out").iterdir()] == ["note.txt"]
    # Of several arms, whose tables are written beside their folders, too; and of one's own run.
    Path("out/note.txt").rename("out/results.json")
    arms = ["--truth", "truth.npy", "--num", "1", "--step", "1,2"]
    status, shown, err = told(capsys, *arms)
    assert status == 2 and "out is not empty and holds no run" in err and not shown
    assert Path("out/results.json").read_text() == "mine" and len(list(Path("out").iterdir())) == 1
    assert restore("--truth", "truth.npy", "--num", "1", out="one") == 0
    before = Path("one/results.json").read_bytes()
    capsys.readouterr()
    status, shown, err = told(capsys, *arms, out="one")
    assert status == 2 and "one holds a run, and those of several solvers" in err and not shown
    assert Path("one/results.json").read_bytes() == before
    # Nothing is announced of what is refused, nor begun of the arms before it.
    Path("some/dps-none-2").mkdir(parents=True)
    Path("some/dps-none-2/note.txt").write_text("mine")
    Path("some/dps-none-3").mkdir()
    Path("some/dps-none-3/config.yaml").write_text("command: restore\n")
    status, shown, err = told(capsys, *arms, out="some")
    assert status == 2 and "some/dps-none-2 is not empty" in err and not shown
    assert not Path("some/dps-none-1").exists() and not Path("some/results.json").exists()
    for command in ("sample", "evaluate"):
        assert restore("--truth", "truth.npy", "--num", "1", out="done") == 0
        assert main([command, "done"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
