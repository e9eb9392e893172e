"""Reports: commands that can be typed as they stand."""

from __future__ import annotations

import dataclasses
import html
import html.parser
import json
import math
import re
import shlex

import numpy as np
import pytest
import torch

from vardiu.cli.options import parse_request
from vardiu.methods import METHODS
from vardiu.monitoring.cures import cure_options
from vardiu.problems.base import beside_teacher
from vardiu.problems.toy import ToyProblem
from vardiu.reports.charts import Line, Point, Target, chart, number
from vardiu.reports.colours import colour_of
from vardiu.reports.comparisons import Series, columns_of, quality_charts
from vardiu.reports.html import FirstScreen, write_report, write_tables
from vardiu.reports.overview import Measurements, overview
from vardiu.reports.panels import sample_panels
from vardiu.runs.listeners import ReportPage
from vardiu.runs.measuring import cures_of
from vardiu.runs.presets import PRESETS
from vardiu.storage.files import write_text_atomic
from vardiu.storage.run_folder import RunFolder


def commands(run, command):
    run.open({"command": command})
    write_text_atomic(run.file("provenance.json"), json.dumps({}))
    about = {"metrics": [], "reference": [], "reference_name": "", "cost": {}, "pictures": []}
    text = write_report(run, title="t", **about).read_text(encoding="utf-8")
    block = html.unescape(text.split("What next")[1].split("<pre>")[1].split("</pre>")[0])
    return [shlex.split(line) for line in block.splitlines()]


def test_commands_of_a_folder_with_spaces_are_quoted(tmp_path):
    run = RunFolder(tmp_path / "my runs; rm")
    lines = commands(run, "distill")
    assert [line[1] for line in lines] == ["sample", "evaluate", "cite", "distill"]
    assert all(line[2] == str(run.path) for line in lines[:3])
    assert lines[3][3] == str(run.file("config.yaml"))


@pytest.mark.parametrize("absent", ["sample", "evaluate", "distill"])
def test_a_teachers_report_has_commands_of_a_teacher(tmp_path, absent):
    lines = commands(RunFolder(tmp_path / "t"), "teach")
    assert absent not in [line[1] for line in lines]
    assert lines[-1][1:3] == ["teach", "--config"]


# ---------------------------------------------------------------- the first screen


