r"""Networks of diffusers as modules of ours: one call, one way to pass conditions, saved by name.

`vardiu.nn.diffusers_calls` says how each class is called, and where it is tapped. Nothing is
imported by a name that is not in its table. The forward passes are not ours: here alone features
are read by hooks, which are registered for the one call.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, nearest, require
from .attention import again, wide_attention
from .diffusers_calls import CLASSES
from .recompute import Recomputing
from .taps import Features, Wrapper, ask_features, check_taps

__all__ = ["DiffusersNetwork", "Told", "with_entry"]


# The width of the embedding of a scale of guidance, as latent consistency models have it.
SCALE_WIDTH = 256


def _paths(model: nn.Module, stage: str) -> tuple[str, ...]:
    r"""Returns the paths of a stage's modules; none where the model has not got it."""
    found = getattr(model, stage)
    if isinstance(found, nn.ModuleList):
        return tuple(f"{stage}.{i}" for i in range(len(found)))
    return () if found is None else (stage,)


class DiffusersNetwork(nn.Module):
    r"""A network of diffusers, :math:`F(x_s, t, \ldots)`.

    What a network predicts beside the mean (a learned variance) is left out. Its taps are the
    outputs of its blocks under the names of their modules: `down_blocks.0`, ..., `mid_block`,
    `up_blocks.0`, ... of a U-Net, maps of shape `(B, C, H, W)`, and `transformer_blocks.0`, ...
    of a transformer, tokens of shape `(B, T, C)`, those of the sample. The bottleneck is
    `mid_block`, or the block in the middle (of a U-Net without a middle the last one that goes
    down).

    Arguments:
        name: The name of the class in diffusers, one of `CLASSES`.
        config: Its configuration.
        model: The network; a fresh one by default.

    Raises:
        ConfigError: The class is unknown, or diffusers is not installed.
    """

    def __init__(
        self, name: str, config: Mapping[str, Any], model: nn.Module | None = None
    ) -> None:
        super().__init__()
        if name not in CLASSES:
            raise ConfigError(
                f"networks of class {name!r} are not known; {nearest(name, CLASSES)}"
            )
        config = {key: value for key, value in config.items() if not key.startswith("_")}
        if model is None:
            model = getattr(require("diffusers", "hub"), name).from_config(config)
        self.name, self.model = name, model
        row = CLASSES[name]
        self.channels, self.conditions = row.channels(config), row.conditions(config)
        self.arguments: dict[str, Any] = {"name": name, "config": config}
        self.taps = tuple(path for stage in row.stages for path in _paths(model, stage))
        middles = _paths(model, row.middle)
        first = _paths(model, row.stages[0])
        self.bottleneck = middles[len(middles) // 2] if middles else first[-1]
        quiet(model)

    def forward(self, x: Tensor, time: Tensor, **cond: Tensor) -> Tensor:
        with wide_attention(x):
            return CLASSES[self.name].output(self.model, x, time, cond)[:, : self.channels]

    def with_number(self, name: str) -> DiffusersNetwork:
        r"""Returns a copy that is told a scale of guidance by the entry that stock pipelines know,
        and starts by not heeding it.

        Raises:
            TypeError: The class has no such entry, or the number is another one.
        """
        if name != "guidance" or self.name != "UNet2DConditionModel":
            raise TypeError(f"a {self.name} of diffusers cannot be told a number {name!r}")
        model: Any = self.model
        if model.config.time_cond_proj_dim is None:
            model = with_entry(model, SCALE_WIDTH)
        else:
            model = copy.deepcopy(model)
        return DiffusersNetwork(self.name, dict(model.config), model)

    def features(
        self, x: Tensor, time: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> Features:
        r"""Returns the output of a plain call, and the outputs of blocks by their paths.

        Raises:
            ValueError: There is no tap of a name in `at`.
        """
        check_taps(at, self.taps, self)
        with self._recorded(at) as kept:
            output = self(x, time, **cond)
        return output, {name: kept[name] for name in at}

    @contextlib.contextmanager
    def _recorded(self, at: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        r"""Gives a dictionary that the outputs of the named modules are put into meanwhile."""
        kept: dict[str, Tensor] = {}

        def recorder(name: str) -> Callable[[nn.Module, tuple, Any], None]:
            def record(module: nn.Module, inputs: tuple, output: Any) -> None:  # noqa: ANN401
                # A block that goes down gives its skip connections as well, one of two streams
                # the other one.
                tap = CLASSES[self.name].tap
                kept[name] = output[tap] if isinstance(output, tuple) else output

            return record

        hooks = [
            self.model.get_submodule(name).register_forward_hook(recorder(name)) for name in at
        ]
        try:
            yield kept
        finally:
            for hook in hooks:
                hook.remove()

    def enable_gradient_checkpointing(self, function: Callable[..., Any] | None = None) -> None:
        r"""Recomputes activations in the backward pass, see diffusers.

        Raises:
            ConfigError: The class of diffusers cannot.
        """
        if not isinstance(self.model, Recomputing):
            raise ConfigError(f"a {self.name} of diffusers cannot recompute its activations")
        self.model.enable_gradient_checkpointing(again if function is None else function)


class Told(Wrapper):
    r"""A network that is told :math:`k \log \sigma`; ours tell a quarter of the logarithm.

    Arguments:
        network: The network.
        factor: The factor :math:`4 k`.
        sign: What its output is multiplied by.
    """

    def __init__(self, network: nn.Module, factor: float, sign: float = 1.0) -> None:
        super().__init__()
        self.network, self.factor, self.sign = network, factor, sign
        self.arguments = {"factor": factor, "sign": sign}

    def forward(self, x: Tensor, c_noise: Tensor, **cond: Tensor) -> Tensor:
        return self.sign * self.network(x, self.factor * c_noise, **cond)

    def features(
        self, x: Tensor, c_noise: Tensor, at: Sequence[str] = (), **cond: Tensor
    ) -> Features:
        r"""Returns the output of a plain call, and the network's own features."""
        output, kept = ask_features(self.network, x, self.factor * c_noise, at, cond)
        return self.sign * output, kept


def with_entry(model: Any, width: int) -> Any:  # noqa: ANN401 (a model of diffusers)
    r"""Returns a copy of a network with the entry of a guidance embedding, of zero weight."""
    twin = type(model).from_config({**model.config, "time_cond_proj_dim": width})
    weights = model.state_dict()
    name = "time_embedding.cond_proj.weight"
    like = next(model.parameters())
    weights[name] = torch.zeros_like(twin.state_dict()[name])
    twin.load_state_dict(weights)
    return twin.to(like).train(model.training)


def quiet(model: nn.Module) -> None:
    r"""Sets every probability of dropout to zero: a loss must be a function of its draws.

    Dropped labels would teach a student the unconditional model now and then.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout_prob", None), float):
            vars(module)["dropout_prob"] = 0.0
