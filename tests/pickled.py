"""Pickles of the layout in which EDM and EDM2 were published, of networks of ours.

The modules that such pickles name, `torch_utils.persistence` and `dnnlib.util`, exist only while
one is written.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
from collections import OrderedDict
from types import ModuleType

import numpy as np
import torch
from torch import nn

SENTINEL_SOURCE = "import pathlib\npathlib.Path({path!r}).write_text('executed')\n"
NAMES = {"EDM2UNet": "UNet", "Conv": "Conv2d", "Block": "UNetBlock", "MPBlock": "Block"}


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the original loader must not run")


class EasyDict(dict):
    pass


class Persistent:
    """What reduces as the published networks do."""

    def __init__(self, class_name, state, source=""):
        self.meta = EasyDict(
            type="class", version=6, module_src=source, class_name=class_name, state=state
        )

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,)


@contextlib.contextmanager
def modules():
    """Installs the two modules, and takes them away again."""
    persistence, util = ModuleType("torch_utils.persistence"), ModuleType("dnnlib.util")
    for item, module in ((_reconstruct_persistent_obj, persistence), (EasyDict, util)):
        item.__module__ = module.__name__
        setattr(module, item.__name__, item)
    installed = {"torch_utils.persistence": persistence, "dnnlib.util": util}
    installed |= {"torch_utils": ModuleType("torch_utils"), "dnnlib": ModuleType("dnnlib")}
    sys.modules.update(installed)
    try:
        yield
    finally:
        for name in installed:
            del sys.modules[name]


def state_of(parameters, buffers, parts, **others):
    """The attributes of a module, as `torch.nn.Module` keeps them."""
    return {
        "training": False,
        "_parameters": OrderedDict(parameters),
        "_buffers": OrderedDict(buffers),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_modules": OrderedDict(parts),
        **others,
    }


def persistent(module, *, kwargs=None, source="", parts=None):
    """Returns a module, and all of its parts, as what is pickled like the published ones."""
    parts = dict(parts or {})
    for name, part in module._modules.items():
        if isinstance(part, nn.ModuleDict):
            container = nn.ModuleDict()
            container.__dict__["_modules"] = OrderedDict(
                (key, persistent(value, source=source)) for key, value in part.items()
            )
            parts[name] = container
        elif part is not None and not isinstance(part, nn.Identity):
            parts[name] = persistent(part, source=source)
    buffers = dict(module._buffers)
    parameters = dict(module._parameters)
    name = type(module).__name__
    state = state_of(
        parameters,
        buffers,
        parts,
        _init_args=(),
        _init_kwargs=EasyDict(kwargs or {}),
        skip_scale=np.sqrt(0.5),
        scale=np.ones(3, np.float32),
    )
    return Persistent(NAMES.get(name, name), state, source)


def preconditioned(class_name, network, *, source="", buffers=None, half=False, **kwargs):
    """Returns a network inside of a preconditioning of a class."""
    attribute = "unet" if class_name == "Precond" else "model"
    network = network.half() if half else network
    inner = persistent(
        network, kwargs={**network.arguments, "dropout": np.float64(0.13)}, source=source
    )
    parts = {attribute: inner}
    if class_name == "Precond":  # the head of the loss's weighting
        for name, tensor in (("logvar_fourier", "freqs"), ("logvar_linear", "weight")):
            parts[name] = Persistent("MP", state_of({}, {tensor: torch.randn(4)}, {}))
    outer = {
        "img_resolution": network.arguments["img_resolution"],
        "img_channels": kwargs.pop("img_channels", 3),
        "label_dim": network.arguments["label_dim"],
        "use_fp16": False,
        **kwargs,
    }
    state = state_of({}, buffers or {}, parts, _init_args=(), _init_kwargs=EasyDict(outer))
    return Persistent(class_name, state, source)


def write(path, contents, protocol=4):
    """Writes a dictionary of networks, among the other things that published files hold."""
    others = {
        "loss_fn": Persistent("EDMLoss", {"P_mean": -1.2, "_init_kwargs": EasyDict()}),
        "dataset_kwargs": EasyDict(path="data.zip", use_labels=False),
        "augment_pipe": None,
    }
    with modules(), path.open("wb") as file:
        pickle.dump({**contents, **others}, file, protocol)
    return path
