r"""Networks of diffusers as modules of ours: one call, one way to pass conditions, saved by name.

A table says how each class is called. Nothing is imported by a name that is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..errors import ConfigError, nearest, require
from .recompute import Recomputing

__all__ = ["CLASSES", "DiffusersNetwork", "Told"]


class Call(NamedTuple):
    r"""How a class is called, and the names of the conditions that it may take."""

    output: Callable[[nn.Module, Tensor, Tensor, Mapping[str, Tensor]], Tensor]
    conditions: Callable[[Mapping[str, Any]], tuple[str, ...]]


def _unet(model: nn.Module, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    return model(x, time, class_labels=cond.get("label"), return_dict=False)[0]


def _text_unet(model: nn.Module, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    words, label = cond["text"].to(x.dtype), cond.get("label")
    return model(x, time, words, class_labels=label, return_dict=False)[0]


def _dit(model: nn.Module, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    return model(x, timestep=time, class_labels=cond["label"], return_dict=False)[0]


def _pixart(model: nn.Module, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
    return model(
        x,
        encoder_hidden_states=cond["text"].to(x.dtype),
        timestep=time,
        encoder_attention_mask=cond["mask"].to(x.dtype),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        return_dict=False,
    )[0]


def _classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    return ("label",) if config.get("num_class_embeds") else ()


CLASSES: Mapping[str, Call] = {
    "UNet2DModel": Call(_unet, _classes),
    "UNet2DConditionModel": Call(_text_unet, lambda config: ("text", *_classes(config))),
    "DiTTransformer2DModel": Call(_dit, lambda config: ("label",)),
    "PixArtTransformer2DModel": Call(_pixart, lambda config: ("text", "mask")),
}


class DiffusersNetwork(nn.Module):
    r"""A network of diffusers, :math:`F(x_s, t, \ldots)`.

    What a network predicts beside the mean (a learned variance) is left out.

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
        self.channels = int(config["in_channels"])
        self.conditions = CLASSES[name].conditions(config)
        self.arguments: dict[str, Any] = {"name": name, "config": config}
        quiet(model)

    def forward(self, x: Tensor, time: Tensor, **cond: Tensor) -> Tensor:
        return CLASSES[self.name].output(self.model, x, time, cond)[:, : self.channels]

    def enable_gradient_checkpointing(self, function: Callable[..., Any] | None = None) -> None:
        r"""Recomputes activations in the backward pass, see diffusers.

        Raises:
            ConfigError: The class of diffusers cannot.
        """
        if not isinstance(self.model, Recomputing):
            raise ConfigError(f"a {self.name} of diffusers cannot recompute its activations")
        if function is None:
            self.model.enable_gradient_checkpointing()
        else:
            self.model.enable_gradient_checkpointing(function)


class Told(nn.Module):
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


def quiet(model: nn.Module) -> None:
    r"""Sets every probability of dropout to zero: a loss must be a function of its draws.

    Dropped labels would teach a student the unconditional model now and then.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout_prob", None), float):
            vars(module)["dropout_prob"] = 0.0
