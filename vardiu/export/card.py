r"""Model cards: what a student is, what it is worth, where it comes from and how to load it.

Nothing is invented: what is not known is left out, or said to be not stated.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import yaml

from .. import __version__
from ..metrics.sets import judges, trained_warning
from ..nn.diffusers import DiffusersNetwork
from ..students.base import Generator
from ..students.few_step import FewStep, OneStep
from ..teachers.families import FAMILIES
from ..teachers.origin import Origin
from .diffusers import call_of, loaded_with
from .onnx import classes_of, conditions
from .peft import adapter_steps

__all__ = ["About", "write"]


DIFFUSERS = """```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{folder}"{loaded})
{made}
```"""


MADE = """image = pipeline({call}).images[0]
image.save("samples.png")"""


MADE_VIDEO = """frames = pipeline({call}).frames[0]
frames[0].save("samples.png", save_all=True, append_images=frames[1:])"""


ONNX = """```python
import numpy
import onnxruntime
{imports}

session = onnxruntime.InferenceSession("{folder}/model.onnx")
z = numpy.random.default_rng(0).standard_normal({latent}, dtype=numpy.float32)
{values}(x,) = session.run(["x"], {{"z": z{named}}})
{picture}
```"""


SAFETENSORS = """```python
{imports}
from vardiu import models

student = models.load("{folder}")
{values}x = student.sample({n}{given}).detach().numpy()
{picture}
```"""


RESTORING = """```python
from vardiu import models
from vardiu.data.degradations import enlarged

student = models.load("{folder}")
x = student(enlarged(images, {factor}))  # images in [-1, 1], reduced {factor} times
```

