"""Pictures: what they show, and what they must not make up."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from vardiu.methods import METHODS
from vardiu.reports.colours import colour_of
from vardiu.reports.comparisons import Series, comparison, quality_charts
from vardiu.reports.curves import curves
from vardiu.reports.figures import panel_figure, save_figure
from vardiu.reports.samples import scatter_grid


@pytest.fixture
def figures(monkeypatch):
    """The figures that were written, in order."""
    written = []
    real = FigureCanvasAgg.print_png

    @functools.wraps(real)  # the parameters are looked up
    def print_png(self, *args, **kwargs):
        written.append(self.figure)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(FigureCanvasAgg, "print_png", print_png)
    return written


def test_samples_outside_the_frame_are_counted(tmp_path, figures):
    inside, some = np.zeros((5, 2)), np.array([[0, 0], [3, 0], [0, -3], [np.nan, 0]])
    scatter_grid([("a", inside), ("b", some)], None, 2.0, tmp_path / "a.png")
    assert [ax.get_title() for ax in figures[0].axes] == ["a", "b (3 outside)"]


def rows(start, end):
    return [{"seconds": i, "calls": 9 * i, "metric/x": 1 / i} for i in range(start, end + 1)]


def test_the_median_of_seeds_is_drawn_where_all_were_measured(tmp_path, figures):
    comparison(
        [Series("a", "m", rows(1, 8)), Series("a", "m", rows(2, 9))],
        ["metric/x"],
        tmp_path / "a.png",
    )
    (line,) = figures[0].axes[0].lines
    x, y = line.get_data()
    assert x[0] == 2 and x[-1] == 8 and y[0] == 1 / 2 and y[-1] == 1 / 8


def test_seeds_with_nothing_in_common_are_drawn_apart(tmp_path, figures):
    comparison(
        [Series("a", "m", rows(1, 3)), Series("a", "m", rows(10, 12))],
        ["metric/x"],
        tmp_path / "a.png",
    )
    ax = figures[0].axes[0]
    assert [list(line.get_xdata()) for line in ax.lines] == [[1, 2, 3], [10, 11, 12]]
    assert not ax.collections and len(ax.get_legend().texts) == 1


def test_what_pairs_took_is_drawn_before_the_first_update(tmp_path, figures):
    """A log of five seconds and 45 calls, in two stages, of a run that took 15 and 1,045."""
    log = [row | {"stage": stage} for stage in "pb" for row in rows(1, 3)][:5]
    run = Series("a", "m", log, {"seconds": 15.0, "teacher_calls": 1_045})
    comparison([run], ["metric/x"], tmp_path / "a.png")
    seconds, calls = (list(ax.lines[0].get_xdata()) for ax in figures[0].axes)
    assert seconds == [11, 12, 13, 14, 15]
    assert calls == [1_009, 1_018, 1_027, 1_036, 1_045]
    (_, drawn), (_, bare) = (quality_charts([one], "x") for one in (run, run._replace(cost=None)))
    assert drawn != bare
    assert [row["calls"] for row in run._replace(cost=None).whole().rows] == [9, 18, 27, 36, 45]


@pytest.mark.parametrize("last, scale", [(8, "linear"), (30, "log")])
def test_an_axis_is_logarithmic_where_values_differ_by_more_than_an_order(
    tmp_path, figures, last, scale
):
    """`rows` are 1, 1/2, ... 1/last."""
    comparison([Series("a", "m", rows(1, last))], ["metric/x"], tmp_path / "a.png")
    assert figures[0].axes[0].get_yscale() == scale


def test_every_method_has_one_colour_and_its_series_differ_in_dashes_and_marks(tmp_path, figures):
    runs = [
        Series("bound", "vardiu", rows(1, 3)),
        Series("theirs", "diff_instruct", rows(1, 3)),
        Series("bound, four particles", "vardiu", rows(1, 3)),
        Series("a stranger's", "fancy", rows(1, 3)),
    ]
    comparison(runs, ["metric/x"], tmp_path / "a.png")
    first, other, second, stranger = figures[0].axes[0].lines
    assert first.get_color() == second.get_color() == colour_of("vardiu").light
    assert first.get_linestyle() != second.get_linestyle()
    assert first.get_marker() != second.get_marker()
    assert other.get_color() == colour_of("diff_instruct").light != first.get_color()
    assert stranger.get_color() == colour_of("fancy").light


def test_methods_on_board_have_colours_that_no_other_method_takes():
    table = [colour_of(method) for method in METHODS]
    assert len(set(table)) == len(METHODS)
    assert not set(table) & {colour_of(f"stranger_{i}") for i in range(50)}
    assert len({colour_of(f"stranger_{i}") for i in range(50)}) > 4


@pytest.mark.parametrize("ground, side", [("#FFFFFF", "light"), ("#15181C", "dark")])
def test_colours_stand_out_on_their_ground(ground, side):
    """The contrast that WCAG 2.1 asks of graphics: three to one."""
    names = [*METHODS, *(f"stranger_{i}" for i in range(50))]
    for colour in {getattr(colour_of(name), side) for name in names}:
        bright, dim = sorted((luminance(colour), luminance(ground)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) > 3, colour


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_curves_leave_out_what_was_not_finite_and_draw_errors(tmp_path, figures):
    log = [
        {"updates": 1, "a/loss": 1.0, "metric/x": 2.0, "metric/x_error": 0.5},
        {"updates": 2, "a/loss": None, "nonfinite": ["a/loss"]},
        {"updates": 3, "a/loss": 3.0, "metric/x": 1.0, "metric/x_error": 0.25},
    ]
    curves(log, tmp_path / "a.png")
    loss, metric = figures[0].axes
    assert list(loss.lines[0].get_xdata()) == [1, 3]
    edge = metric.collections[0].get_paths()[0].vertices
    assert edge[:, 1].min() == 0.75 and edge[:, 1].max() == 2.5


def test_a_failed_picture_leaves_the_old_one(tmp_path, monkeypatch):
    path = curves([{"updates": 1, "a": 1.0}], tmp_path / "a.png")
    before = path.read_bytes()

    def fail(self, file, **kwargs):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FigureCanvasAgg, "print_png", fail)
    with pytest.raises(OSError, match="No space"):
        curves([], path)
    assert path.read_bytes() == before


def test_labels_of_a_panel_leave_its_neighbours_alone(tmp_path, monkeypatch):
    """The margins are fixed: a layout that looks for them takes longer than the drawing."""
    kept = []
    monkeypatch.setattr(
        "vardiu.reports.curves.save_figure", lambda figure, path: kept.append(figure)
    )
    sizes = {"small": 1.234e-5, "large": -12_345.678, "wide": 1e7, "usual": 0.0625, "one": 1.0}
    rows = [
        {"step": i, "updates": 1000 * i, "seconds": 0.1 * i, "stage": "a"}
        | {f"metric/{name}": size * (1 + i / 50) for name, size in sizes.items()}
        | {"spread": 10.0 ** (-i)}
        for i in range(1, 9)
    ]
    curves(rows, tmp_path / "curves.png", ["small", "large", "wide"])
    (figure,) = kept
    FigureCanvasAgg(figure).draw()
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    assert len(boxes) == 9
    assert not any(first.overlaps(second) for i, first in enumerate(boxes) for second in boxes[:i])
    assert all(figure.bbox.contains(*box.min) and figure.bbox.contains(*box.max) for box in boxes)


@pytest.mark.parametrize("cut", [False, True])
def test_a_figure_without_margins_to_cut_is_drawn_once(tmp_path, monkeypatch, cut):
    drawn, draw = [], Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda *given: drawn.append(1) or draw(*given))
    figure = panel_figure(2, 1)
    figure.add_subplot(1, 2, 1).plot([1, 2])
    save_figure(figure, tmp_path / "x.png", cut=cut)
    side = Image.open(tmp_path / "x.png").size
    assert (side == (1104, 372), len(drawn) > 1) == (not cut, cut)
