"""The faults of `mutants.py`, one at a time: the tests must see each."""

from __future__ import annotations

import pytest
from mutants import MUTANTS, Mutant, copied, mutated, survives


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
    untouched = Mutant("none", "errors.py", "from __future__", "from __future__", ())
    words = {mutant.tests for mutant in MUTANTS}
    assert all(survives(folder, untouched._replace(tests=tests)) for tests in words)
