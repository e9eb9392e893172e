"""Degradations, pairs, and `vardiu upscale`: what is made, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import are as pictures_are
from pictures import drawn
from PIL import Image
from processes import Command
from torch import nn

from vardiu import models
from vardiu.cli import upscale
from vardiu.cli.main import main
from vardiu.data.batch import Batch
from vardiu.data.batches import Shuffled
from vardiu.data.degradations import Crops, Degradation, Paired, enlarged, paired, reduced
from vardiu.data.images import Corrupt
from vardiu.data.photos import photo
from vardiu.data.records import Tensors
from vardiu.denoisers.preconditioned import PreconditionedDenoiser
from vardiu.errors import ConfigError
from vardiu.metrics.restored import restored_metrics
from vardiu.nn import UNet
from vardiu.nn.perceptual import perceptual_net
from vardiu.problems.restoration import RestorationProblem
from vardiu.settings.fields import DegradationSettings, RestorationSettings
from vardiu.storage.finished import sole_writer
from vardiu.storage.png import PNGRows
from vardiu.students.restorer import Restorer
from vardiu.students.tiles import Tiles, tiled

SMALL = Degradation(4, 1, (0.0, 0.0), (1.0, 1.0), (0.02, 0.02), (0, 0))


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


def images(n, side=16, seed=0):
    return 2 * torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) - 1


# ------------------------------------------------------------------- degradations


def test_a_row_is_degraded_alike_in_any_batch_and_process():
    x, whole = images(8), Degradation()
    alone = Paired(Shuffled(x, {}, 4), whole, 3)
    pair = [Paired(Shuffled(x, {}, 4), whole, 3) for _ in range(2)]
    for rank, part in enumerate(pair):
        part.rank, part.world = rank, 2
    for _ in range(3):
        both = [next(part) for part in pair]
        one = next(alone)
        assert torch.equal(one.x, torch.cat([b.x for b in both]))
        assert torch.equal(one.truth, torch.cat([b.truth for b in both]))
    again = Paired(Shuffled(x, {}, 4), whole, 3)
    again.load_state_dict(alone.state_dict())
    assert torch.equal(next(again).x, next(alone).x)
    other = paired(Batch.of(x), whole, 4, 0)
    assert not torch.equal(other.x, paired(Batch.of(x), whole, 3, 0).x)


def test_each_part_of_the_pipeline_does_what_it_says():
    x = images(1, 32)[0]
    plain = Degradation(4, 1, (0.0, 0.0), (1.0, 1.0), (0.0, 0.0), (0, 0))
    assert torch.allclose(plain(x, 0, 0), reduced(x[None], 4)[0].clamp(-1, 1))
    flat = torch.full((3, 32, 32), 0.25)
    noisy = replace(plain, factor=1, noise=(0.2, 0.2))(flat, 0, 0)
    assert float((noisy - flat).std()) == pytest.approx(0.2, rel=0.05)
    soft = replace(plain, factor=1, blur=(2.0, 2.0))(x, 0, 0)
    assert float(soft.std()) < 0.25 * float(x.std())
    assert float(soft.mean()) == pytest.approx(float(x.mean()), abs=0.03)
    smooth = photo("chelsea")[:, 100:132, 200:232]
    squeezed = [replace(plain, factor=1, jpeg=(q, q))(smooth, 0, 0) for q in (95, 10)]
    errors = [float((y - smooth).square().mean()) for y in squeezed]
    assert 0 < errors[0] < 0.3 * errors[1]
    assert Degradation()(x, 0, 0).shape == (3, 8, 8)
    twice = replace(plain, rounds=2, resize=(0.6, 1.4))
    assert not torch.equal(twice(x, 0, 0), twice(x, 0, 1))
    assert "2 rounds, blur 0.2 to 2" in Degradation().words and "no jpeg" in plain.words


def test_pieces_are_of_the_image_and_images_too_small_are_named():
    x = images(2, 24)
    pieces = Crops(Tensors(x), (16, 16), 3)
    assert len(pieces) == 6 and torch.equal(pieces.item(4).image, pieces.item(4).image)
    found = pieces.item(4).image
    at = [
        (i, j)
        for i in range(9)
        for j in range(9)
        if torch.equal(x[1, :, i : i + 16, j : j + 16], found)
    ]
    assert len(at) == 1
    with pytest.raises(Corrupt, match="24x24 pixels, fewer than the 32x32 of the teacher's"):
        Crops(Tensors(x), (32, 32), 1).item(0)


def test_metrics_of_restored_images():
    x, net = images(40), perceptual_net()

    class Space:
        name = "pixels"

        def __call__(self, y):
            return y.flatten(1)[:, :4]

    noise = 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    found = {m.name: m for m in restored_metrics(x + noise, x, net, Space())}
    # Of brightness: independent noise in three colours is weighted by 0.299, 0.587, 0.114.
    variance = 0.01 * (0.299**2 + 0.587**2 + 0.114**2)
    assert found["psnr"].value == pytest.approx(10 * np.log10(4 / variance), abs=0.1)
    assert found["high_frequencies"].value == pytest.approx(
        1 + variance / (1 / 3) / 0.4469, abs=0.02
    )
    same = {m.name: m.value for m in restored_metrics(x, x, net, Space())}
    assert same["high_frequencies"] == same["edges"] == 1 and abs(same["dists"]) < 1e-6
    assert net.name == found["dists"].features
    with pytest.raises(ValueError, match="they must be equal"):
        restored_metrics(x[:3], x, net, Space())


# ------------------------------------------------------------------- tiles


def test_tiles_that_see_no_further_than_their_margin_leave_no_trace():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)]
    network = nn.Sequential(*layers).double()
    for height, width in ((16, 16), (37, 53), (100, 17)):
        x = torch.randn(3, height, width).double()
        with torch.no_grad():
            whole, parts = network(x[None])[0], tiled(network, x, Tiles.of_side(16), 7)
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
    with torch.no_grad():
        wide = tiled(network, x, Tiles(16, 0, 2))
    assert float((wide - network(x[None])[0]).detach().abs().max()) > 0.01
    with pytest.raises(ValueError, match="tiles of 16 pixels .* cannot cover 9 pixels"):
        tiled(network, torch.zeros(3, 9, 30), Tiles.of_side(16))


def test_a_tile_that_is_brighter_than_the_next_fades_and_makes_no_edge():
    """Each tile is one colour: the largest step between pixels is that of the ramp."""
    torch.manual_seed(0)
    tiles = Tiles.of_side(32)

    def flat(x):
        return torch.rand(len(x), 1, 1, 1).expand(len(x), 3, 32, 32).clone()

    found = tiled(flat, torch.zeros(3, 96, 96), tiles)
    steps = max(float(found.diff(dim=d).abs().max()) for d in (1, 2))
    assert steps <= 1.0 / (tiles.ramp + 1) + 1e-5


def test_rows_of_an_enlarged_photograph_are_those_of_the_whole():
    x = images(1, 20)[0]
    whole = enlarged(x[None], 4)[0]
    rows = upscale.rows_of(x, 4)
    for begin, end in ((0, 16), (5, 21), (40, 80), (63, 80)):
        torch.testing.assert_close(rows(begin, end), whole[:, begin:end], rtol=0, atol=1e-6)


def test_a_png_by_rows_is_read_as_what_was_written(tmp_path):
    for channels in (1, 3):
        pixels = np.random.default_rng(0).integers(0, 256, (9, 7, channels), dtype=np.uint8)
        with open(tmp_path / "a.png", "wb") as file, PNGRows(file, 7, 9, channels) as png:
            png.write(pixels[:4])
            png.write(pixels[4:])
        assert (np.asarray(Image.open(tmp_path / "a.png")).reshape(pixels.shape) == pixels).all()
    with pytest.raises(ValueError, match="3 rows of the image are missing"):
        with open(tmp_path / "b.png", "wb") as file, PNGRows(file, 7, 9, 3) as png:
            png.write(pixels[:6])


# ------------------------------------------------------------------- runs and photographs


def teacher_in(folder, side=8):
    network = UNet(3, widths=(8, 8), depth=1)
    denoiser = PreconditionedDenoiser(
        network, shape=(3, side, side), sigma_data=0.5, sigma_min=0.02, sigma_max=20.0
    )
    models.save(denoiser, folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a few steps, of 8x8 images enlarged twice."""
    torch.set_default_dtype(torch.float32)
    place = tmp_path_factory.mktemp("restoration")
    torch.manual_seed(0)
    teacher_in(place / "teacher")
    words = ["--data", "photos-8", "--held-out", "photos-8-held-out", "--factor", "2"]
    words += ["--steps", "2", "--start-steps", "2", "--batch", "4", "--reference", "200"]
    words += ["--student", "lora", "--rank", "2", "--perceptual-weight", "0.1"]
    words += ["--critic-rank", "0", "--reports", "1", "--evaluations", "1", "--samples", "100"]
    out = ["--threads", "1", "--device", "cpu", "--out", str(place / "run")]
    command = ["distill", "restoration", "--teacher", str(place / "teacher"), *words, *out]
    with pytest.MonkeyPatch.context() as patch:
        pictures_are(patch, drawn)
        # A fresh network knows nothing of its data but the variance, which the probe refuses.
        patch.setattr("vardiu.runs.distill.checked", lambda *arguments: [])
        patch.setattr("vardiu.problems.restoration.TEST", 120)
        assert main(command) == 0
    return place / "run"


