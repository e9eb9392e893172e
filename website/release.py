r"""What must agree before a version is released: `make release`, or `python website/release.py`.

It refuses, with all reasons, unless the changelog's newest heading is the version of the package
with a date, the version is not tagged yet, nothing is uncommitted, the distributions in `dist/`
are of this version and sound, and the tests pass. It publishes nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent


def version_of(root: Path) -> str:
    r"""Returns the version that the package states."""
    text = (root / "vardiu/__init__.py").read_text()
    (found,) = re.findall(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    return str(found)


def told_by_texts(root: Path, today: date) -> Iterator[str]:
    r"""Yields what does not agree in version, changelog and citation."""
    version = version_of(root)
    if re.fullmatch(r"\d+\.\d+\.\d+", version) is None:
        yield f"vardiu/__init__.py: {version!r} is no version: give three numbers"
    changelog = (root / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+) \(([^)]*)\)(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.S)
    if newest is None:
        yield "CHANGELOG.md: no heading `## VERSION (DATE)`"
    else:
        if newest[1] != version:
            yield f"CHANGELOG.md: its newest version is {newest[1]}, the package's {version}"
        if re.fullmatch(r"\d{4}-\d\d-\d\d", newest[2]) is None:
            yield f"CHANGELOG.md: {newest[1]} has no date but {newest[2]!r}: write the day"
        elif newest[2] > today.isoformat():
            yield f"CHANGELOG.md: {newest[1]} is of {newest[2]}, which is to come"
        if not re.search(r"^- \S", newest[3], re.MULTILINE):
            yield f"CHANGELOG.md: {newest[1]} has no entry"
    cited = re.search(
        r"^version: \"?([^\s\"]+)", (root / "CITATION.cff").read_text(), re.MULTILINE
    )
    if cited is not None and cited[1] != version:
        yield f"CITATION.cff: its version is {cited[1]}, the package's {version}"


def told_by_git(root: Path) -> Iterator[str]:
    r"""Yields what git has against a release: changes, and a tag of the same name."""
    if carried_out(root, "git", "status", "--porcelain"):
        yield "git: there are changes that are not committed"
    version = version_of(root)
    if carried_out(root, "git", "tag", "--list", f"v{version}"):
        yield f"git: v{version} is tagged already: raise the version"


def carried_out(root: Path, *words: str) -> str:
    r"""Returns what a command prints."""
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def told_by_tests(root: Path) -> Iterator[str]:
    r"""Yields the targets that fail: lint, tests, slow tests, the site, and the distributions."""
    for target in ("lint", "test", "slow", "docs", "dist"):
        if subprocess.run(["make", target], cwd=root).returncode:
            yield f"make {target} fails"
    version = version_of(root)
    made = {path.name for path in (root / "dist").glob("*")}
    if made != {f"vardiu-{version}-py3-none-any.whl", f"vardiu-{version}.tar.gz"}:
        yield f"dist/ must hold a wheel and an sdist of {version} alone, and holds {sorted(made)}"


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    r"""Prints why there can be no release, or how to make it; returns 1 or 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts-only", action="store_true", help="run no tests")
    chosen = parser.parse_args(arguments)
    wrong = [*told_by_texts(root, date.today()), *told_by_git(root)]
    # The tests take an hour: they are asked when all else agrees.
    if not wrong and not chosen.texts_only:
        wrong += told_by_tests(root)
    for line in wrong:
        print(f"no release: {line}", file=sys.stderr)
    if not wrong:
        version = version_of(root)
        print(f"{version} may be released:")
        print(f"  git tag v{version} && git push origin v{version}")
        print("  .venv/bin/twine upload dist/*")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
