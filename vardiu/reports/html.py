r"""A run as one HTML file, with its pictures inside; it opens offline."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..errors import with_error
from ..metrics.metric import title_of
from ..storage.files import write_text_atomic
from ..storage.run_folder import RunFolder
from .colours import css_variables
from .panels import embedded

__all__ = ["FirstScreen", "write_report", "write_tables"]


# How to read the panels of the curves, a line each; see docs/usage/converging.md.
READING = {
    "bound": "falls at every level; what is left is divergence and the posterior's slack together",
    "trust": "the student's distance from its anchor, in nats; it bounds the slack of the bound",
    "trust_quantile": "the same at levels of training",
    "fake_error_anchor_quantile": "the fake's error on what it is trained on",
    "fake_error_student_quantile": "the fake's error on what it judges: near that on the anchor's",
    "posterior_gap_quantile": "about zero, in nats; above, the posterior is too narrow or lags",
    "gradient_snr": "falls towards zero as the student converges; bad if metrics are poor by then",
    "spread": "variance of the samples over the data's: near one",
    "offset": "how far the samples' mean is from the data's, in deviations of the data: near zero",
    "score_gap": "falls, at large levels first; one is what mean and variance alone give",
    "shares": "white in the map and one in the bars: each mode or class has its expected share",
    "metric": "the headline ones improve by more than their shaded standard errors",
    "grey, or dashed": "finished runs of the same preset: median, and range over seeds",
}


STYLE = resources.files("vardiu.reports").joinpath("style.css").read_text(encoding="utf-8")


def _page(title: str, parts: Sequence[str], methods: Sequence[str] = ()) -> str:
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}{css_variables(methods)}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


# The classes of verdicts, see the style.
CHIPS: Mapping[str, str] = {
    "GOOD": "good",
    "STILL IMPROVING": "improving",
    "STUCK": "stuck",
    "COLLAPSED": "collapsed",
    "NOT JUDGED": "unjudged",
}


def _verdict(name: str, sentence: str) -> str:
    words = f"<b>{html.escape(name)}</b>: {html.escape(sentence)}"
    return f"<p class='verdict {CHIPS.get(name, '')}'>{words}.</p>"


def _cell(name: str, value: Any) -> str:  # noqa: ANN401 (what rows hold)
    text = html.escape(f"{value:.4g}" if isinstance(value, float) else str(value))
    if name == "verdict":
        word = next((known for known in CHIPS if str(value).startswith(known)), "")
        return f"<td class='chip {CHIPS.get(word, '')}'>{text}</td>"
    is_number = isinstance(value, int | float) or str(value)[:1] in "-–+0123456789"
    kind = "number" if is_number else "text" if len(text) > 25 else ""
    return f"<td class='{kind}'>{text}</td>"


def _folded(title: str, parts: Sequence[str]) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{''.join(parts)}</details>"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "<p class='soft'>nothing was measured</p>"
    names = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{html.escape(title_of(name))}</th>" for name in names)
    lines = ["".join(_cell(name, row.get(name, "")) for name in names) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<div class='scroll'><table><tr>{head}</tr>{body}</table></div>"


def _picture(caption: str, path: Path) -> str:
    image = embedded(Path(path).read_bytes(), caption)
    return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _code(text: str, kind: str = "") -> str:
    start = f"<pre class='{kind}'>" if kind else "<pre>"
    return f"{start}{html.escape(text)}</pre>"


class FirstScreen(NamedTuple):
    r"""What a report shows before anything is unfolded.

    Arguments:
        verdict: Its name and its sentence; `None` where nothing is judged.
        panels: Figures of samples.
        charts: Figures of curves.
        methods: The methods whose colours are used.
        note: A line below the samples.
    """

    verdict: tuple[str, str] | None = None
    panels: Sequence[str] = ()
    charts: Sequence[str] = ()
    methods: Sequence[str] = ()
    note: str = ""


EMPTY = FirstScreen()


def _warnings(
    run: RunFolder, settings: Mapping[str, Any], alarms: Sequence[Mapping[str, Any]] | None
) -> list[str]:
    if alarms is None:
        return []
    if not alarms:
        return ["<h2>Warnings</h2><p>No alarm was raised.</p>"]
    parts = ["<h2>Warnings</h2>"]
    for alarm in alarms:
        head = f"<b>{html.escape(alarm['name'])}</b>, since step {alarm['step']:,}"
        words = f"{head}: {html.escape(alarm['message'])}."
        cure = re.sub(r"--[a-z][\w.-]*\w", r"<code>\g<0></code>", html.escape(alarm["cure"]))
        options = alarm.get("options", ())
        again = _code(_again(run, settings, options), "copy") if options else ""
        parts.append(f"<div class='warning'><p>{words}</p><p>To try: {cure}.</p>{again}</div>")
    return parts


def _again(run: RunFolder, settings: Mapping[str, Any], options: Sequence[str] = ()) -> str:
    r"""Returns the command that does a run with these settings again, in another folder."""
    command, config = settings.get("command", "distill"), run.file("config.yaml")
    out = str(run.path.with_name(f"{run.path.name}-again"))
    codes = settings.get("code", {})
    own = [word for name, code in codes.items() for word in (f"--{name}", code["source"])]
    words = ["vardiu", command, *own, "--config", str(config), "--out", out, *options]
    return shlex.join(words)


def _measured(
    metrics: Sequence[Mapping[str, Any]],
    reference: Sequence[Mapping[str, Any]],
    reference_name: str,
) -> str:
    known = {row["name"]: row for row in reference}
    rows = []
    for row in metrics:
        student = with_error(row["value"], row["error"])
        entry = {"metric": title_of(row["name"]), "student": student}
        if reference:
            other = known.get(row["name"])
            entry[reference_name] = "" if other is None else f"{other['value']:.4g}"
        better = {True: "higher", False: "lower", None: ""}[row["higher_is_better"]]
        entry |= {"n": row["n"], "better": better}
        about = [row["note"], row["features"]]
        about += [f"reference {row['reference']}"] if row["reference"] else []
        rows.append(entry | {"about": "; ".join(part for part in about if part)})
    return _table(rows)


def write_report(
    run: RunFolder,
    *,
    title: str,
    metrics: Sequence[Mapping[str, Any]],
    reference: Sequence[Mapping[str, Any]],
    reference_name: str,
    cost: Mapping[str, Any],
    pictures: Sequence[tuple[str, Path]],
    alarms: Sequence[Mapping[str, Any]] | None = None,
    first: FirstScreen = EMPTY,
) -> Path:
    r"""Writes `report.html` into a run's folder.

    Arguments:
        run: The run.
        title: The heading.
        metrics: Rows of the student's metrics, see `Metric.row`.
        reference: Rows of what the student is compared with.
        reference_name: Who that is, for instance "true samples".
        cost: What the run cost.
        pictures: Captions and PNG files, which are folded.
        alarms: What the instruments raised, with the `options` that may cure it; `None` where
            none looked.
        first: The first screen.
    """
    settings = run.config()
    here = shlex.quote(str(run.path))
    lines = [f"vardiu cite {here}", _again(run, settings)]
    if settings.get("command", "distill") == "distill":  # a teacher is not sampled by these
        lines = [f"vardiu sample {here} --num 64", f"vardiu evaluate {here}", *lines]
    provenance = run.file("provenance.json").read_text()
    reading = (f"<li><b>{name}</b>: {html.escape(text)}.</li>" for name, text in READING.items())
    costs = {name.replace("_", " "): value for name, value in cost.items()}
    parts = [
        "" if first.verdict is None else _verdict(*first.verdict),
        f"<div class='row samples'>{''.join(first.panels)}</div>" if first.panels else "",
        f"<p class='soft'>{html.escape(first.note)}</p>" if first.note else "",
        f"<div class='row'>{''.join(first.charts)}</div>" if first.charts else "",
        *_warnings(run, settings, alarms),
        "<h2>More</h2>",
        _folded("Measured", [_measured(metrics, reference, reference_name)]),
        _folded("Cost", [_table([costs])]),
        *(_folded(caption, [_picture(caption, path)]) for caption, path in pictures),
        _folded("How to read the curves", [f"<ul class='soft'>{''.join(reading)}</ul>"]),
        _folded("What next", [_code("\n".join(lines))]),
        _folded("Settings", [_code(yaml.safe_dump(settings, sort_keys=False))]),
        _folded("Provenance", [_code(json.dumps(json.loads(provenance), indent=2))]),
    ]
    return write_text_atomic(run.file("report.html"), _page(title, parts, first.methods))


def write_tables(
    path: str | Path,
    *,
    title: str,
    tables: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    pictures: Sequence[tuple[str, Path]],
    charts: Sequence[tuple[str, Sequence[str]]] = (),
    methods: Sequence[str] = (),
) -> Path:
    r"""Writes a page with titled tables, charts below them, and folded pictures.

    Arguments:
        path: The file.
        title: The heading.
        tables: Titles and rows; a column `verdict` has the colours of verdicts.
        pictures: Captions and PNG files.
        charts: Titles and figures.
        methods: The methods whose colours are used.
    """
    parts = []
    for name, rows in tables:
        parts += [f"<h2>{html.escape(name)}</h2>", _table(rows)]
    for name, figures in charts:
        parts += [f"<h2>{html.escape(name)}</h2>", f"<div class='row'>{''.join(figures)}</div>"]
    folded = [_folded(caption, [_picture(caption, picture)]) for caption, picture in pictures]
    return write_text_atomic(path, _page(title, [*parts, *folded], methods))
