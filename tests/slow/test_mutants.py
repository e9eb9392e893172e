"""The faults of `mutants.py`, one at a time: the tests must see each."""

from __future__ import annotations

import pytest
from mutants import MUTANTS, Mutant, Results, copied, main, mutated, survives, untouched


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return copied(tmp_path_factory.mktemp("mutants"))


def test_the_text_of_each_mutant_is_in_its_file_once():
    assert all(mutated(mutant) for mutant in MUTANTS)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_killed(mutant: Mutant, folder):
    assert not survives(folder, mutant)


@pytest.mark.slow
def test_the_tests_of_mutants_pass_without_one(folder):
    assert all(survives(folder, mutant) for mutant in untouched(MUTANTS))


def test_what_is_done_is_kept_and_not_run_again(tmp_path, capsys):
    path = tmp_path / "results.jsonl"
    words = ["--shard", "2/3", "--results", str(path), "anchor"]
    chosen = [mutant for mutant in MUTANTS if "anchor" in mutant.name][1::3]
    results = Results(path)
    for mutant in chosen:
        results.add({"name": mutant.name, "outcome": "killed", "expected": "killed"})
    assert main(words) == 0
    results.add({"name": chosen[0].name, "outcome": "survived", "expected": "killed"})
    with path.open("a") as file:
        file.write('\n{"name": "cut sho')  # as a kill leaves it
    assert main(words) == 1
    assert f"! survived, not killed: {chosen[0].name}" in capsys.readouterr().out