class Outside(html.parser.HTMLParser):
    """What a page shows before anything is unfolded, and what it takes from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.folded, self.shown, self.addresses, self.tags = 0, [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.folded += tag in ("details", "style")
        self.tags.add(tag)
        self.addresses += [
            v for k, v in attrs if k in ("src", "href") and not v.startswith("data:")
        ]

    def handle_endtag(self, tag):
        self.folded -= tag in ("details", "style")

    def handle_data(self, data):
        if not self.folded:
            self.shown.append(data)

    @property
    def text(self):
        return " ".join(self.shown)


ALARM = {"name": "saturation", "step": 40, "message": "not <b> better", "cure": "raise --batch"}


def metric(name, value, error=None, higher=False):
    about = {"note": "", "features": "", "reference": "abc", "higher_is_better": higher}
    return {"name": name, "value": value, "error": error, "n": 500, **about}


def log():
    rows = []
    for i in range(1, 6):
        row = {"stage": "s", "step": 10 * i, "updates": 10 * i, "seconds": i, "calls": i}
        row |= {"metric/mmd2": 1 / i, "metric/mmd2_error": 0.1 / i, "metric/modes": 4.0 * i}
        row |= {f"bound/{s}": float(s) / i for s in ("0.5", "1", "2", "5", "10")}
        rows.append(row | {"score_gap/1": 0.5 / i})
    return rows


MEASURED = Measurements(
    log(),
    [metric("mmd2", 0.2, 0.01), metric("modes", 20.0, higher=True)],
    [metric("mmd2", 0.1, 0.005), metric("modes", 40.0, higher=True)],
    "true samples",
)


@pytest.fixture
def page(tmp_path):
    run = RunFolder(tmp_path / "a run")
    run.open({"command": "distill", "method": {"batch": 256}})
    write_text_atomic(run.file("provenance.json"), json.dumps({"seed": 0}))
    x = np.zeros((5, 2))
    first = FirstScreen(
        verdict=("STUCK", "MMD^2 2.0 times that of true samples"),
        panels=sample_panels([("teacher, 69 calls", "soft", x), ("student", "m-vardiu", x)]),
        charts=overview(MEASURED, "mmd2", ("modes",), ("bound",), "vardiu"),
        methods=["vardiu"],
        note="Both of the same latents.",
    )
    alarm = {**ALARM, "options": ["--batch", "512"]}
    about = {"metrics": MEASURED.metrics, "reference": MEASURED.reference, "pictures": []}
    about |= {"reference_name": "true samples", "cost": {"teacher_calls": 3}}
    return write_report(run, title="t", alarms=[alarm], first=first, **about).read_text()


def test_the_first_screen_has_verdict_samples_curves_and_warnings_in_this_order(page):
    shown = Outside(page).text
    order = [
        "STUCK",
        "teacher, 69 calls",
        "student",
        "MMD^2",
        "modes covered",
        "bound of",
        "Warnings",
    ]
    place = 0
    for word in order:
        place = shown.index(word, place) + len(word)
    assert "not <b> better" in shown and "Provenance" not in shown.replace("Provenance", "", 1)
    assert '"seed": 0' not in shown and "mmd2" not in shown and "reference abc" not in shown


def test_a_cure_can_be_copied_and_typed(page, tmp_path):
    (command,) = re.findall("<pre class='copy'>(.*?)</pre>", page)
    words = shlex.split(html.unescape(command))
    folder = tmp_path / "a run"
    assert words[:4] == ["vardiu", "distill", "--config", str(folder / "config.yaml")]
    assert words[4:] == ["--out", f"{folder}-again", "--batch", "512"]


def test_a_page_needs_no_script_and_nothing_from_elsewhere(page):
    seen = Outside(page)
    assert not seen.addresses and "script" not in seen.tags and "url(" not in page
    assert "prefers-color-scheme" in page and "width=device-width" in page


def test_a_page_has_the_colours_of_its_methods_in_the_light_and_in_the_dark(page):
    colour = colour_of("vardiu")
    assert f"--m-vardiu:{colour.light}" in page and f"--m-vardiu:{colour.dark}" in page
    used = set(re.findall(r"var\(--([\w-]+)\)", page))
    assert used <= set(re.findall(r"--([\w-]+):", page))


def test_a_report_without_a_verdict_or_alarms_says_so(tmp_path):
    run = RunFolder(tmp_path / "t")
    run.open({"command": "teach"})
    write_text_atomic(run.file("provenance.json"), "{}")
    about = {"metrics": [], "reference": [], "reference_name": "", "cost": {}, "pictures": []}
    assert "verdict" not in Outside(write_report(run, title="t", **about).read_text()).text
    text = write_report(run, title="t", alarms=[], **about).read_text()
    assert "No alarm was raised." in Outside(text).text


# ---------------------------------------------------------------- curves


def test_the_three_curves_are_headline_coverage_and_the_declared_instrument():
    headline, coverage, instrument = overview(MEASURED, "mmd2", ("modes",), ("bound",), "vardiu")
    assert "MMD^2, lower is better" in headline and "true samples 0.1" in headline
    assert "modes covered, higher is better" in coverage and "true samples 40" in coverage
    # The smallest and the largest level are among the four.
    assert re.findall("σ = ([0-9.]+)<", instrument) == ["0.5", "1", "5", "10"]
    assert headline.count("class='mark'") == 5 + 1 + 2  # evaluations, the end, the legend
    (other,) = overview(MEASURED, "mmd2", (), ("absent",), "dmd2")[1:]
    assert "gap of the scores" in other and "var(--m-dmd2)" in other


def test_a_comparison_has_a_colour_a_method_and_a_name_a_series():
    runs = [Series("low", "vardiu", log()), Series("low", "vardiu", log())]
    runs += [Series("high", "vardiu", log()), Series("theirs", "dmd2", log())]
    seconds, calls = quality_charts(runs, "mmd2")
    assert "MMD^2 against seconds of training" in seconds and "calls of the teacher" in calls
    assert re.findall("</svg>([^<]+)</li>", seconds) == ["low", "high", "theirs"]
    lines = re.findall(r"<g class='line' style='--c:var\(--([\w-]+)\)[^>]*>(.*?)</g>", seconds)
    assert [name for name, _ in lines] == ["m-vardiu"] * 3 + ["m-dmd2"]
    dashes = [re.findall("stroke-dasharray='([^']*)'", body)[0] for _, body in lines]
    assert dashes == ["", "", "7 4", ""]


def test_a_value_has_its_mark_where_it_belongs():
    text = chart("t", [Line("a", [Point(0, 0.0), Point(50, 5.0), Point(100, 10.0)])], "x")
    places = np.array(re.findall(r"translate\(([\d.]+) ([\d.]+)\)' d", text), dtype=float)[:3]
    first, middle, last = places
    assert np.allclose((first + last) / 2, middle, atol=0.1)
    assert last[0] > first[0] and last[1] < first[1]


def test_the_target_and_its_error_are_drawn_where_the_values_are():
    text = chart("t", [Line("", [Point(0, 1.0), Point(1, 3.0)])], "x", Target(2.0, 0.5, "truth"))
    (y,) = re.findall(r"class='target' d='M48 ([\d.]+)h", text)
    rows = re.findall(r"translate\([\d.]+ ([\d.]+)\)' d", text)[:2]
    assert float(y) == pytest.approx((float(rows[0]) + float(rows[1])) / 2, abs=0.1)
    (top, height) = re.findall(
        r"class='band' x='48' y='([\d.]+)' width='\d+' height='([\d.]+)'", text
    )[0]
    assert float(top) + float(height) / 2 == pytest.approx(float(y), abs=0.1)
    span = abs(float(rows[0]) - float(rows[1]))  # of 2
    assert float(height) == pytest.approx(span / 2, abs=0.2)


@pytest.mark.parametrize(
    "values",
    [
        [1e-5, 1.0],
        [-1e-3, 0.0, 5e4, 1.0],
        [3.0],
        [0.0, 0.0],
        [-2.0, -1.0],
        [1e-9, 2e-9],
        [7.0, 7.0],
    ],
)
def test_any_values_are_drawn_within_the_picture(values):
    text = chart("t", [Line("", [Point(i, v, abs(v)) for i, v in enumerate(values)])], "x")
    places = re.findall(r"translate\(([\d.-]+) ([\d.-]+)\)' d", text)
    assert len(places) == len(values) and "nan" not in text and "inf" not in text
    assert all(0 <= float(x) <= 310 and 0 <= float(y) <= 212 for x, y in places)
    assert len(re.findall("class='end'", text)) >= 2


def test_what_was_not_finite_is_no_mark_and_nothing_is_said_to_be_not_measured():
    rows = log()
    rows[2]["metric/mmd2"], rows[3]["metric/mmd2"] = None, math.nan
    text = overview(MEASURED._replace(rows=rows), "mmd2", (), ("bound",), "vardiu")[0]
    assert text.count("class='mark'") == 3 + 1 + 2
    assert "not measured in this run" in chart("t", [Line("", [])], "x")


@pytest.mark.parametrize("value, text", [(20_000, "20k"), (0.25, "0.25"), (0.0, "0"), (3e6, "3M")])
def test_numbers_of_an_axis_are_short(value, text):
    assert number(value) == text


# ---------------------------------------------------------------- samples


def test_points_outside_of_the_teachers_reach_are_counted():
    near, far = np.random.default_rng(0).normal(size=(400, 2)), np.full((3, 2), 99.0)
    teacher, student = sample_panels([("a", "soft", near), ("b", "accent", far)])
    assert "(3 of 3 outside)" in student and "M" not in student.split("d='")[1][:1]
    assert len(re.findall(r"h0", teacher)) >= 390


def test_images_are_shown_as_they_are(tmp_path):
    import base64
    import io

    import matplotlib.image

    white = np.ones((7, 1, 8, 8))
    white[0] = -1
    (figure,) = sample_panels([("a", "soft", white)])
    (data,) = re.findall("base64,(.*?)'", figure)
    picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)))
    assert picture.shape == (18, 54, 4) and "pixels" in figure
    assert picture[:8, :8, :3].max() < 0.01 and picture[:8, 9:17, :3].min() > 0.99
    assert picture[9:17, 9:, 3].max() == 0  # two rows of six, of which one image is in the second


def test_teacher_and_student_are_drawn_from_the_same_latents():
    torch.set_default_dtype(torch.float32)
    problem = ToyProblem(student="one_step", classes=2)
    student = problem.networks.student()
    shown = beside_teacher(problem, student, 16)
    assert shown.same_latents and shown.teacher.shape == shown.student.shape == (16, 2)
    cond = problem.data.conditions(16, torch.Generator())
    z = student.latent(16, torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(student.eval()(z, **cond), shown.student)
    again = problem.data.teacher.solve_from(z, cond, 35)
    assert torch.allclose(again, shown.teacher)
    # Each near to one of the teacher's own modes of its class.
    assert float(shown.teacher.abs().sub(2.0).abs().max()) < 1.5


def test_a_student_of_other_latents_says_so():
    torch.set_default_dtype(torch.float32)
    problem = ToyProblem()
    student = problem.networks.student()
    student.latent_shape = (3,)
    student.latent = lambda n, generator=None: torch.zeros(n, 3)
    student.sample = lambda n, **options: torch.zeros(n, 2)
    assert not beside_teacher(problem, student, 4).same_latents


# ---------------------------------------------------------------- cures, tables


@pytest.mark.parametrize("method", sorted({row.method for row in PRESETS.values()}))
def test_every_cure_of_a_method_can_be_typed(method):
    """With one of its presets at least: an anchor's alarm is raised where there is an anchor."""
    presets = [name for name, row in PRESETS.items() if row.method == method]
    cures = cures_of(METHODS[method])

    def typed(preset, cure):
        before = parse_request("distill", [preset]).task
        page = ReportPage(before, None, None, "", True, print)
        (alarm,) = page.alarms([{"alarms": [{"cure": cure}]}])
        if not (options := alarm["options"]):
            return False
        task = parse_request("distill", [preset, *options]).task
        assert dataclasses.asdict(task.settings) != dataclasses.asdict(before.settings)
        return True

    assert any(typed(preset, cures["worsening"]) for preset in presets)
    for cure in cures.values():
        named = (cure_options(cure, dataclasses.asdict(PRESETS[p].settings)) for p in presets)
        assert any(typed(preset, cure) for preset in presets) or not any(named)


