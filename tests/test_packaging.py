"""What is shipped is what is stated."""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import vardiu
from vardiu.metrics import features
from vardiu.monitoring import references
from vardiu.nn import perceptual
from vardiu.runs.presets import PRESETS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements):
    return {re.split(r"[<>=\[;! ]", line)[0].lower().replace("_", "-") for line in requirements}


def test_versions_agree():
    assert metadata.version("vardiu") == vardiu.__version__
    assert vardiu.__version__ in (ROOT / "CHANGELOG.md").read_text()
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cff["version"] == vardiu.__version__ and cff["license"] == PROJECT["license"]


def test_constraints_pin_every_dependency():
    lines = [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] not in "#"
    ]
    pinned = names(lines)
    assert all("==" in line for line in lines)
    wanted = names(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        wanted |= names(extra)
    assert wanted - {"vardiu"} <= pinned
    assert "torch==2.13.0" in lines and not {"torchvision", "nvidia-cublas-cu12"} & pinned


def imported(package: Path):
    """Yields the modules that the code imports, and where: `at once` with its own module, `later`
    within a function, or in the extra that `require` names; "" where that names none."""
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            when = "at once" if node in tree.body else "later"
            if isinstance(node, ast.Import):
                yield from ((alias.name.split(".")[0], when) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module.split(".")[0], when
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
                first, *rest = node.args
                if isinstance(first, ast.Constant):
                    yield first.value.split(".")[0], rest[0].value if rest else ""


def test_every_package_that_the_code_imports_is_stated_with_a_lower_bound():
    extras = dict(PROJECT["optional-dependencies"])
    del extras["dev"]
    lines = [*PROJECT["dependencies"], *(line for extra in extras.values() for line in extra)]
    assert all(re.search(r">=\d", line) for line in lines), lines
    owners = {k: names(v) for k, v in metadata.packages_distributions().items()}
    found = {(name, when) for name, when in imported(ROOT / "vardiu") if when}
    assert {("PIL", "at once"), ("ot", "later"), ("onnx", "onnx")} <= found
    for name, when in sorted(found):
        if name in sys.stdlib_module_names or name == "vardiu":
            continue
        if when == "at once":
            stated = names(PROJECT["dependencies"])
        else:
            stated = names(lines if when == "later" else extras[when])
        # What is not installed here has most often its module's name.
        owner = owners.get(name, {name.lower().replace("_", "-")})
        assert owner & stated, f"{name}, imported {when}, is not among {sorted(stated)}"


def test_reference_curves_are_shipped_from_where_they_are_read():
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    for target in targets["targets"].values():
        assert "vardiu/monitoring/reference/*.json" in target["artifacts"]
    for path in (ROOT / "vardiu" / "reference").glob("*"):
        assert (
            path.suffix == ".json" and path.stem in PRESETS and references.preset_curves(path.stem)
        )


def test_networks_on_board_are_shipped_with_their_hash_and_licence():
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    for target in targets["targets"].values():
        assert "vardiu/**/*.safetensors" in target["artifacts"]
    found = sorted((ROOT / "vardiu").rglob("*.safetensors"))
    assert found == [features.WEIGHTS, perceptual.WEIGHTS]
    for module, path in zip((features, perceptual), found, strict=True):
        assert path.stat().st_size < 1e6
        assert hashlib.sha256(path.read_bytes()).hexdigest() == module.SHA256
    assert "licence" in perceptual.__doc__ and "benchmarks/patch_features.py" in perceptual.__doc__
    assert "CC BY 4.0" in (text := Path(features.__file__).read_text())
    assert "benchmarks/digits_classifier.py" in text
    for name in ("patch_features.py", "digits_classifier.py"):
        assert (ROOT / "benchmarks" / name).is_file()


# The readers of pickles that execute nothing.
RESTRICTED = {"edm_pickles.py", "edm_records.py", "edm_scan.py"}


def test_nothing_is_unpickled_or_swallowed():
    for path in (ROOT / "vardiu").rglob("*.py"):
        text = path.read_text()
        for word in (
            r"\b(import|from) pickle\b|\bpickle[.(]",
            r"torch\.load\(",
            "nan_to_num",
            r'eval\("',
            "trust_remote_code",
        ):
            found = [
                line
                for line in text.splitlines()
                if re.search(word, line) and "never" not in line.lower()
            ]
            if path.parent.name == "teachers" and path.name in RESTRICTED and "nan" not in word:
                continue
            assert not [line for line in found if "import" in line or "(" in line], (
                f"{path}: {word}"
            )
        # Of several processes one tells of an error of any kind, and raises it.
        one = path.name == "errors.py" and path.parent.name == "runs"
        told = "    except Exception as error:\n        if is_first_to_tell(repr(error)):\n            raise"
        assert text.count("except Exception") == (text.count(told) if one else 0), path
        assert "except:" not in text, path


def test_pickles_are_read_by_the_restricted_reader_alone():
    for name in RESTRICTED:
        text = (ROOT / "vardiu" / "teachers" / name).read_text()
        used = set(re.findall(r"\bpickle\.(\w+)", text))
        assert used <= {"Unpickler", "UnpicklingError", "html"}  # the last is of an address
        calls = re.findall(r"torch\.load\(.*", text)
        assert all("weights_only=True" in call for call in calls)
        assert "super().find_class" not in text and "import_module" not in text


def test_lazy_names_all_exist():
    for name in vardiu.__all__:
        assert getattr(vardiu, name) is not None
    assert set(vardiu.__all__) <= set(dir(vardiu))


def test_the_rooms_are_there_without_an_import_of_their_own():
    """In a fresh process, as documents write them; commands and the studio are none of a program."""
    folders = {path.parent.name for path in (ROOT / "vardiu").glob("*/__init__.py")}
    rooms = folders - {"cli", "studio"} | {"errors"}
    assert rooms == set(dir(vardiu)) - set(vardiu.__all__)
    code = (
        "import sys, vardiu\n"
        "assert 'torch' not in sys.modules\n"
        f"for room in {sorted(rooms)}: assert getattr(vardiu, room).__name__ == 'vardiu.' + room\n"
        "assert vardiu.models.load and vardiu.data.densities.mog40 and vardiu.errors.ConfigError\n"
        "assert not hasattr(vardiu, 'nothing')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("room", ["denoisers", "samplers", "students", "training", "functional"])
def test_a_room_lends_its_public_names(room):
    """In a fresh process: whichever room is imported first, there is no circle."""
    code = (
        f"import sys, vardiu.{room} as room\n"
        "assert all(hasattr(room, name) for name in room.__all__) and len(room.__all__) > 5\n"
        "assert not {'sklearn', 'matplotlib', 'diffusers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_of_rooms_are_functions_and_classes_and_not_their_modules():
    from vardiu import samplers, training

    assert inspect.isfunction(samplers.step) and inspect.isfunction(samplers.trajectory)
    assert inspect.isclass(training.Trainer)
