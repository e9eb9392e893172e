"""Settings that one choice reads and another does not: refused, given up by presets, or kept."""

from __future__ import annotations

import dataclasses
from typing import get_args, get_type_hints

import pytest

from vardiu.cli.main import main
from vardiu.cli.options import parse_request
from vardiu.errors import ConfigError
from vardiu.methods.vardiu.presets import PRESETS
from vardiu.methods.vardiu.settings import CHOICE, Settings
from vardiu.runs.rehearsal import with_little_made
from vardiu.runs.task import RunSettings, Task, task_of
from vardiu.settings.fields import (
    AnchorSettings,
    DigitsSettings,
    FrameSettings,
    NetworkOptimizer,
    PairSettings,
    WeightSettings,
)

FAMILIES = get_args(get_type_hints(Settings)["posterior"])


@pytest.mark.parametrize(
    ("posterior", "name", "value", "wanted", "reader"),
    [
        ("shared", "anchor.rate", AnchorSettings(rate=0.3), "0.1", "anchored"),
        ("framed", "anchor.refresh", AnchorSettings(refresh=2), "0", "anchored"),
        ("gaussian", "fake_optimizer.lr", NetworkOptimizer(lr=1e-3), "none", "anchored"),
        ("framed", "regression_weight", 0.5, "0", "anchored"),
        ("shared", "normalised", True, "False", "anchored"),
        ("flow", "ratio", 2, "1", "anchored"),
        ("gaussian", "components", 3, "16", "mixture"),
        ("mixture", "transforms", 2, "3", "flow"),
        ("mixture", "hidden", 8, "64", "flow"),
        ("shared", "posterior_optimizer.delay", NetworkOptimizer(delay=3), "0", "gaussian"),
        ("anchored", "posterior_optimizer.lr", NetworkOptimizer(lr=0.1), "none", "gaussian"),
        ("anchored", "posterior_weight.scale", WeightSettings(scale=3.0), "1", "gaussian"),
        ("anchored", "control_variate", False, "True", "shared"),
        ("anchored", "particles", 2, "0", "gaussian"),
        ("gaussian", "own", 0.5, "1", "shared"),
        ("framed", "pairs.pairs", PairSettings(pairs=8), "0", "anchored"),
        ("shared", "frame.clusters", FrameSettings(clusters=2), "8", "framed"),
    ],
)
def test_what_a_posterior_does_not_read_is_refused_with_the_cure(
    posterior, name, value, wanted, reader
):
    given = {name.partition(".")[0]: value}
    with pytest.raises(ConfigError) as error:
        Settings(posterior=posterior, **given)
    told = str(error.value)
    assert told.startswith(f"{name} must be {wanted} with posterior {posterior}, got ")
    assert told.endswith(f"leave it out, or give --posterior {reader}") and "\n" not in told
    Settings(posterior=reader, **given)  # as it says


def test_the_table_is_of_settings_and_families_that_there_are():
    assert set(CHOICE.values) <= {field.name for field in dataclasses.fields(Settings)}
    assert {name for readers in CHOICE.values.values() for name in readers} == set(FAMILIES)
    for readers in CHOICE.values.values():
        assert set(readers) < set(FAMILIES) and len(set(readers)) == len(readers)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_preset_takes_every_posterior(family):
    for name, preset in PRESETS.items():
        if family == "anchored" and preset.settings.own != 1:
            continue  # of a bank: a word more is asked for
        switched = CHOICE.switched(preset.settings, family)
        assert (switched.posterior, switched.steps) == (family, preset.settings.steps), name
        # What a run is rehearsed with is taken too.
        assert with_little_made(switched, CHOICE).posterior == family


def test_a_preset_gives_up_what_it_has_for_another_posterior_and_a_word_is_refused(capsys):
    def settings(*words):
        return parse_request("distill", [*words]).task.settings

    for words in (["--posterior", "framed"], ["--posterior=Framed"]):
        framed = settings("digits-vardiu", *words)
        assert framed.pairs == PairSettings() and framed.anchor == AnchorSettings()
        assert framed.regression_weight == 0 and framed.steps == 350
    assert settings("digits-vardiu").regression_weight == 0.5
    shared = settings("digits-framed", "--posterior", "shared")
    assert shared.posterior_weight is None and shared.posterior_optimizer == NetworkOptimizer()
    kept = settings("digits-framed", "--posterior", "gaussian")
    assert kept.posterior_weight == WeightSettings(kind="constant")
    assert settings("digits-framed", "--posterior", "shared", "--posterior-weight", "none")
    with pytest.raises(
        ConfigError, match="frame.sigma must be 0.0.* with posterior shared, got 1"
    ):
        settings("two_moons", "--frame.sigma", "1")
    # A length that follows the data does so with every choice.
    assert settings("two_moons", "--posterior", "framed").frame.sigma < 0.1
    words = ["digits-vardiu", "--posterior", "framed", "--anchor.rate", "0.5", "--dry-run"]
    assert main(["distill", *words]) == 2
    told = capsys.readouterr().err
    assert "anchor.rate must be 0.1 with posterior framed, got 0.5" in told
    assert len(told.strip().splitlines()) == 1


def test_an_older_run_with_settings_that_were_not_read_is_read():
    framed = Settings(posterior="framed")
    task = Task("distill", "digits-framed", DigitsSettings(), "vardiu", framed, RunSettings())
    values = task.to_mapping()
    values["method"] |= {"regression_weight": 0.5, "pairs": {"pairs": 16_000}}
    assert task_of(values, "here").settings == framed
