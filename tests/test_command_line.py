"""The command line's own words: presets of densities, options, help, and what is near to a name."""

import dataclasses
import json
import subprocess

import pytest
import torch

from vardiu.cli.main import COMMANDS, main
from vardiu.cli.options import parse_request
from vardiu.data.densities import DENSITIES, MixtureSpec
from vardiu.errors import ConfigError, known
from vardiu.runs.execute import device_of
from vardiu.runs.presets import PRESETS, TEACHERS, fitted
from vardiu.runs.task import task_from_preset
from vardiu.settings.fields import FrameSettings, LevelSettings, Training, WeightSettings
from vardiu.settings.grounds import MOG40, rescaled


def told(capsys, *words):
    """The status of a command, and what it wrote to both streams."""
    try:
        status = main([*words])
    except SystemExit as stop:
        status = stop.code or 0
    written = capsys.readouterr()
    return status, written.out, written.err


# ---------------------------------------------------------------- densities


def test_every_density_is_a_preset_whose_levels_are_multiples_of_its_lengths():
    tuned = DENSITIES["mog40"]()
    for name, make in DENSITIES.items():
        spec = make()
        for table in (PRESETS, TEACHERS):
            row, own = table[name], table["mog40"]
            assert row.problem.name == name and row.method == own.method
            grain, spread = spec.grain / tuned.grain, spec.spread / tuned.spread
            levels, theirs = row.settings.levels, own.settings.levels
            assert levels.sigma_min == pytest.approx(theirs.sigma_min * grain, rel=0.005)
            assert levels.sigma_max == pytest.approx(theirs.sigma_max * spread, rel=0.005)
            assert row.problem.sigma_min == pytest.approx(own.problem.sigma_min * grain, rel=0.005)
            assert row.problem.sigma_max == pytest.approx(
                own.problem.sigma_max * spread, rel=0.005
            )
            assert (levels.start_min is None) == (theirs.start_min is None)


def test_a_method_on_another_density_has_levels_that_fit_it():
    for method in ("vardiu", "diff_instruct", "dmd2"):
        own = task_from_preset("distill", "mog40", method).settings
        found = task_from_preset("distill", "two-moons", method)
        assert found.preset == "two_moons" and found.problem == PRESETS["two_moons"].problem
        assert found.settings == fitted(own, MOG40, found.problem)
        assert found.settings.levels.sigma_max == pytest.approx(
            own.levels.sigma_max * DENSITIES["two_moons"]().spread / DENSITIES["mog40"]().spread,
            rel=0.005,
        )
    assert task_from_preset("distill", "two_moons", "Diff-Instruct").method == "diff_instruct"
    # A residual student has rows of its own.
    residual = task_from_preset("distill", "mixture-residual", "diff_instruct")
    assert residual.settings == PRESETS["mixture-diff-instruct"].settings


def test_settings_are_rescaled_as_lengths_and_nothing_else_is():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Row(Training):
        levels: LevelSettings = LevelSettings(sigma_min=0.2, sigma_max=20.0, start_min=10.0)
        weight: WeightSettings = WeightSettings(kind="bounded", scale=1.0)
        frame: FrameSettings = FrameSettings(sigma=0.2)
        other: WeightSettings | None = None

    row = Row()
    assert rescaled(row, 1, 1) is row
    found = rescaled(row, 0.1, 0.5)
    levels = LevelSettings(sigma_min=0.02, sigma_max=10.0, start_min=5.0, mean=-2.7)
    assert found == Row(
        levels=levels,
        weight=WeightSettings(kind="bounded", scale=0.1),
        frame=FrameSettings(sigma=0.02),
    )
    assert (MixtureSpec.spread.fget(DENSITIES["ring8"]())) == pytest.approx((8 + 0.04) ** 0.5)


@pytest.mark.parametrize("words", [["--name", "two_moons"], ["--name=Two-Moons"]])
def test_another_density_is_not_put_on_the_levels_of_a_preset(capsys, words):
    status, _, err = told(capsys, "distill", "mog40", *words)
    assert status == 2
    assert "take `vardiu distill two_moons --method vardiu`, whose levels fit" in err
    assert parse_request("distill", ["ring8", "--name", "RING8"]).task.problem.name == "ring8"


