"""The networks of EDM and EDM2 against other evaluations of the same tensors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vardiu.nn import DhariwalUNet, EDM2UNet, Precision, SongUNet
from vardiu.nn.edm2 import mp_cat, mp_silu, mp_sum, normalise
from vardiu.nn.edm_blocks import norm
from vardiu.nn.layout import attend, resample, taps_2d

TIGHT = {"rtol": 1e-9, "atol": 1e-9}  # float64: the order of sums differs, nothing else


def stirred(model, scale=0.1):
    """Gives every parameter a value, those that start at zero too."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn_like(parameter)
    return model.eval()


# -- Resampling ------------------------------------------------------------------------------


def up_by_hand(x, taps):
    """Zeros between pixels, then the filter along each axis, twice its sum."""
    b, c, h, w = x.shape
    wide = x.new_zeros(b, c, 2 * h, 2 * w)
    wide[:, :, ::2, ::2] = x
    line = torch.tensor(taps, dtype=x.dtype)
    line = 2 * line / line.sum()
    left = len(taps) // 2
    wide = F.pad(wide, (left, left - 1, left, left - 1))
    columns = sum(t * wide[:, :, :, i : i + 2 * w] for i, t in enumerate(line))
    return sum(t * columns[:, :, i : i + 2 * h] for i, t in enumerate(line))


def down_by_hand(x, taps):
    """The filter along each axis, then every other pixel."""
    b, c, h, w = x.shape
    line = torch.tensor(taps, dtype=x.dtype)
    line = line / line.sum()
    pad = len(taps) // 2 - 1
    x = F.pad(x, (pad,) * 4)
    columns = sum(t * x[:, :, :, i : i + w - 1 : 2] for i, t in enumerate(line))
    return sum(t * columns[:, :, i : i + h - 1 : 2] for i, t in enumerate(line))


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_filters_keep_constants_and_are_what_they_say(taps):
    kernel, x = taps_2d(taps), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(resample(x, kernel, "up"), up_by_hand(x, taps), **TIGHT)
    torch.testing.assert_close(resample(x, kernel, "down"), down_by_hand(x, taps), **TIGHT)
    ones = torch.full((1, 2, 8, 8), 3.0)
    for mode in ("up", "down"):
        inner = resample(ones, kernel, mode)[:, :, 1:-1, 1:-1]
        torch.testing.assert_close(inner, torch.full_like(inner, 3.0), **TIGHT)
    if taps == (1, 1):
        torch.testing.assert_close(resample(x, kernel, "down"), F.avg_pool2d(x, 2), **TIGHT)
        twice = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(resample(x, kernel, "up"), twice, **TIGHT)


def test_groups_are_of_at_least_four_channels_and_at_most_thirty_two():
    assert [norm(c, 1e-5).num_groups for c in (4, 8, 64, 128, 256)] == [1, 2, 16, 32, 32]
    x = 3 + 2 * torch.randn(2, 8, 5, 5)
    y = norm(8, 1e-6)(x).reshape(2, 2, -1)
    torch.testing.assert_close(y.mean(2), torch.zeros(2, 2), **TIGHT)
    torch.testing.assert_close(y.var(2, correction=0), torch.ones(2, 2), rtol=0, atol=1e-5)


def test_attention_is_a_softmax_over_pixels_of_each_head():
    heads, d, side = 2, 3, 4
    qkv = torch.randn(2, 3 * heads * d, side, side)
    wanted = torch.zeros(2, heads * d, side, side)
    for b in range(2):
        for head in range(heads):
            rows = [qkv[b, 3 * (head * d) + i : 3 * (head + 1) * d : 3].flatten(1) for i in range(3)]  # fmt: skip
            q, k, v = rows
            weights = torch.exp(q.T @ k / math.sqrt(d))
            weights = weights / weights.sum(1, keepdim=True)
            wanted[b, head * d : (head + 1) * d] = (v @ weights.T).reshape(d, side, side)
    torch.testing.assert_close(attend(qkv, heads), wanted, **TIGHT)


# -- DDPM++ and NCSN++ -----------------------------------------------------------------------


