r"""A student as one ONNX graph, from latents and conditions to samples, of any batch.

What it computes is the student in single precision; sampling needs numpy and onnxruntime alone:

.. code-block:: python

    session = onnxruntime.InferenceSession("model.onnx")
    z = numpy.random.default_rng(0).standard_normal((n, *latent_shape), dtype=numpy.float32)
    (x,) = session.run(["x"], {"z": z, "label": labels})
"""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, require, require_installed
from ..students.base import Generator
from ..students.few_step import FewStep
from ..teachers.origin import Origin

__all__ = ["TOLERANCE", "classes_of", "conditions", "refuse_graph", "to_onnx"]


TOLERANCE = 1e-4


OPSET = 20


BATCHES = (1, 2, 7, 33)


# Protocol buffers hold no more; larger weights go to a file beside the graph.
LIMIT = 1_500_000_000


class Named(nn.Module):
    r"""A generator whose conditions are named, one argument each."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        for value in cond.values():
            # Or the exporter takes them for two numbers, whose quotient is a dimension of masks.
            torch._check(value.shape[0] == z.shape[0])
        return self.generator(z, **cond)


def classes_of(student: Generator, origin: Origin | None) -> int:
    r"""Returns the number of a student's classes, by its teacher or by its own networks; one where
    neither tells, as any student of classes has the first."""
    if origin is not None and origin.classes:
        return origin.classes
    told = [getattr(module, "arguments", {}) for module in student.modules()]
    counts = [each.get(name) or 0 for each in told for name in ("classes", "label_dim")]
    return max([1, *counts])


def conditions(student: Generator, n: int, origin: Origin | None) -> dict[str, Tensor]:
    r"""Returns conditions of so many rows: classes, or the embeddings of prompts; random ones of
    their shape where that is known, as a form is compared that takes any.

    Raises:
        ValueError: The student takes a text, and neither its encoder nor a shape is known.
    """
    if not student.conditions:
        return {}
    if "label" in student.conditions and len(student.conditions) == 1:
        return {"label": torch.arange(n) % min(2, classes_of(student, origin))}
    about = {} if origin is None else origin.about
    if shape := about.get("text_shape", ()):
        random = torch.Generator().manual_seed(n)
        wide = about.get("pooled_width", 0)
        given = {
            "text": torch.randn(n, *shape, generator=random, dtype=torch.float32),
            "mask": torch.ones(n, shape[0], dtype=torch.long),
            "pooled": torch.randn(n, wide, generator=random, dtype=torch.float32),
            "sizes": torch.tensor([about.get("sizes", ())] * n, dtype=torch.float32),
        }
        return {name: given[name] for name in student.conditions}
    if origin is None or origin.encode is None:
        raise ValueError(
            f"the student takes {list(student.conditions)}, and no encoder of texts is known: "
            "name the teacher with --teacher"
        )
    return origin.encode([f"picture {i}" for i in range(n)])


def refuse_graph(student: Generator, origin: Origin | None) -> None:
    r"""Raises a `ConfigError` or `ValueError` if a student cannot be written as a graph and
    compared, as far as that is known before its network is traced."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require_installed(name, "onnx")
    conditions(student, 1, origin)


def squeeze(x: Any, dim: int) -> Any:  # noqa: ANN401 (a value of the exporter's)
    r"""Squeezes what is one; else does nothing, as torch, where ONNX's own would be an error.

    PixArt's network squeezes its tokens.
    """
    from onnxscript import opset20 as op

    if x.shape is not None and x.shape[dim] != 1:
        return op.Identity(x)
    axes: Any = op.Constant(value_ints=[dim])  # declared as of any type that a constant can have
    return op.Squeeze(x, axes)


def facts(student: Generator) -> dict[str, str]:
    r"""Returns what a graph says of its student."""
    stepped = student.arguments if isinstance(student, FewStep) else {}
    return {
        "latent": "standard normal, shape " + json.dumps(list(student.latent_shape)),
        "conditions": json.dumps(list(student.conditions)),
        "calls": str(student.calls),
        **{name: json.dumps(value) for name, value in stepped.items()},
    }


def to_onnx(student: Generator, folder: Path, origin: Origin | None = None) -> float:
    r"""Writes `model.onnx`, runs it in onnxruntime, and compares its samples.

    Arguments:
        student: The student, in single precision.
        folder: Where to write.
        origin: What stood around the teacher, for the conditions of the comparison.

    Raises:
        ConfigError: The network cannot be traced, or the graph takes batches of one size alone.

    Returns:
        The largest difference of its samples from the student's own, over batches of 1 to 33.
    """
    refuse_graph(student, origin)
    onnx = require("onnx", "onnx")
    runtime = require("onnxruntime", "onnx")
    folder.mkdir(parents=True)
    z = torch.randn(3, *student.latent_shape, generator=torch.Generator().manual_seed(1))
    cond = conditions(student, 3, origin)
    batch = torch.export.Dim("batch", min=1, max=2**16)
    shapes = {"z": {0: batch}, "cond": {name: {0: batch} for name in cond}}
    large = sum(p.numel() for p in student.parameters()) * 4 > LIMIT
    path = folder / "model.onnx"
    network = Named(student).eval()
    try:
        with warnings.catch_warnings(), without_talk_of_torchvision(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter's own, of its own internals
            torch.onnx.export(
                network,
                (z,),
                str(path),
                kwargs={"cond": cond},
                input_names=["z", *cond],
                output_names=["x"],
                dynamic_shapes=shapes,
                custom_translation_table={torch.ops.aten.squeeze.dim: squeeze},
                opset_version=OPSET,
                dynamo=True,
                external_data=large,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise ConfigError(
            f"torch cannot trace this network as one graph of any batch ({cause}): change what it "
            "computes, or export it --to safetensors"
        ) from error
    if not large:
        model = onnx.load(str(path))
        onnx.helper.set_model_props(model, facts(student))
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    refuse_fixed_batch(session)
    return max(_difference(session, student, n, origin) for n in BATCHES)


@contextlib.contextmanager
def without_talk_of_torchvision() -> Iterator[None]:
    r"""Keeps four lines of the exporter's own log away: it asks for operations of torchvision,
    which no student has, and tells that they are not there. Its other lines are told."""

    def is_other(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("torchvision is not installed")

    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def refuse_fixed_batch(session: Any) -> None:  # noqa: ANN401
    r"""Raises a `ConfigError` if a graph takes batches of one size alone.

    The exporter of an older torch fixes the batch of some networks to that of the example (of
    2.11 that of PixArt's) and says nothing.
    """
    fixed = [i for i in session.get_inputs() if i.shape and isinstance(i.shape[0], int)]
    if fixed:
        raise ConfigError(
            f"torch {torch.__version__} made a graph whose {fixed[0].name} is of batches of "
            f"{fixed[0].shape[0]} alone: export it with a newer torch, 2.13 or later, or --to "
            "safetensors"
        )


@torch.no_grad()
def _difference(
    session: Any,  # noqa: ANN401
    student: Generator,
    n: int,
    origin: Origin | None,
) -> float:
    z = torch.randn(n, *student.latent_shape, generator=torch.Generator().manual_seed(n))
    cond = conditions(student, n, origin)
    wanted = {i.name for i in session.get_inputs()}
    given = {"z": z, **cond}
    (x,) = session.run(["x"], {k: v.numpy() for k, v in given.items() if k in wanted})
    return float((torch.from_numpy(x) - student(z, **cond)).abs().max())
