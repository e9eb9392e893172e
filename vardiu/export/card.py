r"""Model cards: what a student is, what it is worth, where it comes from and how to load it.

Nothing is invented: what is not known is left out, or said to be not stated.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .. import __version__
from ..students.base import Generator
from ..teachers.origin import Origin

__all__ = ["About", "write"]


DIFFUSERS = """```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{folder}")
image = pipeline({call}).images[0]
```"""


ONNX = """```python
import numpy
import onnxruntime

session = onnxruntime.InferenceSession("{folder}/model.onnx")
z = numpy.random.default_rng(0).standard_normal({latent}, dtype=numpy.float32)
(x,) = session.run(["x"], {{"z": z{conditions}}})
```"""


SAFETENSORS = """```python
from vardiu import store

student = store.load("{folder}")
x = student.sample({n}{conditions})
```"""


LORA = """```python
from peft import PeftModel

network = PeftModel.from_pretrained(network, "{folder}")  # on the teacher's own network
```"""


class About(NamedTuple):
    r"""What a run knows of its student.

    Arguments:
        name: The name of the preset or of the run.
        method: The method's title.
        result: What `result.json` holds.
        provenance: What `provenance.json` holds.
        bibtex: The entries to cite.
        picture: A sample grid.
    """

    name: str
    method: str
    result: Mapping[str, Any]
    provenance: Mapping[str, Any]
    bibtex: str
    picture: Path | None = None


def _call(student: Generator, origin: Origin | None) -> str:
    network = "" if origin is None else origin.about.get("network", "")
    if "text" in student.conditions:
        extra = ", guidance_scale=1.0" if network.startswith("PixArt") else ""
        return f'"a prompt"{extra}'
    if network.startswith("DiT"):
        return "class_labels=[0], guidance_scale=1.0"
    return "class_labels=0" if student.conditions else ""


def _usage(template: str, student: Generator, origin: Origin | None) -> str:
    n = 4
    words = ", ".join(f'"{name}": {name}' for name in student.conditions)
    named = ", ".join(f"{name}={name}" for name in student.conditions)
    onnx = "{{" in template
    return template.format(
        folder="FOLDER",
        call=_call(student, origin),
        latent=(n, *student.latent_shape),
        n=n,
        conditions="" if not words else f", {words if onnx else named}",
    )


def _front(about: About | None, origin: Origin | None) -> dict[str, Any]:
    licence = None if origin is None else origin.licence
    front: dict[str, Any] = {
        "library_name": "vardiu",
        "tags": ["diffusion-distillation", "one-step-generation"],
        "license": licence or "other",
    }
    if licence is None:
        front["license_name"] = "not-stated"
    if about is not None:
        rows = [
            {"type": m["name"], "value": m["value"], "name": m["name"]}
            for m in about.result.get("metrics", ())
        ]
        results = [{"task": {"type": "unconditional-image-generation"}, "metrics": rows}]
        front["model-index"] = [{"name": about.name, "results": results}]
    return front


def _metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = ["| metric | value | standard error | n | features |", "|---|---|---|---|---|"]
    for row in rows:
        error = "" if row["error"] is None else f"{row['error']:.2g}"
        features = row.get("features", "")
        lines.append(f"| {row['name']} | {row['value']:.4g} | {error} | {row['n']} | {features} |")
    return lines


def _cost(cost: Mapping[str, Any]) -> list[str]:
    r"""Returns what the training took, as far as the run says."""
    parts = [
        f"{cost[key]:,.0f} {unit}"
        for key, unit in (
            ("seconds", "s"),
            ("student_updates", "updates"),
            ("teacher_rows", "rows of the teacher"),
        )
        if key in cost
    ]
    return [f"Training took {', '.join(parts)}.", ""] if parts else []


def write(
    folder: Path,
    student: Generator,
    to: str,
    usage: str,
    difference: float,
    origin: Origin | None,
    about: About | None,
) -> Path:
    r"""Writes `README.md`, with the metadata of a hub in front."""
    front = yaml.safe_dump(_front(about, origin), sort_keys=False)
    name = "A one-step student" if about is None else about.name
    lines = ["---", front.strip(), "---", "", f"# {name}", ""]
    calls = "one network call" if student.calls == 1 else f"{student.calls} network calls"
    method = "" if about is None else f" by {about.method}"
    lines += [f"A generator of {calls} a sample, distilled{method} with vardiu {__version__}.", ""]
    if about is not None and about.picture is not None and about.picture.is_file():
        shutil.copyfile(about.picture, folder / "samples.png")
        lines += ["![Samples](samples.png)", ""]
    lines += ["## Use", "", _usage(usage, student, origin), ""]
    shape = "x".join(map(str, student.latent_shape))
    lines += [f"The latent is standard normal, of shape {shape}; it computes in float32.", ""]
    lines += [
        f"Loaded again and compared when it was written: its samples differ from the student's by "
        f"at most {difference:.1e}.",
        "",
    ]
    if about is not None:
        lines += ["## Measured", "", *_metrics(about.result.get("metrics", ())), ""]
        lines += _cost(about.result.get("cost", {}))
    lines += ["## Origin", ""]
    source = "not stated" if origin is None else origin.source
    licence = None if origin is None else origin.licence
    lines += [f"- teacher: `{source}`", f"- licence of the teacher: {licence or 'not stated'}"]
    if about is not None:
        lines += [
            f"- command: `{' '.join(about.provenance.get('command', ()))}`",
            f"- versions: {json.dumps(about.provenance.get('versions', {}))}",
            f"- SHA-256: {json.dumps(about.provenance.get('sha256', {}))}",
            "",
            "## Citation",
            "",
            "```bibtex",
            about.bibtex,
            "```",
        ]
    lines += [
        "",
        "## Limits",
        "",
        "A student can at best make what its teacher makes, with its teacher's errors and biases. "
        "The numbers above hold for the stated features and sample counts alone.",
    ]
    path = folder / "README.md"
    path.write_text("\n".join(lines) + "\n")
    return path
