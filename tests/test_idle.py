"""Options that do nothing beside the other settings are refused, and no others are."""

from __future__ import annotations

import dataclasses
import json
import shlex
import typing
from dataclasses import replace
from pathlib import Path

import pytest

from vardiu import methods
from vardiu.cli.options import parse_request
from vardiu.errors import ConfigError
from vardiu.methods import METHODS
from vardiu.settings import fields
from vardiu.settings.fields import PairSettings
from vardiu.settings.idle import IDLE

RESULTS = Path(__file__).parent.parent / "docs" / "results"

# What does nothing, and what makes it do something.
CASES = {
    "mog40 --anchor.rate 0.3": "--posterior anchored",
    "mog40-gaussian --anchor.refresh 20": "--posterior anchored",
    "mog40-gaussian --fake-optimizer.lr 1e-3": "--posterior anchored",
    "mog40 --ratio 2": "--posterior anchored",
    "mog40 --normalised": "--posterior anchored",
    "digits-vardiu --posterior shared --regression-weight 0.6": "--posterior anchored",
    "mog40 --posterior anchored --regression-weight 0.5": "--pairs.pairs 100",
    "mog40 --posterior anchored --anchor.bank 2 --ratio 2": "--anchor.bank-above 0.5",
    "mog40 --posterior anchored --anchor.bank 2 --anchor.refresh 9 --anchor.settle 20": (
        "--anchor.bank-above 0.5"
    ),
    "images-framed --pairs.pairs 100": "--posterior anchored",
    "mog40-gaussian --components 3": "--posterior mixture",
    "mog40-gaussian --hidden 8": "--posterior flow",
    "mog40 --posterior mixture --transforms 2": "--posterior flow",
    "mog40 --posterior-optimizer.lr 1e-3": "--posterior gaussian",
    "mog40 --posterior-weight.kind constant": "--posterior gaussian",
    "mog40 --frame.clusters 2": "--posterior framed",
    "mog40-sds --levels.anneal 0.5": "--levels.start-min 1",
    "mog40-sds --levels.rho 2": "--levels.kind power_law",
    "mog40-sds --levels.rho-end 2": "--levels.kind power_law",
    "mog40-sds --levels.rho-every 10": "--levels.kind power_law --levels.rho-end 2",
    "mog40-sds --levels.mean 1": "--levels.kind log_normal",
    "mog40-sds --weight.kind square --weight.scale 2": "--weight.kind bounded",
    "mog40-sds --weight.power 2": "--weight.kind power",
    "mog40-sds --ratio 2": "--variant vsd",
    "mog40-sdi --fake-optimizer.lr 1e-3": "--variant vsd",
    "mog40-sds --eta 0.1": "--variant sdi",
    "mog40-vsd --inversion-steps=3": "--variant sdi",
    "mog40-sds --variables.particles 7": "--variables.kind particles",
    "mog40-sds --variables.std 2": "--variables.kind particles",
    "mog40-sds-particles --variables.width 8": "--variables.kind picture",
    "mog40-mean-shift --estimator denoiser --draws 2": "--estimator product",
    "mog40-mean-shift --estimator denoiser --kernel.high 2": "--estimator product",
    "mog40-adm --pairs.lr 1e-2": "--pairs.pairs 100",
    "mog40-adm --start.kind adversarial": "--pairs.pairs 100",
    "mog40-adm --regression-weight 1": "--pairs.pairs 100",
    "digits-adm --start.pure 0.5": "--start.kind adversarial",
    "mog40-emd --chain.trust 2": "--chain.gamma-z 1e-5",
    "mog40-emd --regression-weight 1": "--pairs.pairs 100",
    "mog40-sid --regression-weight 1": "--pairs.pairs 100",
    "mog40-diff-instruct --regression-weight 1": "--pairs.pairs 100",
    "mog40-f-distill --divergence reverse_kl --limit 5": "--divergence hellinger",
    "mog40-f-distill --divergence reverse_kl --head-optimizer.lr 1": "--divergence hellinger",
    "mog40-diff-ratio --pairs.lr 1e-2": "--regression",
    "mog40-dmd2 --adversarial-weight 0 --classifier-weight 1": "--adversarial-weight 1",
    "mog40-fd-loss --memory.kind queue --memory.decay 0.9": "--memory.kind ema",
    "mog40-freeflow --correction 0 --lead 0.1": "--correction 0.5",
    "mog40-freeflow --correction 0 --noise-levels.sigma-max 60": "--correction 0.5",
    "mog40-freeflow --correction 1 --lead 0 --derivative difference": "--correction 0.5",
    "mog40-freeflow --correction 1 --lead 0 --balance 2": "--correction 0.5",
}


