"""The benchmarks run, and the published procedure is the one that we say it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from vardiu.data.densities import mog40
from vardiu.denoisers.exact import MixtureDenoiser
from vardiu.denoisers.levels import LogUniform, PowerLaw, Staircase
from vardiu.functional.scores import score
from vardiu.methods.vardiu import Draw, VarDiU
from vardiu.nn import MLP
from vardiu.posteriors.encoder import UNIT, Encoder, RawScale
from vardiu.posteriors.families import GaussianPosterior
from vardiu.students.pushforward import Pushforward

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import collect  # noqa: E402
import emd  # noqa: E402
import published  # noqa: E402
import quality  # noqa: E402
import step  # noqa: E402
import tables  # noqa: E402


def load(ours: list[nn.Linear], theirs: nn.Sequential) -> None:
    for a, b in zip(ours, [m for m in theirs if isinstance(m, nn.Linear)], strict=True):
        a.load_state_dict(b.state_dict())


def layers(mlp: MLP) -> list[nn.Linear]:
    return [mlp.first, *mlp.hidden, *([] if mlp.last is None else [mlp.last])]


def exact_teacher() -> MixtureDenoiser:
    spec = mog40()
    return MixtureDenoiser(spec.means, spec.stds, spec.weights, sigma_min=0.1, sigma_max=40.0)


def test_the_published_score_is_that_of_the_noised_mixture():
    x, sigma = 40 * torch.randn(200, 2), 0.1 + 20 * torch.rand(200)
    means = published.mixture_means().double()
    theirs = published.mixture_score(x, sigma[:, None], means)
    torch.testing.assert_close(theirs, score(exact_teacher(), x, sigma), rtol=1e-8, atol=1e-9)


def test_the_published_loss_has_the_gradient_of_ours_on_equal_draws():
    """With the published networks' weights in ours: value up to a constant, gradients equal."""
    theirs = [published.network(2, 2, 8).double(), published.network(3, 4, 8).double()]
    student = MLP((2,), (2,), width=8, depth=4)
    backbone = MLP((2,), (8,), width=8, depth=4, noisy=True, final=False)
    posterior = GaussianPosterior(Encoder(backbone, 8, RawScale()), 2)
    load(layers(student), theirs[0])
    load([*layers(backbone), posterior.head], theirs[1])
    with torch.no_grad():  # our head starts at the unit spread: softplus(raw + UNIT)
        posterior.head.bias[2:] -= UNIT
    objective = VarDiU(
        exact_teacher(),
        Pushforward(student, latent_shape=(2,), shape=(2,)),
        posterior,
        levels=LogUniform(0.2, 5.0),
        control_variate=False,
    )
    z, e, sigma = torch.randn(64, 2), torch.randn(64, 2), 0.1 + 20 * torch.rand(64)
    ours = objective.evaluate(Draw(z, e, sigma, {})).value
    ours.backward()
    loss = published.bound(*theirs, z, e, sigma[:, None], published.mixture_means().double())
    loss.backward()
    mine = [*layers(student), *layers(backbone), posterior.head]
    other = [m for net in theirs for m in net if isinstance(m, nn.Linear)]
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a.weight.grad, b.weight.grad, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(a.bias.grad, b.bias.grad, rtol=1e-7, atol=1e-9)
    # The entropies of prior and kernel are in our value and not in the published one.
    log_2pie = torch.log(torch.tensor(2 * torch.pi)) + 1
    constant = (sigma.square() * (-2 * (sigma.log() + 0.5 * log_2pie) - log_2pie)).mean()
    torch.testing.assert_close(ours.detach(), loss.detach() + constant)


def test_the_published_levels_are_those_of_the_preset():
    torch.set_default_dtype(torch.float32)
    run = published.PublishedVarDiU(0, rows=8)
    run.iteration = 2500
    torch.manual_seed(3)
    theirs = run.levels(50).squeeze(1)
    torch.manual_seed(3)
    ours = PowerLaw(0.1, 20.0, Staircase(0.1, 2.0, 0.01, 1000))(torch.rand(50, 1), 2500)
    torch.testing.assert_close(theirs, ours.squeeze(1))


@pytest.mark.parametrize("name", sorted(published.PROCEDURES))
def test_a_published_step_moves_all_its_networks(name, tmp_path):
    torch.set_default_dtype(torch.float32)
    run = published.PROCEDURES[name](0, rows=16, log=tmp_path / "log.txt")
    networks = [value for value in vars(run).values() if isinstance(value, nn.Module)]
    before = [[p.clone() for p in network.parameters()] for network in networks]
    run.step()
    assert len(networks) == 2 and run.iteration == 1
    for network, old in zip(networks, before, strict=True):
        assert not any(torch.equal(a, b) for a, b in zip(network.parameters(), old, strict=True))
    assert run.sample(5).shape == (5, 2)


