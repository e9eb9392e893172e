"""Tables of points and densities of one's own as problems: what is read, refused and measured."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vardiu.cli.main import main
from vardiu.data.densities import MixtureSpec
from vardiu.data.labels import LABELS
from vardiu.data.points import FARTHEST, account, read_points, read_table
from vardiu.denoisers.exact import MixtureDenoiser
from vardiu.errors import ConfigError
from vardiu.problems.densities import DensityProblem
from vardiu.problems.targets import kernel_width, target_of
from vardiu.runs.presets import PRESETS, on_points
from vardiu.runs.task import task_from_preset
from vardiu.settings.fields import DensitySettings
from vardiu.settings.grounds import MOG40
from vardiu.storage.run_folder import RunFolder

QUICK = "--steps 4 --batch 16 --samples 200 --evaluations 1 --reports 1 --threads 1".split()
QUICK += ["--width", "8", "--depth", "1"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.quick", 100)
    monkeypatch.setattr("vardiu.problems.densities.DensityScores.samples", 200)


def moons(n=400, shift=0.0, scale=1.0):
    """Two half circles, without a library that makes them."""
    random = np.random.default_rng(0)
    t, side = random.uniform(0, np.pi, n), random.integers(0, 2, n)
    x = np.stack([np.cos(t) - side * np.cos(t) * 2 + side, np.sin(t) * (1 - 2 * side)], 1)
    return scale * (x + 0.05 * random.normal(size=(n, 2))) + shift


def write_csv(name="moons.csv", x=None, head="east,north"):
    rows = [",".join(f"{v:.6g}" for v in row) for row in (moons() if x is None else x)]
    Path(name).write_text("\n".join([*([head] if head else []), *rows]) + "\n")
    return name


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("name", ["a.csv", "a.npy", "a.npz", "a.txt"])
def test_a_table_is_read_whatever_its_form(name):
    x = moons(150)
    if name.endswith("csv"):
        write_csv(name, x)
    elif name.endswith("txt"):
        np.savetxt(name, x)
    else:
        (np.save if name.endswith("npy") else np.savez)(name, x)
    found, cond = read_points(name)
    assert found.shape == (150, 2) and not cond
    assert torch.allclose(found, torch.from_numpy(x).float(), atol=1e-5)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (moons(50), "has 50 points, and at least 100 are needed"),
        (np.c_[moons(), np.ones(400)], "column 3 has one value only: leave it out"),
        (moons() * [1, 1000], "divide each column by its own"),
        (moons()[..., None], "the array has shape (400, 2, 1), and (N, d) is expected"),
        (np.where(np.arange(800).reshape(400, 2) == 7, np.nan, moons()), "the first is point 4"),
    ],
)
def test_points_that_cannot_be_distilled_are_refused_by_name(capsys, x, message):
    np.save("a.npy", x)
    assert main(["distill", "a.npy", *QUICK]) == 2
    told = capsys.readouterr().err
    assert "a.npy" in told and message in told and len(told.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_tables_with_classes_or_text_or_of_no_name_are_refused():
    write_csv("a.csv", np.c_[moons(), np.arange(400) % 2], "x,y0,label")
    with pytest.raises(ConfigError, match=r"a\.csv has classes .*leave them out"):
        read_points("a.csv")
    Path("b.csv").write_text("x,y0\n1,2\n3,red\n")
    with pytest.raises(ConfigError, match=r"b\.csv, line 3: 'red' is no number"):
        read_points("b.csv")
    with pytest.raises(ConfigError, match=r"no points at none\.csv"):
        task_from_preset("distill", "none.csv")


@pytest.mark.parametrize(
    ("head", "numbers", "cure"),
    [
        (",east,north", range(150), "column 1 of a.csv is the row number: leave it out"),
        (",east,north", reversed(range(7, 157)), "column 1 of a.csv is the row number"),
        ("Unnamed: 0,east,north", range(1, 151), "column 1 (Unnamed: 0) of a.csv is the row"),
        ("index,east,north", range(150), "column 1 (index) of a.csv is the row number"),
        ("", range(150), "if it is a coordinate, name the columns in the first line"),
        ("", range(1, 151), "if it is a coordinate, name the columns in the first line"),
    ],
)
def test_a_column_of_row_numbers_is_no_coordinate(capsys, head, numbers, cure):
    write_csv("a.csv", np.c_[list(numbers), moons(150)], head)
    assert main(["distill", "a.csv", *QUICK]) == 2
    told = capsys.readouterr().err
    assert cure in told and "(in pandas, index=False)" in told
    assert len(told.strip().splitlines()) == 1 and not Path("runs").exists()


def test_a_line_that_numbers_the_columns_is_no_point(capsys):
    write_csv("a.csv", moons(150), "0,1")
    assert main(["distill", "a.csv", *QUICK]) == 2
    told = capsys.readouterr().err
    assert "the first line of a.csv numbers its columns" in told and "header=False" in told
    # A point of such numbers is one where it stands elsewhere, or below names.
    write_csv("b.csv", np.r_[moons(150), [[0, 1]]], "")
    write_csv("c.csv", np.r_[[[0, 1]], moons(150)], "east,north")
    assert len(read_points("b.csv")[0]) == len(read_points("c.csv")[0]) == 151


@pytest.mark.parametrize(
    ("head", "numbers"),
    [
        ("time,east,north", np.arange(150.0)),  # by its name a coordinate
        ("index,east,north", np.arange(150) / 100),  # as of a price
        (",east,north", np.arange(150) % 10),
        ("", np.r_[np.arange(149), 200]),
    ],
)
def test_whole_numbers_that_number_no_rows_are_coordinates(head, numbers):
    write_csv("a.csv", np.c_[numbers, moons(150)], head)
    assert read_points("a.csv")[0].shape == (150, 3)


def test_what_was_read_of_a_table_is_told(capsys):
    write_csv("a.csv", moons(150), "East,north")
    found = read_table("a.csv")
    assert found.names == ("East", "north")
    assert account(found.x, found.names) == "150 points in 2 dimensions: East, north"
    assert account(found.x) == "150 points in 2 dimensions"
    assert account(found.x[:, None]) == "150 points of shape (1, 2)"
    write_csv("b.csv", np.c_[np.arange(150) % 2, moons(150)], "label,east,north")
    assert read_table("b.csv", (2,), 2).names == ("east", "north")
    assert main(["distill", "a.csv", *QUICK]) == 0
    assert "data: 150 points in 2 dimensions: East, north" in capsys.readouterr().out


def ring(n=400):
    t = np.random.default_rng(1).uniform(0, 2 * np.pi, n)
    return np.sqrt(2) * np.stack([np.cos(t), np.sin(t)], 1)  # of unit deviation


@pytest.mark.parametrize("name", ["a.csv", "a.npy"])
def test_points_that_float32_cannot_tell_apart_are_refused(capsys, name):
    far = ring() + [0, 1e7]
    if name == "a.npy":
        np.save(name, far)
    else:
        Path(name).write_text("u,v\n" + "\n".join(f"{a!r},{b!r}" for a, b in far.tolist()))
    assert main(["distill", name, *QUICK]) == 2
    told = capsys.readouterr().err
    column = "'v'" if name == "a.csv" else "2"
    assert f"{name}: column {column} is 1e+07 with a spread of" in told
    assert "subtract each column's mean" in told and len(told.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_points_just_within_float32_are_distilled(capsys):
    """A thousandth of the spread is told apart at the farthest, and not beyond."""
    centred = (ring() - ring().mean(0)) / ring().std(0)
    np.save("a.npy", centred + 0.99 * FARTHEST)
    np.save("b.npy", centred + 1.01 * FARTHEST)
    np.save("near.npy", centred)
    assert main(["distill", "a.npy", *QUICK]) == 0
    near, far = (target_of(DensitySettings(source=f"{n}.npy")).spec for n in ("near", "a"))
    assert far.spread == pytest.approx(near.spread, rel=1e-3)
    assert main(["distill", "b.npy", *QUICK]) == 2
    assert "b.npy: column 1 is 1.01e+04 with a spread of 1: single" in capsys.readouterr().err
    Path("mine.py").write_text("import numpy\nx = numpy.load('b.npy')\n")
    assert main(["distill", "mine.py:x", *QUICK]) == 2
    assert "mine.py:x: column 1 is 1.01e+04" in capsys.readouterr().err


def test_all_names_of_classes_are_documented():
    page = (Path(__file__).parents[1] / "docs/usage/points.md").read_text()
    names = [f"`{name}`" for name in LABELS]
    listed = f"a column named {', '.join(names[:-1])} or {names[-1]} is refused"
    assert listed in " ".join(page.split())


# ---------------------------------------------------------------- what is distilled


def test_the_grid_has_a_weight_and_a_course_of_its_own():
    grid, ring = PRESETS["grid25"].settings, PRESETS["ring8"].settings
    assert (grid.weight.kind, grid.levels.anneal) == ("square", 0.6)
    assert (ring.weight.kind, ring.levels.anneal) == ("bounded", 1.0)
    # All else fits the grid's lengths, 0.1 and 2.83.
    assert grid.levels.sigma_min == pytest.approx(0.015, rel=0.02)
    assert grid.levels.start_min == pytest.approx(0.43 * 2.83, rel=0.02)


def test_the_kernel_is_the_likeliest_and_a_fifth_is_held_out():
    torch.manual_seed(0)
    # Of a standard normal the best width is about that of Silverman's rule, N^(-1/6) in a plane.
    x = torch.randn(3000, 2)
    assert kernel_width(x) == pytest.approx(3000 ** (-1 / 6), rel=0.5)
    assert kernel_width(10 * x) == pytest.approx(10 * kernel_width(x), rel=1e-4)
    many = torch.randn(800, 6)
    assert kernel_width(many + 2000) == pytest.approx(kernel_width(many), rel=1e-2)

    write_csv()
    target = target_of(DensitySettings(source="moons.csv"))
    table = read_points("moons.csv")[0]
    assert len(target.held_out) == 80 and len(target.points) == 320
    both = torch.cat([target.held_out, target.points])
    assert torch.equal(both.sort(0).values, table.sort(0).values)
    assert not (target.held_out[:, None] == target.points).all(-1).any()
    assert torch.equal(target.spec.means, target.points)
    row = DensitySettings(source="moons.csv", points=50, bandwidth=0.3)
    assert target_of(row).spec.stds.tolist() == pytest.approx([0.3] * 50)


def test_points_far_from_the_origin_are_as_spread_as_near_it():
    """Squares of large numbers would cancel in float32."""
    near = torch.randn(400, 6) * torch.linspace(0.5, 2, 6)
    target = {}
    for name, x in (("near", near), ("far", near + 3000)):
        np.savetxt(f"{name}.csv", x.numpy(), delimiter=",", fmt="%.9g")
        target[name] = target_of(DensitySettings(source=f"{name}.csv")).spec
    assert target["far"].spread == pytest.approx(target["near"].spread, rel=1e-3)
    sigma, shift = torch.full((50,), 0.3), target["far"].mean - target["near"].mean
    x = target["near"].sample(50, torch.Generator().manual_seed(0))
    teachers = {n: MixtureDenoiser(t.means, t.stds, t.weights) for n, t in target.items()}
    own, other = teachers["near"].log_prob(x, sigma), teachers["far"].log_prob(x + shift, sigma)
    torch.testing.assert_close(other, own, rtol=0, atol=0.05)


def test_a_kernel_wider_than_the_points_is_refused(capsys):
    write_csv()
    rest = target_of(DensitySettings(source="moons.csv"))
    spread = rest.points.var(0).mean().sqrt().item()
    narrow = DensitySettings(source="moons.csv", bandwidth=0.99 * spread)
    assert target_of(narrow).spec.stds.tolist() == pytest.approx([0.99 * spread] * 320)
    assert main(["distill", "moons.csv", *QUICK, "--bandwidth", "1e9"]) == 2
    told = capsys.readouterr().err
    assert f"moons.csv: --bandwidth must be at most {spread:.3g}, the points' standard" in told
    width = rest.spec.stds[0].item()
    assert f"got 1e+09: leave it out for {width:.3g}, the width of the greatest" in told
    assert len(told.strip().splitlines()) == 1 and not Path("runs").exists()
    with pytest.raises(ConfigError, match="two_moons: --bandwidth must be at most .* got 9: give"):
        DensityProblem(DensitySettings(name="two_moons", teacher="kde", bandwidth=9.0))


def test_noise_levels_follow_the_table_and_a_moved_and_scaled_one_is_the_same_problem():
    write_csv()
    write_csv("far.csv", 100 * moons() + 5000)
    near, far = (task_from_preset("distill", name) for name in ("moons.csv", "far.csv"))
    for name in ("sigma_min", "sigma_max", "start_min"):
        a, b = (getattr(task.settings.levels, name) for task in (near, far))
        assert b == pytest.approx(100 * a, rel=0.02)
    spec = target_of(near.problem).spec
    tuned = target_of(MOG40).spec
    assert near.settings.levels.sigma_max == pytest.approx(20 * spec.spread / tuned.spread, 0.01)
    problems = [DensityProblem(task.problem) for task in (near, far)]
    values = []
    for problem, unit in zip(problems, (1, 100), strict=True):

        def draw(n, random, unit=unit, problem=problem):
            return problem.scores.spec.mean + unit * torch.randn(n, 2, generator=random), {}

        values.append({m.name: m.value for m in problem.scores.measure(draw, 100)})
    for name in ("mmd2", "modes", "precision", "recall"):
        assert values[1][name] == pytest.approx(values[0][name], abs=0.03), name


@pytest.mark.drawn
@pytest.mark.parametrize(
    ("dim", "residual", "latent"), [(1, False, 2), (3, False, 3), (6, True, 6)]
)
def test_a_table_of_many_dimensions_has_a_student_that_starts_spread(dim, residual, latent):
    np.save("a.npy", np.random.default_rng(0).normal(size=(200, dim)))
    row = on_points("distill", "a.npy").problem
    assert (row.residual, row.latent, row.name) == (residual, latent, "a")
    problem = DensityProblem(row)
    student = problem.networks.student()
    x, _ = problem.student_source(student)(20, torch.Generator().manual_seed(0))
    assert x.shape == (20, dim)
    problem.scores.plot_beside_data(problem.student_source(student), Path("a.png"), "student")
    assert Path("a.png").stat().st_size > 5_000
    other = task_from_preset("distill", "a.npy", "diff_instruct").settings
    assert other.lattice == residual  # the row of residual students


# ---------------------------------------------------------------- from the command line


@pytest.mark.drawn
def test_two_methods_on_points_are_compared_sampled_and_measured_again(capsys):
    """The story of the documentation: a table, two methods, one comparison."""
    write_csv()
    assert main(["distill", "moons.csv", *QUICK]) == 0
    assert main(["distill", "moons.csv", "--method", "diff-instruct", *QUICK]) == 0
    runs = ["runs/moons", "runs/moons-diff_instruct"]
    result = RunFolder(runs[0]).result()
    names = {metric["name"] for metric in result["metrics"]}
    assert {"mmd2", "sliced_wasserstein2", "precision", "recall", "modes"} <= names
    assert main(["compare", *runs]) == 0
    assert Path("runs/compare/comparison.html").is_file()
    assert main(["sample", runs[0], "--num", "30"]) == 0
    assert np.load("runs/moons/samples-30-seed0.npz")["x"].shape == (30, 2)
    assert main(["evaluate", runs[0], "--num", "100"]) == 0
    assert "kernel density" in capsys.readouterr().out
    provenance = json.loads(Path("runs/moons/provenance.json").read_text())
    assert "moons.csv" in json.dumps(provenance)
    assert main(["distill", "ring8", "--source", "moons.csv", *QUICK]) == 2
    assert "take `vardiu distill moons.csv" in capsys.readouterr().err


def test_a_teacher_is_taught_on_points_and_distilled(capsys):
    write_csv()
    learned = ["distill", "moons.csv", "--teacher", "learned", *QUICK]
    assert main(learned) == 2
    assert "vardiu teach moons.csv --out runs/teach-moons" in capsys.readouterr().err
    assert main(["teach", "moons.csv", *QUICK, "--batch", "512"]) == 0
    task = RunFolder("runs/teach-moons").config()
    assert task["method"]["name"] == "denoising" and task["problem"]["source"] == "moons.csv"
    assert main([*learned, "--out", "runs/learned"]) == 0
    hashes = json.loads(Path("runs/learned/provenance.json").read_text())["sha256"]
    assert {"teacher", "data files"} <= set(hashes)


MINE = """
import torch
from vardiu.data import MixtureSpec

