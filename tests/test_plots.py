"""Pictures: what they show, and what they must not make up."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from vardiu.reports.comparisons import comparison
from vardiu.reports.curves import curves
from vardiu.reports.samples import scatter_grid


@pytest.fixture
def figures(monkeypatch):
    """The figures that were written, in order."""
    written = []
    real = Figure.savefig

    def savefig(self, *args, **kwargs):
        written.append(self)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return written


def test_samples_outside_the_frame_are_counted(tmp_path, figures):
    inside, some = np.zeros((5, 2)), np.array([[0, 0], [3, 0], [0, -3], [np.nan, 0]])
    scatter_grid([("a", inside), ("b", some)], None, 2.0, tmp_path / "a.png")
    assert [ax.get_title() for ax in figures[0].axes] == ["a", "b (3 outside)"]


def rows(start, end):
    return [{"seconds": i, "calls": 9 * i, "metric/x": 1 / i} for i in range(start, end + 1)]


def test_the_median_of_seeds_is_drawn_where_all_were_measured(tmp_path, figures):
    comparison([("a", rows(1, 8)), ("a", rows(2, 9))], ["metric/x"], tmp_path / "a.png")
    (line,) = figures[0].axes[0].lines
    x, y = line.get_data()
    assert x[0] == 2 and x[-1] == 8 and y[0] == 1 / 2 and y[-1] == 1 / 8


def test_seeds_with_nothing_in_common_are_drawn_apart(tmp_path, figures):
    comparison([("a", rows(1, 3)), ("a", rows(10, 12))], ["metric/x"], tmp_path / "a.png")
    ax = figures[0].axes[0]
    assert [list(line.get_xdata()) for line in ax.lines] == [[1, 2, 3], [10, 11, 12]]
    assert not ax.collections and len(ax.get_legend().texts) == 1


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
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="No space"):
        curves([], path)
    assert path.read_bytes() == before