def test_quality_writes_both_sides_and_their_ratio(tmp_path, capsys):
    torch.set_default_dtype(torch.float32)
    out = tmp_path / "quality.json"
    words = ["--cap", "0.01", "--every", "0.01", "--samples", "50", "--steps", "2"]
    quality.main([*words, "--batch", "16", "--out", str(out)])
    sides = json.loads(out.read_text())["seeds"]["0"]
    assert set(sides) == {"ours", "published"} and sides["ours"]["steps"] <= 2
    assert not sides["ours"]["reached"]
    assert "| published vardiu | 0 |" in capsys.readouterr().out
    sides["ours"] |= {"reached": True, "cpu": 2.0, "wall": 4.0}
    sides["published"] |= {"cpu": 50.0, "wall": 200.0}
    told = quality.table({"seeds": {"0": sides}})
    assert "at most 1/25.0 of the processor's time, at most 1/50.0 of wall-clock" in told


def test_step_reports_ratios():
    blocks = [{"cpu": 1.0, "wall": 2.0, "peak": 2**21}, {"cpu": 3.0, "wall": 2.0, "peak": 2**22}]
    faster = [{"cpu": 0.5, "wall": 1.0, "peak": 2**20}, {"cpu": 0.5, "wall": 2.0, "peak": 2**21}]
    lines = step.report({"published": blocks, "mog40-paper": faster}, 10)
    assert "  cpu: 4.00 times as fast (2.00 to 6.00)" in lines
    assert "  memory: 0.50 times" in lines
    assert "peak 4 MiB" in lines[0]


def test_a_step_of_ours_runs_in_both_precisions():
    torch.set_default_dtype(torch.float32)
    for precision in ("float32", "bfloat16"):
        step.ours("mog40", precision, "cpu", compiled=False)()