def ring():
    t = torch.arange(5) * 2 * 3.14159 / 5
    means = 10 * torch.stack([t.cos(), t.sin()], dim=1)
    return MixtureSpec(means, torch.full((5,), 0.5), torch.ones(5))

POINTS = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
NARROW = MixtureSpec(torch.zeros(2, 2), torch.tensor([1.0, -1.0]), torch.ones(2))
WORD = "ring"
"""


def test_a_density_of_ones_own_is_executed_where_the_command_line_names_it(capsys):
    Path("mine.py").write_text(MINE)
    assert main(["distill", "mine.py:ring", *QUICK]) == 0
    config = RunFolder("runs/ring").config()
    assert config["problem"]["source"] == "mine.py:ring"
    assert config["code"]["source"]["source"] == "mine.py:ring"
    capsys.readouterr()
    # Nothing that a folder names is executed.
    for words in (["evaluate", "runs/ring", "--num", "100"], ["distill", "--config"]):
        named = "runs/ring/config.yaml"
        extra = [named, "--out", "again"] if words[0] == "distill" else []
        assert main([*words, *extra]) == 2
        assert "repeat --source mine.py:ring" in capsys.readouterr().err
    assert main(["evaluate", "runs/ring", "--num", "100", "--source", "mine.py:ring"]) == 0
    assert main(["distill", "mine.py:ring", *QUICK]) == 0  # finished, and the same
    Path("mine.py").write_text(MINE.replace("0.5", "0.6"))
    assert main(["distill", "mine.py:ring", *QUICK]) == 2
    assert "changed" in capsys.readouterr().err


def test_what_code_gives_is_checked_before_anything_is_trained(capsys):
    Path("mine.py").write_text(MINE)
    assert isinstance(target_of(on_points("distill", *own("POINTS")).problem, code("POINTS")).spec,
                      MixtureSpec)  # fmt: skip
    for name, message in (("NARROW", "positive"), ("WORD", "is a str: a density is"),
                          ("NONE", "has no 'NONE'")):  # fmt: skip
        assert main(["distill", f"mine.py:{name}", *QUICK]) == 2
        told = capsys.readouterr().err
        assert message in told and "mine.py" in told
    assert not Path("runs").exists()


def code(name):
    from vardiu.storage.code import load_code

    return load_code(f"mine.py:{name}")


def own(name):
    return f"mine.py:{name}", code(name)
