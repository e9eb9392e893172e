r"""A run as one HTML file, with its pictures inside; it opens offline."""

from __future__ import annotations

import base64
import html
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..storage.files import write_text_atomic
from ..storage.run_folder import RunFolder

__all__ = ["write_report", "write_tables"]


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
    "score_gap": "falls, at large levels first; one is what mean and variance alone give",
    "shares": "white in the map and one in the bars: each mode or class has its expected share",
    "metric": "the headline ones improve by more than their shaded standard errors",
    "grey, or dashed": "finished runs of the same preset: median, and range over seeds",
}


STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
} h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; margin: .5rem 0; width: 100%; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--line); }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1rem 0; } figure img { max-width: 100%; background: #fff; border-radius: 6px; }
figcaption, .soft { opacity: .75; font-size: .9rem; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; border-radius: 6px; }
.scroll { overflow-x: auto; }
"""


def _page(title: str, parts: Sequence[str]) -> str:
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "<p class='soft'>nothing was measured</p>"
    names = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = []
    for row in rows:
        cells = []
        for name in names:
            value = row.get(name, "")
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            kind = " class='number'" if isinstance(value, int | float) else ""
            cells.append(f"<td{kind}>{html.escape(text)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<div class='scroll'><table><tr>{head}</tr>{''.join(body)}</table></div>"


def _picture(caption: str, path: Path) -> str:
    data = base64.b64encode(Path(path).read_bytes()).decode()
    caption = html.escape(caption)
    return (
        f"<figure><img alt='{caption}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _convergence(alarms: Sequence[Mapping[str, Any]] | None) -> list[str]:
    if alarms is None:
        return []
    rows = [
        {
            "alarm": a["name"],
            "since step": a["step"],
            "measured": a["message"],
            "to try": a["cure"],
        }
        for a in alarms
    ]
    body = _table(rows) if rows else "<p>No alarm was raised.</p>"
    lines = (f"<li><b>{name}</b>: {html.escape(text)}.</li>" for name, text in READING.items())
    return ["<h2>Did it converge?</h2>", body, f"<ul class='soft'>{''.join(lines)}</ul>"]


def _code(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


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
) -> Path:
    r"""Writes `report.html` into a run's folder.

    Arguments:
        run: The run.
        title: The heading.
        metrics: Rows of the student's metrics, see `Metric.row`.
        reference: Rows of what the student is compared with.
        reference_name: Who that is, for instance "true samples".
        cost: What the run cost.
        pictures: Captions and PNG files.
        alarms: What the instruments raised; `None` where none looked.
    """
    known = {row["name"]: row for row in reference}
    rows = []
    for row in metrics:
        error = "" if row["error"] is None else f" ± {row['error']:.2g}"
        entry = {"metric": row["name"], "student": f"{row['value']:.4g}{error}"}
        if reference:
            other = known.get(row["name"])
            entry[reference_name] = "" if other is None else f"{other['value']:.4g}"
        better = {True: "higher", False: "lower", None: ""}[row["higher_is_better"]]
        entry |= {"n": row["n"], "better": better}
        about = [row["note"], row["features"]]
        about += [f"reference {row['reference']}"] if row["reference"] else []
        rows.append(entry | {"about": "; ".join(part for part in about if part)})
    settings = run.config()
    command = settings.get("command", "distill")
    here, config = shlex.quote(str(run.path)), shlex.quote(str(run.file("config.yaml")))
    lines = [f"cite {here}", f"{command} --config {config} --out another/folder"]
    if command == "distill":  # a teacher is not sampled or evaluated by these commands
        lines = [f"sample {here} --num 64", f"evaluate {here}", *lines]
    commands = "\n".join(f"vardiu {line}" for line in lines)
    provenance = run.file("provenance.json").read_text()
    parts = [
        *_convergence(alarms),
        "<h2>Measured</h2>",
        _table(rows),
        "<h2>Cost</h2>",
        _table([dict(cost)]),
        "<h2>Pictures</h2>",
        *(_picture(caption, path) for caption, path in pictures),
        "<h2>What next</h2>",
        _code(commands),
        "<h2>Settings</h2>",
        _code(yaml.safe_dump(settings, sort_keys=False)),
        "<h2>Provenance</h2>",
        _code(json.dumps(json.loads(provenance), indent=2)),
    ]
    return write_text_atomic(run.file("report.html"), _page(title, parts))


def write_tables(
    path: str | Path,
    *,
    title: str,
    tables: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    pictures: Sequence[tuple[str, Path]],
) -> Path:
    r"""Writes a page with titled tables and pictures below them."""
    parts = []
    for name, rows in tables:
        parts += [f"<h2>{html.escape(name)}</h2>", _table(rows)]
    parts += [_picture(caption, picture) for caption, picture in pictures]
    return write_text_atomic(path, _page(title, parts))