def asked(line: str):
    return parse_request("distill", shlex.split(line))


@pytest.mark.parametrize("line", CASES)
def test_what_does_nothing_is_refused_in_one_line_and_its_cure_helps(line):
    with pytest.raises(ConfigError, match="does nothing beside the other settings") as caught:
        asked(line)
    told = str(caught.value)
    assert "\n" not in told and "leave it out, or give --" in told
    assert CASES[line].split()[0] in told
    asked(f"{line} {CASES[line]}")


def test_a_default_and_a_preset_of_what_does_nothing_are_let_through():
    asked("mog40-freeflow --correction 0 --lead 0")
    # Values of the preset stand ready for when another option changes.
    asked("mog40-vsd-particles --variant sds")
    asked("mog40-sid --weight.kind constant")
    # Of a regression alone --steps stands in place of it: one set of options fits all methods.
    asked("mog40 --method regression --pairs.steps 10")


def test_the_table_names_what_there_is_and_every_line_of_it_is_tried():
    tried = set()
    for line in CASES:
        words = [word[2:].partition("=")[0] for word in line.split() if word.startswith("--")]
        tried |= {word.replace("-", "_") for word in words}
    for name, rows in IDLE.items():
        owner = METHODS[name].settings if name in METHODS else getattr(fields, name)
        for idle in rows:
            for path in idle.names:
                held = owner
                for part in path.split("."):
                    assert part in {field.name for field in dataclasses.fields(held)}, path
                    held = typing.get_type_hints(held)[part]
            last = [path.split(".")[-1] for path in idle.names]
            assert any(set(word.split(".")) & set(last) for word in tried), (name, idle.names)


# What asks for fresh noise between calls and for pairs, and each cure.
FRESH = {
    "patches --calls 4": ("--rule ddim", "--pairs.pairs 0 --regression-weight 0"),
    "patches --calls 4 --method regression": ("--rule ddim",),
    "digits-f-distill --calls 2": ("--pairs.pairs 0 --regression-weight 0",),
    "digits-sid --calls 2": ("--pairs.pairs 0",),
    "digits-fd-loss --calls 2 --pairs.pairs 100": ("--pairs.pairs 0",),
}


@pytest.mark.parametrize("line", FRESH)
def test_pairs_of_a_student_with_fresh_noise_are_refused_before_anything_is_read(line):
    with pytest.raises(ConfigError, match="draws fresh noise between the calls") as caught:
        asked(line)
    told = str(caught.value)
    assert told.endswith(f"give {', or '.join([*FRESH[line], '--calls 1'])}") and "\n" not in told
    for cure in (*FRESH[line], "--calls 1"):
        asked(f"{line} {cure}")


def test_every_method_that_fits_its_student_to_pairs_is_refused_fresh_noise():
    """By its source: what starts on pairs in another way has a message of its own."""
    place = Path(methods.__file__).parent
    found = {
        file.relative_to(place).parts[0].removesuffix(".py")
        for file in place.rglob("*.py")
        if "train_on_pairs(problem" in "".join(file.read_text().split())
    }
    few = PairSettings(pairs=100)
    rows = {name: method.settings() for name, method in METHODS.items()}
    rows = {name: replace(row, pairs=few) for name, row in rows.items() if hasattr(row, "pairs")}
    assert {name for name, row in rows.items() if row.fits_pairs} == found >= {"regression"}
    assert not replace(rows["diff_instruct"], pairs=PairSettings(pairs=0)).fits_pairs


def test_commands_of_published_runs_are_let_through():
    seen = 0
    for file in sorted(RESULTS.glob("*.json")):
        found = json.loads(file.read_text())
        for run in found.get("runs", ()) if isinstance(found, dict) else ():
            words = run["command"].split() if isinstance(run, dict) and "command" in run else []
            if words[:2] != ["vardiu", "distill"]:
                continue
            try:
                parse_request("distill", words[2:])
            except ConfigError as error:
                assert "does nothing beside" not in str(error), run["command"]
            seen += 1
    assert seen > 30
