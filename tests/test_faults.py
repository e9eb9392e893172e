"""The faults of `slow/mutants.py` fit the source as it is; that the tests see each is a slow test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def mutants():
    sys.path.insert(0, str(HERE / "slow"))
    try:
        import mutants
    finally:
        sys.path.remove(str(HERE / "slow"))
    return mutants


def test_the_text_of_each_is_in_its_file_once_and_its_tests_are_there(mutants):
    names = [mutant.name for mutant in mutants.MUTANTS]
    assert len(set(names)) == len(names)
    wrong = []
    for mutant in mutants.MUTANTS:
        try:
            assert mutants.mutated(mutant) != (HERE.parent / "vardiu" / mutant.file).read_text()
        except mutants.NotOnce as error:
            wrong.append(str(error))
        files = [word for word in mutant.tests if word.startswith("tests/")]
        wrong += [
            f"{mutant.name}: no {name}" for name in files if not (HERE.parent / name).exists()
        ]
        assert files, mutant.name
    assert not wrong


def test_a_text_that_is_not_there_once_is_told(mutants):
    for old, times in (("no such text", 0), ("import", None)):
        mutant = mutants.Mutant(
            "a fault", "training/memory.py", old, "", ("tests/test_memory.py",)
        )
        with pytest.raises(mutants.NotOnce, match="not once") as caught:
            mutants.mutated(mutant)
        assert times is None or f"is {times} times" in str(caught.value)