Of photographs of any size: `vardiu upscale RUN IMAGE ...`."""


# On the teacher's own network, wherever its folder has that.
LORA = """```python
{imports}
from peft import PeftModel
from vardiu.nn.diffusers import DiffusersNetwork
from vardiu.teachers.readers import load

teacher = load("TEACHER")
network = next(part for part in teacher.modules() if isinstance(part, DiffusersNetwork))
network.model = PeftModel.from_pretrained(network.model, "{folder}").merge_and_unload()
{drawn}```"""


# Its own levels and its own rule: the teacher, asked once or a few times.
DRAWN = """student = {cls}(teacher, {told})
{values}x = student.sample({n}{given}).detach().numpy()
{picture}
"""


# Of a student of texts. Its adapter has learned the guidance: the pipeline has none.
LORA_STEPS = """```python
from diffusers import DiffusionPipeline, {scheduler}

pipeline = DiffusionPipeline.from_pretrained("TEACHER")
pipeline.load_lora_weights("{folder}")
pipeline.scheduler = {scheduler}.from_pretrained("{folder}", subfolder="scheduler")
{made}
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
        dataset: What the student was measured against.
    """

    name: str
    method: str
    result: Mapping[str, Any]
    provenance: Mapping[str, Any]
    bibtex: str
    picture: Path | None = None
    dataset: str = ""


def _call(student: Generator, origin: Origin | None) -> str:
    network = "" if origin is None else origin.about.get("network", "")
    given = ["class_labels=0"] if student.conditions else []
    if "text" in student.conditions:
        given = ['"a prompt"']
    elif network.startswith("DiT"):
        given = ["class_labels=[0]"]
    # Square images of a square student are the same whatever table of sizes is looked in.
    told = {n: v for n, v in call_of(student, origin).items() if n != "use_resolution_binning"}
    return ", ".join([*given, *(f"{name}={value}" for name, value in told.items())])


# How many samples the lines of a card make.
ROWS = 4


# Of samples x in numpy: a picture file.
IMAGES = """rows = (255 * (x / 2 + 0.5).clip(0, 1)).round().astype("uint8").transpose(0, 2, 3, 1)
Image.fromarray(numpy.concatenate(list(rows), axis=1){squeezed}).save("samples.png")"""


LATENTS = """codec = {codec}.from_pretrained(  # the teacher's
    "TEACHER", subfolder="{place}", {variant}torch_dtype=torch.float32
)
latents = torch.from_numpy(x) / {scale} + {shift}
x = codec.decode(latents).sample.detach().numpy()
"""


POINTS = """pyplot.plot(*x.reshape(len(x), -1)[:, :2].T, ".")
pyplot.savefig("samples.png")"""


# Conditions of prompts, by the one encoder of a family and its last states.
TEXTS = """tokenizer = AutoTokenizer.from_pretrained("TEACHER", subfolder="{tokenizer}")
encoder = {cls}.from_pretrained(
    "TEACHER", subfolder="{part}", {variant}torch_dtype=torch.float32
)
tokens = tokenizer(
    ["a prompt"] * {n},
    padding="max_length",
    max_length={length},
    truncation=True,
    return_tensors="pt",
)
text = encoder({told}).last_hidden_state.detach()  # {shape}
mask = tokens.attention_mask
"""


def _texts(
    student: Generator, origin: Origin, shape: tuple[int, ...], tensors: bool
) -> tuple[list[str], str]:
    r"""Returns the imports and the lines that encode prompts as the teacher does; nothing where
    more than the last states of one encoder is to be told."""
    family = FAMILIES.get(origin.about.get("pipeline", ""))
    if family is None or len(family.encoders) != 1 or family.instructed:
        return [], ""
    (row,) = family.encoders
    if row.states != -1 or row.blank or row.pooled or set(student.conditions) - {"text", "mask"}:
        return [], ""
    variant = origin.about.get("codec_variant")
    lines = TEXTS.format(
        tokenizer=row.tokenizer,
        cls=row.classes[0],
        part=row.part,
        variant=f'variant="{variant}", ' if variant else "",
        n=ROWS,
        length=shape[1],
        told="tokens.input_ids" + (", tokens.attention_mask" if row.masked else ""),
        shape=shape,
    )
    if not tensors:
        lines += "text, mask = text.numpy(), mask.numpy()\n"
    return ["import torch", f"from transformers import AutoTokenizer, {row.classes[0]}"], lines


def _picture(student: Generator, origin: Origin | None) -> tuple[list[str], str]:
    r"""Returns the imports and the lines that make `samples.png` of samples `x`."""
    about = {} if origin is None else origin.about
    if len(student.shape) == 4:
        return ["import numpy"], 'numpy.save("samples.npy", x)'
    if len(student.shape) != 3:
        return ["from matplotlib import pyplot"], POINTS
    imports, lines, channels = ["import numpy", "from PIL import Image"], "", student.shape[0]
    if "codec" in about:  # the teacher is not read for it
        ends = ("", "_place", "_scale", "_shift")
        codec, place, scale, shift = (about[f"codec{end}"] for end in ends)
        imports += ["import torch", f"from diffusers import {codec}"]
        variant = f'variant="{name}", ' if (name := about.get("codec_variant")) else ""
        told = {"codec": codec, "place": place, "variant": variant, "scale": scale, "shift": shift}
        lines = LATENTS.format(**told)
        channels = 3
    if channels not in (1, 3):
        return ["import numpy"], 'numpy.save("samples.npy", x)'
    squeezed = "[..., 0]" if channels == 1 else ""
    return imports, lines + IMAGES.format(squeezed=squeezed)


def _values(student: Generator, origin: Origin | None, tensors: bool) -> tuple[list[str], str]:
    r"""Returns the imports and the lines that give a student's conditions their values."""
    imports, lines = ["import torch"] if tensors else [], []
    if "text" in student.conditions and origin is not None and origin.encode is not None:
        shape = tuple(conditions(student, ROWS, origin)["text"].shape)
        needed, encoded = _texts(student, origin, shape, tensors)
        if encoded:
            return [*imports, *needed], encoded
    for name in student.conditions:
        if name == "label":
            library, classes = "torch" if tensors else "numpy", classes_of(student, origin)
            # Of fewer classes than rows, each in its turn.
            turns = f" % {classes}" if classes < ROWS else ""
            lines.append(f"label = {library}.arange({ROWS}){turns}")
        elif origin is not None and origin.encode is not None:
            shape = tuple(conditions(student, ROWS, origin)[name].shape)
            kind = "numpy.int64" if name == "mask" else "numpy.float32"
            value = f"numpy.ones({shape}, dtype={kind})"
            value = f"torch.from_numpy({value})" if tensors else value
            imports.append("import numpy")
            lines.append(f"{name} = {value}  # the teacher's encoder gives that of a prompt")
    return imports, "".join(f"{line}\n" for line in lines)


def asks_teacher(student: Generator) -> TypeGuard[OneStep | FewStep]:
    r"""Whether a student is its teacher's own denoiser with other weights, asked once or a few
    times, with nothing between."""
    if not isinstance(student, OneStep | FewStep):
        return False
    return isinstance(getattr(student.denoiser, "network", None), DiffusersNetwork)


def _usage(template: str, student: Generator, origin: Origin | None) -> str:
    video = len(student.shape) == 4
    steps = adapter_steps(student, origin) if template == LORA else None
    if steps is not None:
        told = "".join(f", {name}={value}" for name, value in steps.call.items())
        made = (MADE_VIDEO if video else MADE).format(call=f'"a prompt"{told}')
        name = type(steps.scheduler).__name__
        return LORA_STEPS.format(folder="FOLDER", scheduler=name, made=made)
    if not student.draws:
        return RESTORING.format(folder="FOLDER", factor=getattr(student, "factor", 1))
    tensors = template in (SAFETENSORS, LORA)
    shown, picture = _picture(student, origin)
    needed, values = _values(student, origin, tensors)
    known = {"import numpy"} if template == ONNX else set()
    words = sorted({*shown, *needed} - known, key=lambda line: (line.startswith("from"), line))
    made, loaded, drawn = "", {}, ""
    given = "".join(f", {name}={name}" for name in student.conditions)
    if template == LORA and asks_teacher(student):
        words.append(f"from vardiu import {type(student).__name__}")
        drawn = DRAWN.format(
            cls=type(student).__name__,
            told=", ".join(f"{name}={value!r}" for name, value in student.arguments.items()),
            values=values,
            n=ROWS,
            given=given,
            picture=picture,
        )
    if template == DIFFUSERS:
        loaded = {n: v for n, v in loaded_with(student, origin).items() if v is None}
        lines = MADE_VIDEO if video else MADE
        made = lines.format(call=_call(student, origin))
    return template.format(
        folder="FOLDER",
        made=made,
        loaded="".join(f", {n}={v}" for n, v in loaded.items()),
        latent=(ROWS, *student.latent_shape),
        n=ROWS,
        imports="\n".join(words),
        drawn=drawn,
        values=values,
        picture=picture,
        named="".join(f', "{name}": {name}' for name in student.conditions),
        given=given,
    )


LIBRARIES = {"diffusers": "diffusers", "onnx": "onnx", "lora": "peft"}


def _task(student: Generator) -> str:
    if not student.draws:
        return "image-to-image"
    if len(student.shape) != 3:
        return "other"
    return "text-to-image" if "text" in student.conditions else "unconditional-image-generation"


def _front(
    about: About | None, origin: Origin | None, student: Generator, to: str
) -> dict[str, Any]:
    licence = None if origin is None else origin.licence
    few = "one" if student.calls == 1 else "few"
    front: dict[str, Any] = {
        "library_name": LIBRARIES.get(to, "vardiu"),
        "tags": ["diffusion-distillation", f"{few}-step-generation", "vardiu"],
        "license": licence or "other",
    }
    if licence is None:
        front["license_name"] = "not-stated"
    rows = [] if about is None else about.result.get("metrics", ())
    rows = [row for row in rows if judges(row.get("features", ""))]
    if about is not None and rows:
        # The hub's reader wants a task and a dataset of every result.
        dataset = about.dataset or "not stated"
        result = {
            "task": {"type": _task(student)},
            "dataset": {"type": re.sub(r"[^\w.-]+", "-", dataset).strip("-"), "name": dataset},
            "metrics": [{"type": m["name"], "value": m["value"], "name": m["name"]} for m in rows],
        }
        front["model-index"] = [{"name": about.name, "results": [result]}]
    return front


def _metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return ["Its samples were not measured."]
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


def _teacher(origin: Origin | None) -> list[str]:
    r"""Returns where the teacher is from, at which revision, and under which licence."""
    source = "not stated" if origin is None else origin.source
    if origin is not None and "revision" in origin.about:
        source += f"`, revision `{origin.about['revision']}"
    licence = None if origin is None else origin.licence
    return [f"- teacher: `{source}`", f"- licence of the teacher: {licence or 'not stated'}"]


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
    front = yaml.safe_dump(_front(about, origin, student, to), sort_keys=False)
    name = f"A student of {student.words}" if about is None else about.name
    lines = ["---", front.strip(), "---", "", f"# {name}", ""]
    method = "" if about is None else f" by {about.method}"
    lines += [f"It was distilled{method} with vardiu {__version__}.", ""]
    lines += [f"A sample takes {student.words} of the network.", ""]
    if about is not None and about.picture is not None and about.picture.is_file():
        shutil.copyfile(about.picture, folder / "samples.png")
        lines += ["![Samples](samples.png)", ""]
    lines += ["## Use", "", _usage(usage, student, origin), ""]
    shape = "x".join(map(str, student.latent_shape))
    latent = f"The latent is standard normal, of shape {shape}; it" if shape else "It"
    latent = latent if student.draws else f"Its input is a degraded image, of shape {shape}; it"
    lines += [f"{latent} computes in float32.", ""]
    lines += [
        f"Loaded again and compared when it was written: its samples differ from the student's by "
        f"at most {difference:.1e}.",
        "",
    ]
    if about is not None:
        lines += ["## Measured", "", *_metrics(about.result.get("metrics", ())), ""]
        warning = trained_warning(about.result.get("trained_on", ""))
        lines += [f"**{warning}**", ""] if warning else []
        lines += _cost(about.result.get("cost", {}))
    lines += ["## Origin", ""]
    lines += _teacher(origin)
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
