r"""The frame that a student and its posterior start from: artefacts of a run."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import ConfigError
from ..functional.tensors import sent
from ..posteriors.framed import PairFrame
from ..settings.fields import FrameSettings
from ..students.base import Generator, rows_at_once
from ..students.framed import Frame, Framed
from ..training.stage import Context

if TYPE_CHECKING:
    from ..problems.base import Problem

__all__ = ["fitted_frame", "make_frame", "pair_frame"]


def make_frame(problem: Problem, row: FrameSettings, context: Context) -> Frame:
    r"""Returns a frame of the teacher's own samples: an artefact of the run."""
    description = {
        "made": "a frame of the teacher's samples",
        **problem.hashes(),
        **dataclasses.asdict(row),
        "seed": context.seed,
    }

    def fit(portion: int) -> dict[str, Tensor]:
        samples = problem.data.frame_samples(row, context.seed)
        return fitted_frame(row, samples, context.seed).state_dict()

    return Frame.from_state(context.artefacts.get("frame", description, 1, fit))


def fitted_frame(row: FrameSettings, samples: Mapping[str, Tensor], seed: int) -> Frame:
    r"""Returns the frame of samples, see `Data.frame_samples`.

    Raises:
        ValueError: A class has too few samples.
    """
    x, label = samples["x"], samples.get("label")
    classes = 1 if label is None else int(label.max()) + 1
    return Frame(classes, row.clusters, x[0].numel(), row.components).fit(x, label, seed)


def pair_frame(problem: Problem, student: Framed, row: FrameSettings, context: Context) -> Frame:
    r"""Returns the model that the posterior starts from: the frame, or one of the student's own
    samples as it starts, which is an artefact of the run.

    Raises:
        ConfigError: A cluster has too few pairs.
    """
    frame = student.frame
    if not row.of_student:
        return frame
    description = {
        "made": "a model of the student's pairs",
        **problem.hashes(),
        **dataclasses.asdict(row),
        "seed": context.seed,
    }

    def fit(portion: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(context.seed + 78)
        cond = problem.data.conditions(row.samples, random)
        # The frame is on the host, and so is the fit; a student's latents are where its weights
        # are, and those of a teacher may be on a card.
        z = student.latent(row.samples, random).to(frame.weights.device)
        # Clusters equally often, as a light one needs as many pairs as a heavy one.
        label = frame.labels(z, cond.get("label"))
        at = torch.arange(row.samples, device=z.device) // len(frame.weights) % frame.clusters
        share = frame.weights[label].gather(1, at[:, None]).squeeze(1)
        low = frame.weights[label].cumsum(1).gather(1, at[:, None]).squeeze(1) - share
        place = low + share * torch.special.ndtr(z[:, -1])
        z[:, -1] = torch.special.ndtri(place.clamp(1e-6, 1 - 1e-6))
        try:
            x = in_batches(student, z, cond, context.device)
            return PairFrame.of_pairs(frame, z, x, cond.get("label")).state_dict()
        except ValueError as error:
            raise ConfigError(str(error)) from error

    return PairFrame.from_state(context.artefacts.get("pair frame", description, 1, fit))


@torch.no_grad()
def in_batches(
    student: Generator, z: Tensor, cond: Mapping[str, Tensor], device: torch.device | str
) -> Tensor:
    r"""Returns the samples of given latents where these are, made some at a time on a device.

    A student that starts from a teacher on a card lies half there and half on the host: a copy of
    it is asked.
    """
    size, there = rows_at_once(student.shape), copy.deepcopy(student).to(device)
    parts = []
    for i in range(0, len(z), size):
        rows = {name: sent(value[i : i + size], device) for name, value in cond.items()}
        parts.append(there(sent(z[i : i + size], device), **rows).to(z.device))
    return torch.cat(parts)