@pytest.fixture
def pictures(tmp_path):
    pixels = ((photo("chelsea")[:, 40:90, 40:101] + 1) * 127.5).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    Image.fromarray(pixels[:20, :30]).save(tmp_path / "small.jpg")
    return tmp_path


def test_a_run_states_its_pairs_its_network_and_what_it_is_compared_with(run):
    result = json.loads((run / "result.json").read_text())
    names = {m["name"]: m for m in result["metrics"]}
    assert result["reference"]["name"] == "bicubic" and result["cost"]["teacher_calls"] == 0
    assert {"psnr", "high_frequencies", "edges", "dists", "frechet"} <= names.keys()
    assert names["dists"]["features"] == perceptual_net().name
    about = json.loads((run / "provenance.json").read_text())
    assert any(line.startswith("pairs: reduced 2 times, 2 rounds") for line in about["data"])
    student = models.load(run / "student")
    assert isinstance(student, Restorer) and student.factor == 2


def test_photographs_are_enlarged_once_and_nothing_is_written_over(run, pictures, capsys):
    out = pictures / "out"
    words = ["upscale", str(run), str(pictures / "cat.png"), str(pictures / "small.jpg")]
    words += ["--out", str(out), "--device", "cpu"]
    assert main(words[:3] + words[4:]) == 0
    made = Image.open(out / "cat.png" / "upscaled.png")
    assert made.size == (122, 100) and made.mode == "RGB"
    pair = Image.open(out / "cat.png" / "before-after.png")
    assert pair.size == (2 * 122 + 8, 100)
    # What is on the right is what was made.
    assert (np.asarray(pair)[:, 130:] == np.asarray(made)).all()
    before = (out / "cat.png" / "upscaled.png").stat().st_mtime_ns
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "is there already" in told and (out / "small.jpg" / "upscaled.png").is_file()
    assert (out / "cat.png" / "upscaled.png").stat().st_mtime_ns == before
    assert {p.name for p in out.iterdir()} == {"cat.png", "small.jpg"}
    Image.new("RGB", (40, 40)).save(pictures / "cat.png")
    assert main(words) == 2
    assert "is of another photograph and is not written over" in capsys.readouterr().err