@pytest.mark.parametrize(
    "cure, options",
    [
        ("raise --batch or lower --lr", ["--batch", "512"]),
        ("start anew (--pairs.pairs), raise --levels.sigma-min", ["--levels.sigma-min", "0.2"]),
        ("more --pairs.pairs, or fewer --steps", ["--steps", "500"]),  # there were no pairs
        ("raise --fake-optimizer.lr", ["--fake-optimizer.lr", "0.002"]),  # as the student's
        ("take a tighter --posterior", []),
        ("raise --no.such-option", []),
    ],
)
def test_a_cure_changes_a_number_that_the_run_had(cure, options):
    settings = {"batch": 256, "lr": 1e-3, "steps": 1_000, "posterior": "gaussian"}
    settings |= {"pairs": {"pairs": 0}, "levels": {"sigma_min": 0.1}}
    settings |= {"fake_optimizer": {"lr": None}}
    assert cure_options(cure, settings) == options


def test_no_cure_is_an_option_that_does_nothing():
    settings = {"ratio": 2, "lr": 1e-3}
    cure = "raise --ratio, or lower --lr"
    assert cure_options(cure, settings) == ["--ratio", "4"]
    assert cure_options(cure, settings, lambda option: option == "--ratio") == ["--lr", "0.0005"]


def test_verdicts_have_their_colour_in_tables_and_metrics_their_names(tmp_path):
    rows = [
        {"run": "a", "mmd2": "0.1 ± 0.01", "verdict": "COLLAPSED"},
        {"run": "b", "verdict": "GOOD"},
    ]
    page = write_tables(tmp_path / "a.html", title="t", tables=[("x", rows)], pictures=[])
    text = page.read_text()
    assert "<td class='chip collapsed'>COLLAPSED" in text and "<td class='chip good'>GOOD" in text
    assert "<th>MMD^2</th>" in text


def test_a_legend_of_long_names_has_fewer_columns():
    """Four columns of 60 letters stood over both edges of a picture of eleven inches."""
    assert columns_of(["a" * 60, "b"], 11.0) == 2
    assert columns_of(["Progressive distillation (with data) (2 seeds)"], 11.0) == 3
    assert columns_of(["VarDiU, flow"], 11.0) == 4
    assert columns_of(["a" * 500], 11.0) == 1