# ---------------------------------------------------------------- names


def test_hyphens_underscores_and_capitals_are_alike():
    names = ["mog40", "two_moons", "bake-off"]
    assert known("two-moons", names, "thing") == "two_moons"
    assert known("Bake_Off", names, "thing") == "bake-off"
    with pytest.raises(ConfigError, match="unknown thing 'two_mons'; did you mean two_moons"):
        known("two_mons", names, "thing")
    with pytest.raises(ConfigError) as error:
        known("x" * 10_000, names, "thing")
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("distill tow_moons", "unknown preset 'tow_moons'; did you mean two_moons?"),
        ("distill ring8 --method diff_instrukt", "'diff_instrukt'; did you mean diff_instruct or"),
        ("distill ring8 --teacher exakt", "unknown value of --teacher: 'exakt'; did you mean"),
        ("distill ring8 --teacher=exakt", "unknown value of --teacher: 'exakt'; did you mean"),
        ("distill ring8 --stepz 3", "unknown option --stepz; did you mean --steps"),
        ("distill ring8 --confg a.yaml", "unknown option --confg; did you mean --config"),
        ("distill ring8 --steps many", "--steps: a whole number was expected, got 'many'"),
        ("distill ring8 --steps", "Missing value for argument '--steps'"),
        ("distill ring8 plenty", "'plenty' belongs to no option"),
        ("distill ring8 --posterior-weight square", "give --posterior-weight.FIELD, or none"),
        ("estimate ring8 --stepz 3", "See vardiu estimate ring8 --help"),
        ("probe ring8 --nam x", "See vardiu probe ring8 --help"),
        ("distill ring8 --anchor.trust 0", "distill: anchor.trust must be positive, got 0. See"),
        ("distill ring8 --pairs.pairs -1", "distill: pairs.pairs must be at least 0, got -1. See"),
        ("distill ring8 --weight.power nan", "distill: weight.power must be a finite number, got"),
        ("distill ring8 --levels.sigma-min -1", "distill: levels.sigma_min must be positive and"),
        (
            "distill ring8 --posterior-optimizer.lr 0",
            "distill: posterior_optimizer: lr must be pos",
        ),
        ("sample RUN --nmu 3", "unknown option --nmu; did you mean --num"),
        ("sample RUN --num many", "sample: --num: a whole number was expected, got 'many'. See"),
        ("bake-off mog40 --seconds soon", "--seconds: a number was expected, got 'soon'. See"),
        (
            f"sample RUN --seed {'x' * 500}",
            f"--seed: a whole number was expected, got '{'x' * 59}...",
        ),
        ("evaluate", "the following arguments are required: run. See vardiu evaluate --help"),
        ("bake-off mog40 --sedes 3", "unknown option --sedes; did you mean --seeds"),
        ("bake_off mog41", "unknown contest 'mog41'; did you mean mog40?"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line_with_the_nearest(capsys, words, message):
    status, out, err = told(capsys, *words.split())
    assert status == 2 and out == "" and message in err
    assert len(err.strip().splitlines()) == 1
    assert not any(word in err for word in ("subcommand", "\u2500", "---", "full helptext"))
    assert "error" not in err.replace("Error parsing --steps", "")


def test_a_row_that_may_be_none_is_given_by_its_fields_and_taken_away_by_none():
    def weight(*words):
        return parse_request("distill", [*words]).task.settings.posterior_weight

    assert weight("mog40") is None
    bounded = ["--posterior-weight.kind", "bounded", "--posterior-weight.scale", "3"]
    assert weight("mog40-gaussian", *bounded) == WeightSettings(kind="bounded", scale=3.0)
    assert weight("digits-framed") == WeightSettings(kind="constant")
    assert weight("digits-framed", "--posterior-weight", "none") is None


# ---------------------------------------------------------------- for programs and shells


def test_what_there_is_can_be_read_by_a_program(capsys):
    status, out, _ = told(capsys, "list", "--json")
    found = json.loads(out)
    assert status == 0
    assert set(found["distill"]) == set(PRESETS) and set(found["teach"]) == set(TEACHERS)
    assert found["distill"]["two_moons"]["method"] == "vardiu"
    needs = {"data": True, "teacher": True, "asked": True}
    needs |= {"pairs": False, "gradient": False, "paired": False}
    assert found["methods"]["dmd2"]["needs"] == needs
    assert set(found["densities"]) == set(DENSITIES)


def completed(script, *words):
    """What bash offers for the last of some words."""
    line = f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
    line += "_vardiu; printf '%s\\n' \"${COMPREPLY[@]}\""
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_shell_completes_commands_presets_options_and_values(capsys, tmp_path):
    _, out, _ = told(capsys, "completion", "bash")
    script = tmp_path / "vardiu.bash"
    script.write_text(out)
    assert {"distill", "sample", "completion"} <= set(completed(script, "vardiu", "''"))
    assert completed(script, "vardiu", "distill", "two") == ["two_moons"]
    flags = completed(script, "vardiu", "distill", "mog40", "--levels.")
    assert "--levels.sigma-min" in flags and "--steps" not in flags
    assert "diff_instruct" in completed(script, "vardiu", "distill", "mog40", "--method", "''")
    assert "onnx" in completed(script, "vardiu", "export", "runs/a", "--to", "''")
    assert set(completed(script, "vardiu", "list", "--")) == {"--json", "--help"}
    for shell in ("zsh", "fish"):
        _, out, _ = told(capsys, "completion", shell)
        assert "two_moons" in out and "levels.sigma-min" in out
    status, _, err = told(capsys, "completion", "bsh")
    assert status == 2 and "unknown shell 'bsh'; did you mean bash" in err


def test_gpu_is_whichever_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU here, neither CUDA nor MPS"):
        device_of("gpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert device_of("gpu").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of("gpu").type == "cuda"


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_is_its_own_and_fits_a_terminal(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, err = told(capsys, command, "--help")
    assert status == 0 and err == ""
    assert out.startswith(f"usage: vardiu {command}")
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize(
    ("words", "has", "lacks"),
    [
        ("distill mog40", ["--steps", "--posterior-weight.kind", "--levels.sigma-min"], []),
        ("probe mog40", ["--sigma-max"], ["--steps", "--levels.sigma-min", "distill"]),
        ("estimate mog40", ["--steps", "--json"], ["vardiu distill"]),
    ],
)
def test_the_help_of_a_preset_is_that_of_its_command(capsys, monkeypatch, words, has, lacks):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = told(capsys, *words.split(), "--help")
    assert status == 0 and out.startswith(f"usage: vardiu {words}")
    assert all(word in out for word in has) and not any(word in out for word in lacks)
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "posterior-weight:" not in out
    for name in ("checkerboard", "two_moons"):
        assert name not in out


def test_help_without_a_preset_tells_what_a_preset_is_and_lists_them(capsys):
    for command, table in (("distill", PRESETS), ("teach", TEACHERS)):
        _, out, _ = told(capsys, command, "--help")
        assert "A preset is a named row of settings" in out
        assert all(f"\n  {name}" in out for name in table)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "distill mog40-ddil --states.teacher -0.1",
            "states.teacher must be at least 0, got -0.1",
        ),
        ("distill mog40-rdd --relations.queue 0", "relations.queue must be at least 1, got 0"),
        (
            "distill mog40 --steps abc",
            "Error parsing --steps: a whole number was expected, got 'abc'",
        ),
        ("distill mog40 --lr 1e", "Error parsing --lr: a number was expected, got '1e'"),
        (
            "distill mog40-ddil --states.bound some",
            "Error parsing --states.bound: a number or none was expected, got 'some'",
        ),
    ],
)
def test_a_wrong_value_of_a_row_is_told_without_what_the_parser_draws(words, message, capsys):
    assert main(words.split()) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"vardiu distill: {message}")
    assert "---" not in line and "helptext" not in line and line.count("--help") == 1


@pytest.mark.parametrize(
    "words", ["--states.bound none", "--states.bound=None", "--states.bound NONE"]
)
def test_an_optional_number_is_taken_away_by_none(words, capsys):
    rows = [("--states.bound 0.9", "bound: 0.9"), (f"--states.bound 0.9 {words}", "bound: null")]
    for given, shown in rows:
        assert main(["distill", "mog40-ddil", "--dry-run", *given.split()]) == 0
        assert shown in capsys.readouterr().out