def test_a_stop_leaves_what_is_finished_and_nothing_else(run, pictures, monkeypatch):
    out = pictures / "out"
    words = ["upscale", str(run), str(pictures / "small.jpg"), str(pictures / "cat.png")]
    real, calls = upscale.as_bytes, []

    def stopped(band):
        calls.append(1)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return real(band)

    monkeypatch.setattr(upscale, "as_bytes", stopped)
    monkeypatch.setattr(upscale, "PANEL", 8)
    main([*words, "--out", str(out)])
    finished = {p.name for p in out.iterdir()}
    assert finished <= {"small.jpg"}
    monkeypatch.setattr(upscale, "as_bytes", real)
    assert main([*words, "--out", str(out)]) == 0
    assert {p.name for p in out.iterdir()} == {"small.jpg", "cat.png"}


def test_a_photograph_that_was_killed_is_made_anew_bit_for_bit(run, pictures):
    words = ["upscale", str(run), str(pictures / "small.jpg"), str(pictures / "cat.png")]
    assert main([*words, "--out", str(pictures / "whole")]) == 0

    def end_within_the_second():
        real, names = upscale.enlarge, []

        def enlarged(job, *rest):
            names.append(job.source.name)
            if len(names) == 2:
                upscale.as_bytes = lambda band: os.kill(os.getpid(), signal.SIGKILL)
            return real(job, *rest)

        upscale.enlarge = enlarged

    out = pictures / "out"
    killed = Command([*words, "--out", str(out)], pictures / "log", end_within_the_second)
    assert killed.wait()[0] == -signal.SIGKILL
    assert {p.name for p in out.iterdir()} == {"small.jpg", ".cat.png.partial"}
    first = (out / "small.jpg" / "upscaled.png").stat().st_mtime_ns
    with sole_writer(out):
        assert main([*words, "--out", str(out)]) in (1, 2)  # somebody else is at work there
    assert main([*words, "--out", str(out)]) == 0
    assert (out / "small.jpg" / "upscaled.png").stat().st_mtime_ns == first
    for name in ("small.jpg", "cat.png"):
        made = [
            (place / name / "upscaled.png").read_bytes() for place in (out, pictures / "whole")
        ]
        assert made[0] == made[1]
    assert {p.name for p in out.iterdir()} == {"small.jpg", "cat.png"}