def test_every_benchmark_starts():
    names = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
    code = (
        "import importlib, sys; sys.path.insert(0, 'benchmarks')\n"
        f"made = {{name: importlib.import_module(name) for name in {names}}}\n"
        "estimate = made['estimate']\n"
        "from vardiu.runs.task import problem_of\n"
        "print(problem_of(estimate.short_task('images')).networks.student())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "OneStep" in done.stdout and len(names) > 10


@pytest.mark.slow  # stories and images go the same way in a quarter of the time
def test_a_pipeline_goes_from_training_to_its_exports(tmp_path, monkeypatch, capsys):
    """A seconds-long teacher by stock diffusers, both students of it, and all that they leave as."""
    import end_to_end

    torch.set_default_dtype(torch.float32)
    pairs = ("--pairs.pairs", "128", "--pairs.steps", "6", "--pairs.solver-steps", "4")
    short = ("--delay", "0", "--batch", "32", "--evaluations", "1", "--reports", "2")
    methods = {
        "diff_instruct": (*pairs, "--steps", "4", *short),
        "vardiu": ("--method", "vardiu", *pairs, "--steps", "4", *short),
    }
    monkeypatch.setattr(end_to_end, "METHODS", methods)
    words = ["digits", "--out", str(tmp_path), "--share", "0.1", "--threads", "1"]
    options = ["--samples", "300", "--reference", "500"]
    monkeypatch.setattr(sys, "argv", ["end_to_end.py", *words, *options])
    assert end_to_end.main() == 0
    found = json.loads((tmp_path / "pipelines.json").read_text())["digits"]
    for method in methods:
        assert set(found[method]["differences"]) == {"onnx", "diffusers"}
        assert max(found[method]["differences"].values()) < 1e-4
    assert "| digits |" in capsys.readouterr().out
    picture = tmp_path / "pipelines.png"
    written = picture.stat().st_mtime_ns
    # Again: nothing is trained again, and the same is found.
    teacher = (tmp_path / "digits" / "teacher" / "model_index.json").stat().st_mtime_ns
    assert end_to_end.main() == 0
    assert (tmp_path / "digits" / "teacher" / "model_index.json").stat().st_mtime_ns == teacher
    assert picture.stat().st_mtime_ns > written
    assert json.loads((tmp_path / "pipelines.json").read_text())["digits"] == found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_kept_memory_is_not_faulted_in_again():
    """Sixteen MiB made and freed: without the setting each time costs 4,096 pages again."""
    code = (
        "import resource, torch; from vardiu.runs import allocator; allocator.keep_freed_memory() or exit(77)\n"
        "f = lambda: [torch.ones(2**18) for _ in range(16)]; f(); f()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): f()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    if done.returncode == 77:
        pytest.skip("the C library has no mallopt")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4096


def test_chains_of_em_distillation_are_measured_and_drawn(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(emd, "SAMPLES", 200)
    monkeypatch.setattr(emd, "WIDTH", 8)
    names = ["K = 1", "K = 8", "last cancelled", "none cancelled", "noise, 1e-3", "state, 1e-3"]
    for seed in (0, 1):
        emd.measure(seed, tmp_path / f"{seed}.json", names, 8)
    emd.draw([tmp_path / "0.json", tmp_path / "1.json"], tmp_path / "found")
    found = json.loads((tmp_path / "found.json").read_text())
    first = [json.loads((tmp_path / f"{s}.json").read_text())["cells"]["K = 1"] for s in (0, 1)]
    assert found["seeds"] == [0, 1] and list(found["cells"]) == names
    mean = (first[0]["mmd2"] + first[1]["mmd2"]) / 2
    assert found["cells"]["K = 1"]["mmd2"][0] == pytest.approx(mean)
    assert (tmp_path / "found.png").stat().st_size > 1_000
    assert emd.over_seeds([{"recall": 0.5}, {"stopped": "words"}]) == {"stopped": 1}


def test_students_that_were_measured_since_are_kept_by_their_calls(tmp_path, monkeypatch, capsys):
    run = tmp_path / "runs" / "few-3"
    run.mkdir(parents=True)

    def rows(far):
        return [{"name": "frechet", "value": far, "error": 0.01, "n": 500}]

    def write(name, **content):
        (run / name).write_text(json.dumps(content))

    cost = {"seconds": 1.5, "student_updates": 8}
    least = {"metrics": rows(0.9), "reference": {"name": "old", "metrics": rows(0.8)}}
    write("result.json", verdict={"name": "GOOD"}, cost=cost, **least)
    machine, versions = {"accelerator": None}, dict.fromkeys(("vardiu", "torch", "python"), "1")
    typed = ["vardiu", "distill", "digits-rdd", "--out", str(run), "--seed", "3"]
    write("provenance.json", command=typed, machine=machine, versions=versions, seed=3, sha256={})
    teacher = {"name": "teacher, 69 calls", "metrics": rows(0.2)}
    students = [{"who": "student", "calls": n, "metrics": rows(n / 4)} for n in (1, 2)]
    ddim = [{"who": "teacher, DDIM", "calls": 1, "metrics": rows(7.0)}]
    words = ["vardiu", "evaluate", "runs/few-3", "--calls", "1,2", "--num", "500"]
    write(
        "evaluation-500-seed0-calls1-2.json",
        command=words,
        rows=[*students, *ddim],
        reference=teacher,
    )
    file = tmp_path / "kept.json"
    monkeypatch.setattr("sys.argv", ["collect.py", str(file), str(run), "--num", "500"])
    assert collect.main() == 0
    (kept,) = json.loads(file.read_text())["runs"]
    assert kept["command"] == "vardiu distill digits-rdd" and kept["cost"] == cost
    assert kept["evaluated"] == ["vardiu evaluate runs/few-3 --calls 1,2 --num 500"]
    assert kept["metrics"] == kept["calls"]["1"] == {"frechet": [0.25, 0.01, 500]}
    assert kept["calls"]["2"]["frechet"][0] == 0.5
    assert kept["reference"] == {**teacher, "metrics": {"frechet": [0.2, 0.01, 500]}}
    table = tables.by_seeds(json.loads(file.read_text()), "frechet", "digits-rdd").splitlines()
    assert table[2].startswith("| teacher, 69 calls |  |  | 0.2 ± 0.01 |")
    assert table[3].startswith("| `digits-rdd` | 1 | 3 | 0.25 ± 0.01 |") and len(table) == 5
    monkeypatch.setattr("sys.argv", ["collect.py", str(file), str(run), "--num", "400"])
    with pytest.raises(SystemExit, match="was not measured by 400 samples"):
        collect.main()


def test_a_run_that_was_measured_again_is_taken_once_by_the_most_samples(tmp_path):
    def run(samples, seconds=10.0, seed=0):
        metrics = {"frechet": [1.0 / samples, 0.1, samples], "recall": [0.9, 0.01, 100]}
        row = {"command": "vardiu distill digits", "seed": seed, "cost": {"seconds": seconds}}
        return {**row, "metrics": metrics}

    for name, runs in (
        ("a", [run(5_000), run(5_000, seed=1)]),
        ("b", [run(50_000), run(5_000, 11.0)]),
        ("c", [run(1_000)]),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps({"runs": runs}))
    kept = tables.kept_runs(tmp_path)
    found = [(r["seed"], r["metrics"]["frechet"][2], r["cost"]["seconds"]) for r in kept]
    assert found == [(0, 50_000, 10.0), (1, 5_000, 10.0), (0, 5_000, 11.0)]
