"""Small pipelines of every class that is read, with random weights, as stock diffusers saves them."""

import sys
from pathlib import Path

import diffusers
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import small  # noqa: E402
from small import scheduler, unet  # noqa: E402, F401


def pixels(path, prediction="epsilon", classes=10, schedule=None, **settings):
    schedule = schedule or scheduler(prediction, **settings)
    network = unet(classes)
    diffusers.ConsistencyModelPipeline(network, schedule).save_pretrained(path)
    return network, schedule


def stable(path, prediction="epsilon"):
    tokens = small.clip_tokenizer(Path(path) / "tokens")
    schedule = scheduler(prediction, **small.SCALED)
    parts = small.autoencoder(), small.clip(tokens), tokens, small.text_unet(), schedule
    pipeline = small.stable(*parts)
    pipeline.save_pretrained(path)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def dit(path):
    network = small.dit()
    # Fresh ones end in a layer of zeros: they would not tell one input from another.
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    diffusers.DiTPipeline(network, small.autoencoder(), scheduler()).save_pretrained(path)
    return network


def pixart(path):
    parts = small.t5_tokenizer(), small.t5(), small.autoencoder(), small.pixart(), scheduler()
    pipeline = diffusers.PixArtAlphaPipeline(*parts)
    pipeline.save_pretrained(path)
    return pipeline


def stir(network):
    """Gives a network random weights of every layer: fresh ones end in layers of zeros."""
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def call_less(patch, steps=4, data=True):
    """Has teachers be sampled in few steps, where how well is not the question.

    Arguments:
        patch: pytest's `MonkeyPatch`.
        steps: Their number.
        data: Whether their samples may stand for data so: no probe accepts a teacher by them.
    """
    from vardiu.problems.base import Data, Problem
    from vardiu.problems.sampled_teachers import SampledTeacher

    for function in (SampledTeacher.source, Data.teacher_source, Problem.teacher_source):
        patch.setattr(function, "__defaults__", (steps,))
    if data:
        patch.setattr("vardiu.problems.image_data.STEPS", steps)
