"""Attention in bfloat16 on a processor: float32 where gradients are asked for, and nothing else."""

from __future__ import annotations

import pytest
import small
import torch
from torch import nn

from vardiu.nn import Precision, UNet
from vardiu.nn.attention import AttentionBy, attention, wide_attention
from vardiu.nn.diffusers import DiffusersNetwork


@pytest.fixture
def asked(monkeypatch) -> list[torch.dtype]:
    """The types that torch's attention computes in, a call each."""
    found, real = [], nn.functional.scaled_dot_product_attention

    def spy(query, *args, **kwargs):
        kind = query.device.type
        narrow = torch.is_autocast_enabled(kind)
        found.append(torch.get_autocast_dtype(kind) if narrow else query.dtype)
        return real(query, *args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    return found


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.manual_seed(0), dtype=torch.float32)


def parts() -> list[torch.Tensor]:
    return [part.requires_grad_() for part in drawn(3, 2, 4, 16, 8)]


def test_it_is_computed_in_float32_where_a_gradient_may_be_asked_for(asked):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = attention(*parts())
        with torch.no_grad():
            plain = attention(*parts())
    assert asked == [torch.float32, torch.bfloat16]
    assert y.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(y, plain, rtol=0.02, atol=0.02)


def test_its_gradient_is_that_of_float32():
    """Rounded once, on the way out, in place of in every product."""
    narrow, exact = parts(), parts()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attention(*narrow).float().square().sum().backward()
    y = nn.functional.scaled_dot_product_attention(*exact)
    y.backward(2 * y.detach().bfloat16().float())
    for mine, its in zip(narrow, exact, strict=True):
        torch.testing.assert_close(mine.grad, its.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_types_are_left_alone(asked, dtype):
    y = attention(*(part.detach().to(dtype).requires_grad_() for part in parts()))
    assert asked == [dtype] and y.dtype == dtype


def test_autocast_leaves_float64_as_it_is():
    double = [part.detach().double().requires_grad_() for part in parts()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attention(*double).dtype == torch.float64


def test_tensors_that_are_narrow_themselves_and_a_mask_are_widened(asked):
    half = [part.detach().bfloat16().requires_grad_() for part in parts()]
    mask = drawn(16, 16).bfloat16()
    y = attention(*half, mask, is_causal=False)
    named = attention(*half, attn_mask=mask)
    assert asked == [torch.float32] * 2 and y.dtype == torch.bfloat16
    torch.testing.assert_close(y, named, rtol=0, atol=0)
    wide = nn.functional.scaled_dot_product_attention(
        *(part.float() for part in half), mask.float()
    )
    torch.testing.assert_close(y, wide.bfloat16(), rtol=0, atol=0)


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    model = small.unet(0, 3)
    return {
        "ours": UNet(3, widths=(8, 16)),
        "diffusers": DiffusersNetwork("UNet2DModel", dict(model.config), model),
    }


def gradients(network: nn.Module) -> list[torch.Tensor]:
    network.zero_grad()
    x, time = drawn(4, 3, 8, 8), torch.full((4,), 0.5)
    Precision(network, "bfloat16")(x, time).square().sum().backward()
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", ["ours", "diffusers"])
def test_networks_train_by_it_and_sample_without(name, monkeypatch):
    """Of diffusers' the calls are seen from within: its processors know torch's function."""
    network, found = networks()[name], []
    import vardiu.nn.attention as house
    import vardiu.nn.unet as unet

    def spy(query, *args, **kwargs):
        found.append(torch.is_grad_enabled())
        return attention(query, *args, **kwargs)

    monkeypatch.setattr(house, "attention", spy)
    monkeypatch.setattr(unet, "attention", spy)
    assert gradients(network)
    calls = len(found)
    assert calls and all(found)
    with torch.no_grad():
        Precision(network, "bfloat16")(drawn(4, 3, 8, 8), torch.full((4,), 0.5))
    # Ours ask the one function always; it alone tells a gradient apart.
    assert len(found) == (2 * calls if name == "ours" else calls)


@pytest.mark.parametrize("name", ["ours", "diffusers"])
def test_a_block_that_is_run_again_has_the_same_attention(name):
    network = networks()[name]
    plain = gradients(network)
    network.enable_gradient_checkpointing()
    network.train()
    for mine, its in zip(gradients(network), plain, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=0)


def test_nothing_is_put_around_a_network_that_computes_in_float32():
    assert not isinstance(wide_attention(drawn(2, 3)), AttentionBy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert isinstance(wide_attention(drawn(2, 3)), AttentionBy)
        with torch.no_grad():
            assert not isinstance(wide_attention(drawn(2, 3)), AttentionBy)