def conv(s, name, x, kernel=3):
    return F.conv2d(x, s[f"{name}.weight"], s[f"{name}.bias"], padding=kernel // 2)


def group(s, name, x):
    channels = x.shape[1]
    weight, bias = s[f"{name}.weight"], s[f"{name}.bias"]
    return F.group_norm(x, min(32, channels // 4), weight, bias, eps=1e-6)


def block(s, name, x, emb, taps, change=lambda x, taps: x):
    """A block, from the diagram of Song et al., with sums rescaled."""
    h = conv(s, f"{name}.conv0", change(F.silu(group(s, f"{name}.norm0", x)), taps))
    h = h + (emb @ s[f"{name}.affine.weight"].T + s[f"{name}.affine.bias"])[:, :, None, None]
    h = conv(s, f"{name}.conv1", F.silu(group(s, f"{name}.norm1", h)))
    x = change(x, taps)
    x = conv(s, f"{name}.skip", x, 1) if f"{name}.skip.weight" in s else x
    x = (x + h) / math.sqrt(2)
    if f"{name}.qkv.weight" in s:
        h = attend(conv(s, f"{name}.qkv", group(s, f"{name}.norm2", x), 1), 1)
        x = (x + conv(s, f"{name}.proj", h, 1)) / math.sqrt(2)
    return x


def song_by_hand(s, x, c_noise, label, *, taps, fourier, encoder, decoder, width):
    """Two resolutions of one block, 16 and 8 pixels wide, attention at 8: written out."""
    if fourier:
        angles = 2 * math.pi * c_noise[:, None] * s["map_noise.freqs"]
    else:
        n = width // 2
        angles = c_noise[:, None] * 10000.0 ** (-torch.arange(n) / (n - 1))
    emb = torch.cat([angles.sin(), angles.cos()], 1)
    classes = s["map_label.weight"].shape[1]
    hot = torch.eye(classes + 1)[label][:, :classes] * math.sqrt(classes)
    emb = emb + hot @ s["map_label.weight"].T + s["map_label.bias"]
    for layer in ("map_layer0", "map_layer1"):
        emb = F.silu(emb @ s[f"{layer}.weight"].T + s[f"{layer}.bias"])

    a = conv(s, "enc.16x16_conv", x)
    b = block(s, "enc.16x16_block0", a, emb, taps)
    c = block(s, "enc.8x8_down", b, emb, taps, down_by_hand)
    if encoder == "skip":
        c = c + conv(s, "enc.8x8_aux_skip", down_by_hand(x, taps), 1)
    if encoder == "residual":
        reach = 1 + len(taps) // 2 - 1
        aux = F.conv2d(x, s["enc.8x8_aux_residual.weight"], padding=reach)
        f = torch.tensor(taps, dtype=x.dtype)
        f = f.outer(f) / f.sum() ** 2
        aux = torch.stack([F.conv2d(aux[:, i : i + 1], f[None, None], stride=2)[:, 0] for i in range(aux.shape[1])], 1)  # fmt: skip
        c = (c + aux + s["enc.8x8_aux_residual.bias"][:, None, None]) / math.sqrt(2)
    d = block(s, "enc.8x8_block0", c, emb, taps)

    h = block(s, "dec.8x8_in1", block(s, "dec.8x8_in0", d, emb, taps), emb, taps)
    h = block(s, "dec.8x8_block0", torch.cat([h, d], 1), emb, taps)
    h = block(s, "dec.8x8_block1", torch.cat([h, c], 1), emb, taps)
    low = h
    h = block(s, "dec.16x16_up", h, emb, taps, up_by_hand)
    h = block(s, "dec.16x16_block0", torch.cat([h, b], 1), emb, taps)
    h = block(s, "dec.16x16_block1", torch.cat([h, a], 1), emb, taps)
    out = conv(s, "dec.16x16_aux_conv", F.silu(group(s, "dec.16x16_aux_norm", h)))
    if decoder == "skip":
        low = conv(s, "dec.8x8_aux_conv", F.silu(group(s, "dec.8x8_aux_norm", low)))
        out = out + up_by_hand(low, taps)
    return out


@pytest.mark.parametrize(
    "options",
    [
        {},  # DDPM++
        {"embedding_type": "fourier", "encoder_type": "residual", "resample_filter": [1, 3, 3, 1], "channel_mult_noise": 2},  # NCSN++
        {"encoder_type": "skip", "decoder_type": "skip", "resample_filter": [1, 3, 3, 1]},
    ],
    ids=["ddpm++", "ncsn++", "skip"],
)  # fmt: skip
def test_song_unet_is_the_papers_diagram(options):
    model = SongUNet(
        16, 2, 3, label_dim=4, augment_dim=5, model_channels=8, channel_mult=[1, 2],
        num_blocks=1, attn_resolutions=[8], **options,
    )  # fmt: skip
    model = stirred(model)
    x, c_noise, label = torch.randn(3, 2, 16, 16), torch.randn(3), torch.tensor([0, 3, 4])
    s = model.state_dict()
    assert s["map_augment.weight"].shape == (8 * options.get("channel_mult_noise", 1), 5)
    wanted = song_by_hand(
        s, x, c_noise, label, width=8,
        taps=options.get("resample_filter", [1, 1]),
        fourier=options.get("embedding_type") == "fourier",
        encoder=options.get("encoder_type"),
        decoder=options.get("decoder_type"),
    )  # fmt: skip
    assert wanted.std() > 0.1
    torch.testing.assert_close(model(x, c_noise, label), wanted, **TIGHT)


def test_attention_of_the_decoder_is_at_a_resolutions_last_block():
    def of(cls):
        model = cls(8, 1, 1, model_channels=64, channel_mult=[1], num_blocks=2, attn_resolutions=[8])  # fmt: skip
        return sorted({n.split(".")[1] for n in model.state_dict() if "dec" in n and "qkv" in n})

    assert of(SongUNet) == ["8x8_block2", "8x8_in0"]
    assert of(DhariwalUNet) == ["8x8_block0", "8x8_block1", "8x8_block2", "8x8_in0"]


# -- ADM -------------------------------------------------------------------------------------


def diffusers_adm(side, channels, classes):
    diffusers = pytest.importorskip("diffusers")
    return diffusers.UNet2DModel(
        sample_size=side,
        in_channels=3,
        out_channels=3,
        block_out_channels=(channels, channels),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=64,
        norm_num_groups=32,
        attn_norm_num_groups=32,
        norm_eps=1e-5,
        num_class_embeds=classes,
        flip_sin_to_cos=True,
        freq_shift=0,
    )


def copy(a, b):
    a.load_state_dict({"weight": b.weight, "bias": b.bias})


def copy_block(block, resnet, attention=None):
    """Copies a block of ours into diffusers' separate modules."""
    copy(resnet.norm1, block.norm0)
    copy(resnet.conv1, block.conv0)
    copy(resnet.time_emb_proj, block.affine)
    copy(resnet.norm2, block.norm1)
    copy(resnet.conv2, block.conv1)
    if resnet.conv_shortcut is not None:
        copy(resnet.conv_shortcut, block.skip)
    if attention is not None:
        copy(attention.group_norm, block.norm2)
        weight, bias = block.qkv.weight[:, :, 0, 0], block.qkv.bias
        for i, linear in enumerate((attention.to_q, attention.to_k, attention.to_v)):
            linear.load_state_dict({"weight": weight[i::3], "bias": bias[i::3]})
        out = {"weight": block.proj.weight[:, :, 0, 0], "bias": block.proj.bias}
        attention.to_out[0].load_state_dict(out)


def test_dhariwal_unet_is_diffusers_adm():
    """Whole networks of 128 channels: an implementation that shares no line with ours."""
    channels, classes = 128, 5
    other = diffusers_adm(8, channels, classes).eval()
    model = DhariwalUNet(
        8, 3, 3, label_dim=classes, model_channels=channels, channel_mult=[1, 1], num_blocks=1,
        attn_resolutions=[4],
    )  # fmt: skip
    model = stirred(model, 0.02)

    with torch.no_grad():
        copy(other.conv_in, model.enc["8x8_conv"])
        copy(other.time_embedding.linear_1, model.map_layer0)
        copy(other.time_embedding.linear_2, model.map_layer1)
        other.class_embedding.weight.copy_(model.map_label.weight.T)
        down, low = other.down_blocks
        copy_block(model.enc["8x8_block0"], down.resnets[0])
        copy_block(model.enc["4x4_down"], down.downsamplers[0])
        copy_block(model.enc["4x4_block0"], low.resnets[0], low.attentions[0])
        middle = other.mid_block
        copy_block(model.dec["4x4_in0"], middle.resnets[0], middle.attentions[0])
        copy_block(model.dec["4x4_in1"], middle.resnets[1])
        first, second = other.up_blocks
        for i in range(2):
            copy_block(model.dec[f"4x4_block{i}"], first.resnets[i], first.attentions[i])
            copy_block(model.dec[f"8x8_block{i}"], second.resnets[i])
        copy_block(model.dec["8x8_up"], first.upsamplers[0])
        copy(other.conv_norm_out, model.out_norm)
        copy(other.conv_out, model.out_conv)
        x, c_noise, label = (
            torch.randn(2, 3, 8, 8),
            torch.tensor([-0.7, 3.0]),
            torch.tensor([1, 4]),
        )
        wanted = other(x, c_noise, class_labels=label).sample
        found = model(x, c_noise, label)
    assert wanted.std() > 0.05
    # Its embedding of the level is computed in float32.
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model(x, c_noise, label.flip(0)), wanted, atol=1e-3)


# -- EDM2 ------------------------------------------------------------------------------------


def edm2(**options):
    defaults = {"label_dim": 10, "model_channels": 64, "channel_mult": [1, 2], "num_blocks": 2, "attn_resolutions": [8]}  # fmt: skip
    return EDM2UNet(16, 3, **(defaults | options)).eval()


def test_elementary_operations_preserve_magnitude():
    a, b = torch.randn(2, 400_000)
    for t in (0.0, 0.3, 0.5, 1.0):
        assert abs(mp_sum(a, b, t).square().mean() - 1) < 5 * math.sqrt(2 / a.numel())
    # 0.596 is the constant to three digits, within one part in a thousand.
    assert abs(mp_silu(a).square().mean().sqrt() - 1) < 5e-3
    x, y = torch.randn(1, 30, 64, 64), torch.randn(1, 90, 64, 64)
    for t in (0.3, 0.5):
        joined = mp_cat(x, y, t)
        assert joined.shape[1] == 120
        assert abs(joined.square().mean() - 1) < 0.02  # 491,520 numbers of unequal weight
        share = joined[:, 30:].square().sum() / joined.square().sum()
        assert abs(share - t**2 / (t**2 + (1 - t) ** 2)) < 0.01
    z = 7 * torch.randn(4, 5, 6)
    rms = normalise(z, [1, 2]).square().mean((1, 2)).sqrt()
    torch.testing.assert_close(rms, torch.ones(4), rtol=0, atol=1e-4)


def test_unit_variance_in_is_unit_variance_out():
    model = edm2()
    nn.init.ones_(model.out_gain)
    sizes = []
    for name, module in model.named_modules():
        if name.startswith(("enc.", "dec.")) and name.count(".") == 1:
            module.register_forward_hook(lambda _m, _i, out: sizes.append(out.square().mean().sqrt()))  # fmt: skip
    with torch.no_grad():
        out = model(torch.randn(8, 3, 16, 16), torch.randn(8), torch.arange(8))
    # Random weights, and zeros beyond the borders: magnitudes are kept on expectation only.
    assert len(sizes) == 15 and all(0.7 < size < 1.3 for size in sizes), sizes
    assert 0.8 < out.square().mean().sqrt() < 1.2


def test_weights_count_by_direction_only():
    model = edm2()
    with torch.no_grad():
        model.out_gain.fill_(1.0)
        for name, p in model.named_parameters():
            if name.endswith("emb_gain"):
                p.fill_(0.5)
        inputs = torch.randn(2, 3, 16, 16), torch.randn(2), torch.tensor([0, 10])
        before = model(*inputs)
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(torch.rand(len(p)).add(0.5).reshape(-1, *[1] * (p.ndim - 1)))
        after = model(*inputs)
    # The constant 1e-4 in the norm is all that depends on the scale.
    assert 0 < (after - before).abs().max() < 5e-3


def unit(w, gain=1.0):
    flat = w.flatten(1)
    n = flat.shape[1]
    norm = flat.norm(dim=1) / math.sqrt(n) + 1e-4
    return (flat / norm[:, None] / math.sqrt(n) * gain).reshape(w.shape)


def test_blocks_are_the_papers_diagram():
    """One of the encoder, with a skip convolution and attention, and one of the decoder."""
    model = stirred(edm2(), 0.3)
    x, emb = torch.randn(2, 64, 8, 8), torch.randn(2, 128)

    def rms(a, dim):
        return a / (1e-4 + a.square().mean(dim, keepdim=True).sqrt())

    def silu(a):
        return a * torch.sigmoid(a) / 0.596

    def by_hand(b, x, heads, first):
        def conv(layer, a):
            return F.conv2d(a, unit(layer.weight), padding=layer.weight.shape[-1] // 2)

        if first:
            x = rms(conv(b.conv_skip, x), 1)
        h = conv(b.conv_res0, silu(x))
        h = silu(h * (emb @ unit(b.emb_linear.weight, b.emb_gain).T + 1)[:, :, None, None])
        h = conv(b.conv_res1, h)
        x = x if first else conv(b.conv_skip, x)
        x = (0.7 * x + 0.3 * h) / math.sqrt(0.7**2 + 0.3**2)
        parts = conv(b.attn_qkv, x).reshape(2, heads, 64, 3, 64)
        q, k, v = (rms(parts[:, :, :, i], 2) for i in range(3))
        weights = torch.einsum("bhcq,bhck->bhqk", q, k).div(8).softmax(-1)
        h = conv(b.attn_proj, torch.einsum("bhqk,bhck->bhcq", weights, v).reshape(x.shape))
        return (0.7 * x + 0.3 * h) / math.sqrt(0.7**2 + 0.3**2)

    with torch.no_grad():
        b = model.enc["8x8_block0"]
        torch.testing.assert_close(b(x, emb), by_hand(b, x, 2, True), **TIGHT)
        b, wide = model.dec["8x8_block2"], torch.randn(2, 192, 8, 8)
        torch.testing.assert_close(b(wide, emb), by_hand(b, wide, 2, False), **TIGHT)
        assert (model.enc["16x16_block0"](1e6 * torch.randn(2, 64, 16, 16), emb).abs() <= 256).all()  # fmt: skip


def test_embedding_of_edm2_mixes_level_and_class():
    model = stirred(edm2())
    c_noise, label = torch.randn(2), torch.tensor([3, 10])
    s = model.state_dict()
    level = math.sqrt(2) * torch.cos(torch.outer(c_noise, s["emb_fourier.freqs"]) + s["emb_fourier.phases"])  # fmt: skip
    level = level @ unit(s["emb_noise.weight"]).T
    of_class = unit(s["emb_label.weight"])[:, 3] * math.sqrt(10)
    mixed = torch.stack([level[0] + of_class, level[1]]) / math.sqrt(2)  # the last: no class
    wanted = F.silu(mixed) / 0.596
    torch.testing.assert_close(model._embed(c_noise, label), wanted, **TIGHT)


@pytest.mark.parametrize("cls", [SongUNet, DhariwalUNet, EDM2UNet])
def test_labels_are_checked(cls):
    sizes = (8, 1) if cls is EDM2UNet else (8, 1, 1)
    options = {"model_channels": 8, "channel_mult": [1], "num_blocks": 1}
    model = cls(*sizes, label_dim=3, **options)
    x, c_noise = torch.randn(2, 1, 8, 8), torch.zeros(2)
    with pytest.raises(ValueError, match="3 classes: give `label`"):
        model(x, c_noise)
    with pytest.raises(ValueError, match=r"within 0\.\.3, got 0\.\.4"):
        model(x, c_noise, torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="must be integers"):
        model(x, c_noise, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="must not be given"):
        cls(*sizes, **options)(x, c_noise, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="encoder_type must be one of"):
        SongUNet(8, 1, 1, encoder_type="magic")


PUBLISHED = {
    "cifar10 ddpm++": (SongUNet, 56, {"img_resolution": 32, "label_dim": 10, "channel_mult": [2, 2, 2]}),
    "ffhq ddpm++": (SongUNet, 62, {"img_resolution": 64, "channel_mult": [1, 2, 2, 2]}),
    "imagenet-64 adm": (DhariwalUNet, 296, {"img_resolution": 64, "label_dim": 1000}),
    "edm2-xs": (EDM2UNet, 125, {"model_channels": 128}),
    "edm2-s": (EDM2UNet, 280, {"model_channels": 192}),
    "edm2-m": (EDM2UNet, 498, {"model_channels": 256}),
    "edm2-l": (EDM2UNet, 777, {"model_channels": 320}),
    "edm2-xl": (EDM2UNet, 1119, {"model_channels": 384}),
    "edm2-xxl": (EDM2UNet, 1523, {"model_channels": 448}),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_papers_numbers_of_parameters(name):
    """In millions, as the papers state them; EDM2 on latents of 64 x 64 x 4, of 1000 classes."""
    cls, millions, options = PUBLISHED[name]
    channels = {"in_channels": 3, "out_channels": 3, "augment_dim": 9}
    if cls is EDM2UNet:
        channels = {"img_channels": 4, "img_resolution": 64, "label_dim": 1000}
    with torch.device("meta"):
        model = cls(**channels, **options)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert abs(count / 1e6 - millions) < 0.6


@pytest.mark.parametrize("cls", [SongUNet, DhariwalUNet, EDM2UNet])
def test_half_precision_around_single_weights(cls):
    """Under autocast the answer is that of single precision, to bfloat16's eight bits."""
    sizes = (8, 1) if cls is EDM2UNet else (8, 1, 1)
    model = cls(*sizes, label_dim=3, model_channels=64, channel_mult=[1, 1], num_blocks=1, attn_resolutions=[4])  # fmt: skip
    model = stirred(model.float(), 0.02)
    with torch.no_grad():
        if cls is EDM2UNet:
            model.out_gain.fill_(1.0)
        x, c_noise = torch.randn(4, 1, 8, 8).float(), torch.randn(4).float()
        inputs = x, c_noise, torch.arange(4)
        wanted, found = model(*inputs), Precision(model, "bfloat16")(*inputs)
    assert found.dtype == torch.float32
    assert 0 < (found - wanted).square().mean().sqrt() < 0.03 * wanted.square().mean().sqrt()


@pytest.mark.parametrize("cls", [SongUNet, DhariwalUNet, EDM2UNet])
def test_a_label_that_is_none_is_refused_or_no_number(cls, monkeypatch):
    """On the host it is an error. Where to look would be to wait, its row alone is no number."""
    sizes = (8, 1) if cls is EDM2UNet else (8, 1, 1)
    model = cls(*sizes, label_dim=3, model_channels=32, channel_mult=[1], num_blocks=1, attn_resolutions=[])  # fmt: skip
    model = stirred(model)
    if cls is EDM2UNet:
        model.out_gain.data.fill_(1.0)
    x, c_noise = torch.randn(4, 1, 8, 8), torch.randn(4)
    for wrong in (4, -1):
        label = torch.tensor([0, wrong, 3, 2])  # 3 stands for no class
        with pytest.raises(ValueError, match=r"label must be within 0..3, got (0..4|-1..3)"):
            model(x, c_noise, label)
        with monkeypatch.context() as patch, torch.no_grad():
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            found = model(x, c_noise, label)
        others = torch.tensor([0, 2, 3])
        assert found[1].isnan().all()
        torch.testing.assert_close(found[others], model(x[others], c_noise[others], label[others]))
    there = model.to("meta")
    assert there(x.to("meta"), c_noise.to("meta"), label.to("meta")).device.type == "meta"