def wrong(path, kind):
    if kind == "alpha":
        Image.new("RGBA", (40, 40), (1, 2, 3, 100)).save(path)
    elif kind == "tiny":
        Image.new("RGB", (3, 40)).save(path)
    elif kind == "damaged":
        path.write_bytes(b"\x89PNG\r\n\x1a\n of nothing")


@pytest.mark.parametrize(
    "kind, message",
    [
        ("alpha", "has an alpha channel, and what lies behind it is not known"),
        ("tiny", "has 3x40 pixels, and at least 4x4 are enlarged 2 times"),
        ("damaged", "it is damaged|it is no image"),
        ("missing", "there is no photograph at"),
    ],
)
def test_a_photograph_that_cannot_be_enlarged_is_one_line(run, tmp_path, capsys, kind, message):
    wrong(tmp_path / "x.png", kind)
    Image.new("RGB", (40, 40)).save(tmp_path / "good.png")
    words = ["upscale", str(run), str(tmp_path / "good.png"), str(tmp_path / "x.png")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert len(told.strip().splitlines()) == 1 and "x.png" in told
    assert __import__("re").search(message, told), told
    assert not (tmp_path / "out").exists()


def test_a_restorer_is_exported_as_weights_and_as_nothing_that_draws(run, tmp_path, capsys):
    words = ["export", str(run), "--device", "cpu", "--to"]
    assert main([*words, "safetensors", "--out", str(tmp_path / "plain")]) == 0
    card = (tmp_path / "plain" / "README.md").read_text()
    assert "student(enlarged(images, 2))" in card and "image-to-image" in card
    assert (
        "Its input is a degraded image, of shape 3x8x8" in card and "standard normal" not in card
    )
    assert main([*words, "onnx", "--out", str(tmp_path / "onnx")]) == 2
    assert "a restorer has no latent that another tool could draw" in capsys.readouterr().err
    assert main(["sample", str(run), "--num", "4", "--out", str(tmp_path / "x.npz")]) == 0
    assert np.load(tmp_path / "x.npz")["x"].shape == (4, 3, 8, 8)


def test_two_photographs_of_one_name_and_a_run_that_restores_nothing(run, pictures, capsys):
    (pictures / "other").mkdir()
    shutil.copy(pictures / "cat.png", pictures / "other" / "cat.png")
    words = ["upscale", str(run), str(pictures / "cat.png"), str(pictures / "other" / "cat.png")]
    assert main(words) == 2
    assert "two photographs are named cat.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"factor": 3}, "problem.factor must divide the sides of the teacher's images, 8x8"),
        ({"factor": 8}, "into at least 2 pixels, got 8"),
        ({"data": None}, r"this needs clean images to degrade: give problem.data"),
        ({"features": "vgg.safetensors"}, "no network to compare images in at vgg.safetensors"),
        ({"critic_teacher": "OTHER"}, r"samples of shape \(3, 16, 16\)"),
        ({"data": "SMALLER"}, "4x4 pixels, fewer than the 8x8 of the teacher's images"),
    ],
)
def test_what_does_not_fit_a_teacher_is_refused_before_training(run, tmp_path, changes, message):
    teacher_in(tmp_path / "other", 16)
    np.save(tmp_path / "small.npy", np.zeros((200, 4, 4, 3), dtype=np.uint8))
    names = {"OTHER": str(tmp_path / "other"), "SMALLER": str(tmp_path / "small.npy")}
    changes = {k: names.get(v, v) for k, v in changes.items()}
    row = RestorationSettings(
        teacher=str(run.parent / "teacher"), data="photos-8", held_out="photos-8-held-out"
    )
    with pytest.raises((ConfigError, ValueError), match=message) as error:
        problem = RestorationProblem(replace(row, **changes))
        problem.data.account()
        problem.data.reference(8)
        problem.networks.judge()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"noise": (0.5, 0.1)}, "degradation.noise must be two numbers within 0 and 2"),
        ({"jpeg": (50, 200)}, "degradation.jpeg must be two numbers within 0 and 100"),
        ({"rounds": 0}, "degradation.rounds must be at least 1"),
    ],
)
def test_degradations_out_of_range_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        DegradationSettings(**changes)
