"""The site's sources: hooks, checks, what the pages quote, and what must agree before a release."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml

from vardiu.monitoring.alarms import alarms

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "website"))
import check  # noqa: E402
import release  # noqa: E402

pytest.importorskip("mkdocs")
import hooks  # noqa: E402

BASE = {"step": 6000, "updates": 6000, "seconds": 1.0}


def raised(rows):
    found = alarms(rows, 10_000, 2, "mmd2", lambda: 0.001)
    return [text for alarm in found for text in (alarm.message, alarm.cure)]


def test_the_alarms_on_the_page_are_those_that_are_raised():
    """Each quoted text, word for word."""
    metric = {"metric/mmd2": 0.01, "metric/mmd2_error": 0.0001}
    late = [{**BASE, "step": 1000 * i, **metric} for i in range(1, 10)]
    lag = {"fake_error_anchor_quantile/0.5": 1.0, "fake_error_student_quantile/0.5": 3.1}
    lag |= {"posterior_gap_quantile/0.1": 5.0, "trust_quantile/0.5": 5.0}
    told = {
        *raised([{**BASE, "histogram": [1, 0, 0, 0], "spread": 0.2, "metric/recall": 0.1}]),
        *raised([{**BASE, "histogram": [0.25] * 4, "spread": 9.0}]),
        *raised([{**BASE, "loss": float("nan"), "spread": 1.0}]),
        *raised(late),
        *raised([{**row, "gradient_snr": 0.001} for row in late]),
        *raised([{**BASE, "step": 1000, **metric}, {**BASE, **metric, "metric/mmd2": 0.05}]),
        *raised([{**BASE, "step": 1000 * i, **lag} for i in (1, 2, 3)]),
    }
    page = (ROOT / "docs/troubleshooting.md").read_text()
    quoted = re.findall(r"^> (.*)$", page, re.MULTILINE)
    code = "".join(path.read_text() for path in (ROOT / "vardiu/teachers").glob("probe.py"))
    assert len(quoted) == 11
    for text in quoted:
        assert text in told or text in code, text
    for cure in re.findall(r"`(the gradient is [^`]*)`", page):
        assert cure in told, cure


def test_the_figure_of_choices_has_the_numbers_of_the_tables(tmp_path):
    sys.path.insert(0, str(ROOT / "docs/pictures"))
    import choose

    page = choose.PAGE.read_text()
    vardiu = next(case for case in choose.CASES if case.run.startswith("`digits-vardiu"))
    row = next(line for line in page.splitlines() if line.startswith(f"| {vardiu.run} |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    told = choose.measured(vardiu, page)
    seeds, ratio, recall, seconds = (cells[n] for n in (2, 4, 6, 8))
    assert told == (f"{ratio} × the teacher's distance, recall {recall}\n{seeds} seeds, {seconds}")
    with pytest.raises(KeyError):
        choose.measured(vardiu._replace(run="`no-run`"), page)
    choose.draw(tmp_path / "choose.png")


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    text = yaml.safe_dump(config["nav"])
    named = set(re.findall(r"[\w/-]+\.md", text))
    rows = [*hooks.pages_of_methods(), *hooks.unlisted(text)]
    named |= {next(iter(row.values())) for row in rows}
    docs = ROOT / "docs"
    there = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    # Bake-offs write these; what they say is quoted on the page of what was measured.
    written = {path.relative_to(docs).as_posix() for path in docs.glob("results/*/results.md")}
    assert there - written == named - set(hooks.AT_ROOT.values())
    assert all((ROOT / source).is_file() for source in hooks.AT_ROOT)


def test_the_first_page_leads_to_a_picture_in_five_commands():
    text = (ROOT / "docs/index.md").read_text()
    commands = re.findall(r"```\n(.*?)```", text, re.DOTALL)[0].strip().split("\n")
    assert len(commands) <= 5 and commands[-1].startswith("vardiu sample")
    assert len(re.findall(r"^\| \*\*", text, re.MULTILINE)) == 12


def test_the_reference_has_every_public_module():
    """By the files: a module with an `__all__` is on the page of its room."""
    rooms = hooks.public_modules()
    pages = "".join(hooks.reference_page(room, modules) for room, modules in rooms.items())
    for path in (ROOT / "vardiu").rglob("*.py"):
        if "__all__" in path.read_text() and path.name not in ("__init__.py", "__main__.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if hooks.names_of(path):
                assert f"::: {module}\n" in pages, module
    assert "vardiu.Trainer" in hooks.reference_index(rooms)


def test_formulas_become_mathml():
    text = hooks.as_markdown(
        "A score.\n\n.. math:: a &= b \\\\\n    c &= d\n\nWith :math:`x < y`."
    )
    assert ":mathblock:`a &= b \\\\ c &= d`" in text
    drawn = hooks.on_page_content(
        "<p>:mathblock:<code>a &amp;= b</code> :math:<code>x &lt; y</code></p>"
    )
    assert drawn.count("<math") == 2 and 'display="block"' in drawn and "code" not in drawn


def test_options_and_numbers_are_not_broken_at_their_hyphens():
    text = "<td><code>a --steps-more 2</code> -2.5e-03 ± 1e-04, x--y, a -- b</td>"
    text += '<img alt="--steps"><pre><code>vardiu --steps</code></pre>'
    drawn = hooks.on_page_content(text)
    whole = re.findall('<span class="whole">(.*?)</span>', drawn)
    assert whole == ["--steps-more", "-2.5e-03", "1e-04"]
    assert re.sub('<span class="whole">(.*?)</span>', r"\1", drawn) == text
    assert ".whole { white-space: nowrap; }" in (ROOT / "docs/assets/site.css").read_text()


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (r"\Big\lfloor a \big\| b \Big\rfloor", "⌊a‖b⌋"),
        (r"\lfloor \arg\min_j \rfloor", "⌊argminj⌋"),
        (r"\Big\{ r : \{ a \} \Big\}", "{r:{a}}"),
        (r"\Big\langle a, \| b \| \Big\rangle", "⟨a,‖b‖⟩"),
    ],
)
def test_signs_of_formulas_are_drawn(source, wanted):
    assert html.unescape(re.sub("<[^>]*>", "", hooks.formula(source))) == wanted


def test_a_command_that_is_not_drawn_is_refused():
    with pytest.raises(hooks.PluginError, match="not drawn: a .notacommand b"):
        hooks.formula(r"a \notacommand b")


SITE = {
    "index.html": '<h1 id="a">A</h1><a href="b/c.html#d">x</a><img src="p.png" alt="A picture">',
    "b/c.html": '<h2 id="d">D</h2><a href="../index.html#a">x</a>',
    "p.png": "",
}


@pytest.mark.parametrize(
    ("page", "added", "wanted"),
    [
        ("index.html", "", None),
        ("index.html", '<a href="b/e.html">x</a>', "index.html: leads nowhere: b/e.html"),
        (
            "b/c.html",
            '<a href="../index.html#z">x</a>',
            "b/c.html: no such place: ../index.html#z",
        ),
        ("index.html", '<img src="p.png" alt=" ">', "index.html: no alternative text: p.png"),
        ("index.html", '<img src="q.png" alt="Q">', "index.html: is not there: q.png"),
        (
            "b/c.html",
            '<script src="https://cdn/x.js"></script>',
            "asks another host: https://cdn/x.js",
        ),
    ],
)
def test_what_is_wrong_on_a_site_is_seen(page, added, wanted, tmp_path, capsys):
    for name, text in SITE.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + (added if name == page else ""))
    assert check.main([str(tmp_path)]) == (0 if wanted is None else 1)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == (0 if wanted is None else 1) and (wanted or "") in "".join(told)


# ---------------------------------------------------------------- a release


@pytest.fixture
def source(tmp_path):
    """A small repository whose texts agree."""
    (tmp_path / "vardiu").mkdir()
    (tmp_path / "vardiu/__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CITATION.cff").write_text("version: 1.2.3\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3 (2026-01-02)\n\n- A line.\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "Begin"]):
        who = ["-c", "user.name=A", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True)
    return tmp_path


def test_a_release_is_offered_where_all_agrees(source, monkeypatch, capsys):
    assert release.main(["--texts-only"], source) == 0
    assert "git tag v1.2.3" in capsys.readouterr().out
    ran = []
    monkeypatch.setattr(
        release, "told_by_tests", lambda root: ran.append(root) or ["make test fails"]
    )
    assert release.main([], source) == 1
    assert "no release: make test fails" in capsys.readouterr().err and ran


@pytest.mark.parametrize(
    ("file", "old", "new", "wanted"),
    [
        ("CHANGELOG.md", "1.2.3", "1.2.2", "newest version is 1.2.2, the package's 1.2.3"),
        ("CHANGELOG.md", "2026-01-02", "unreleased", "has no date but 'unreleased'"),
        ("CHANGELOG.md", "2026-01-02", "2999-01-02", "which is to come"),
        ("CHANGELOG.md", "- A line.", "", "1.2.3 has no entry"),
        ("CHANGELOG.md", "## ", "", "no heading"),
        ("CITATION.cff", "1.2.3", "1.2.4", "CITATION.cff: its version is 1.2.4"),
        ("vardiu/__init__.py", "1.2.3", "1.2", "is no version"),
    ],
)
def test_a_release_is_refused(file, old, new, wanted, source, capsys, monkeypatch):
    path = source / file
    path.write_text(path.read_text().replace(old, new))
    monkeypatch.setattr(release, "told_by_tests", lambda root: pytest.fail("tests were run"))
    assert release.main([], source) == 1
    told = capsys.readouterr().err
    assert wanted in told and "git: there are changes that are not committed" in told


def test_a_version_is_released_once(source, capsys):
    subprocess.run(["git", "tag", "v1.2.3"], cwd=source, check=True)
    assert release.main(["--texts-only"], source) == 1
    assert "v1.2.3 is tagged already" in capsys.readouterr().err


def test_this_repository_is_not_released_yet():
    told = list(release.told_by_texts(ROOT, date.today()))
    unreleased = "(unreleased)" in (ROOT / "CHANGELOG.md").read_text()
    assert all("has no date" in line for line in told) and bool(told) == unreleased


@pytest.mark.parametrize(
    ("failing", "made", "wanted"),
    [
        ("none", "vardiu-1.2.3-py3-none-any.whl vardiu-1.2.3.tar.gz", []),
        ("test", "vardiu-1.2.3-py3-none-any.whl vardiu-1.2.3.tar.gz", ["make test fails"]),
        ("none", "vardiu-1.2.3.tar.gz", ["a wheel and an sdist of 1.2.3 alone"]),
        (
            "docs",
            "vardiu-1.2.2-py3-none-any.whl vardiu-1.2.3.tar.gz",
            ["make docs fails", "a wheel and an sdist of 1.2.3 alone"],
        ),
    ],
)
def test_a_release_asks_the_targets_and_the_distributions(failing, made, wanted, source):
    lines = ["lint test slow docs:", f"\ttest $@ != {failing}", "dist:", "\tmkdir -p dist"]
    lines.append(f"\tcd dist && touch {made}")
    (source / "Makefile").write_text("\n".join(lines) + "\n")
    told = list(release.told_by_tests(source))
    assert len(told) == len(wanted)
    assert all(part in line for part, line in zip(wanted, told, strict=True))


def test_every_extra_is_on_the_page_of_installation():
    page = (ROOT / "docs/usage/install.md").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {name for name in re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)} == set(
        extras["optional-dependencies"]
    )


def test_a_source_distribution_has_every_page_that_the_site_is_made_of():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    included = build["targets"]["sdist"]["include"]
    for name in (*hooks.AT_ROOT, "CITATION.cff", "Dockerfile", "mkdocs.yml", "constraints.txt"):
        assert any(Path(name).match(pattern) for pattern in included), name


# ---------------------------------------------------------------- a container


def test_the_dockerfile_is_sound():
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.is_file() and shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed")
    words = [
        str(linter) if linter.is_file() else "hadolint",
        "--no-color",
        str(ROOT / "Dockerfile"),
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout


def test_forms_for_faults_and_methods_can_be_read():
    folder = ROOT / ".github/ISSUE_TEMPLATE"
    for name in ("fault.yml", "method.yml"):
        form = yaml.safe_load((folder / name).read_text())
        assert {"name", "description", "body"} <= set(form)
        assert all(row["attributes"]["label"] for row in form["body"])
