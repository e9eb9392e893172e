"""Relations of feature maps against closed forms, and against the plain definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from vardiu.functional import relational
from vardiu.functional.relational import (
    feature_divergence,
    pair_relations,
    positions,
    queue_relations,
)
from vardiu.nn.taps import Activation


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def maps(seed: int) -> Tensor:
    """Post-rectifier maps of four images, of 16 channels and 4x4 positions."""
    return drawn(4, 16, 4, 4, seed=seed).relu() + 0.01


def plain_pairs(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The definition, a pair of maps at a time."""
    b, a, _ = student.shape
    total = student.new_zeros(())
    for i in range(b):
        for d in range(b):
            p, q = ((x[i] @ x[d].T / temperature).softmax(1) for x in (teacher, student))
            total = total + (p * (p / q).log()).sum()
    return total / (b * b * a)


def plain_queue(student: Tensor, teacher: Tensor, queue: Tensor, temperature: float) -> Tensor:
    p, q = ((x @ queue.T / temperature).softmax(1) for x in (teacher, student))
    return (p * (p / q).log()).sum(1).mean()


@pytest.mark.parametrize(
    ("teacher", "student", "temperature", "wanted"),
    [(0, 0.5, 1, 0.0263445860), (0, 0.5, 0.1, 0.0064429602), (0.2, -0.4, 1, 0.0353320553)],
)
def test_two_positions_of_one_map(teacher, student, temperature, wanted):
    def at(cosine: float) -> Tensor:
        return torch.tensor([[[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]]])

    found = pair_relations(at(student), at(teacher), temperature)
    assert found.item() == pytest.approx(wanted, abs=1e-10)


def test_a_queue_of_orthonormal_rows():
    eye = torch.eye(8)
    found = queue_relations(eye[1:2], eye[:1], eye, 0.1)
    assert found.item() == pytest.approx(9.9963692, abs=1e-7)


@pytest.mark.parametrize("block", [10**9, 700, 1])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_values_and_gradients_are_those_of_the_plain_definition(block, temperature, monkeypatch):
    monkeypatch.setattr(relational, "BLOCK", block)
    teacher, queue = positions(maps(0)), nn.functional.normalize(drawn(33, 16), dim=1)
    for ours, plain, rest in (
        (pair_relations, plain_pairs, (teacher, temperature)),
        (
            lambda x, *more: queue_relations(x.flatten(0, 1), *more),
            lambda x, *more: plain_queue(x.flatten(0, 1), *more),
            (teacher.flatten(0, 1), queue, temperature),
        ),
    ):
        found = []
        for loss in (ours, plain):
            x = maps(1).requires_grad_(True)
            value = loss(positions(x), *rest)
            (gradient,) = torch.autograd.grad(3 * value, x)
            found.append((value.detach(), gradient))
        torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-14)


def test_what_relations_do_not_see_and_what_they_do():
    teacher = maps(0)
    q, _ = torch.linalg.qr(drawn(16, 16))

    def rotated(x: Tensor, matrix: Tensor) -> Tensor:
        return torch.einsum("bchw,cd->bdhw", x, matrix)

    def loss(x: Tensor) -> float:
        return pair_relations(positions(x), positions(teacher)).item()

    assert abs(loss(rotated(teacher, q))) < 1e-14
    assert abs(loss(teacher * drawn(4, 1, 4, 4, seed=3).exp())) < 1e-14
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert loss(teacher.flatten(2)[..., order].view_as(teacher)) > 1e-3
    assert loss(teacher.roll(1, 0)) > 1e-3
    # A rotation of each image's own: relations within an image are the same, across are not.
    own = [torch.linalg.qr(drawn(16, 16, seed=i))[0] for i in range(4)]
    turned = torch.cat([rotated(teacher[i : i + 1], m) for i, m in enumerate(own)])
    for i in range(4):
        one = pair_relations(positions(turned[i : i + 1]), positions(teacher[i : i + 1]))
        assert abs(one.item()) < 1e-14
    assert loss(turned) > 1e-3
    # Of maps without a rectifier: positions permuted, two images swapped, rotations of their own.
    plain, sums = drawn(4, 16, 4, 4, seed=11), []
    for x in (
        plain.flatten(2)[..., order].view_as(plain),
        plain[[1, 0, 2, 3]],
        torch.cat([rotated(plain[i : i + 1], m) for i, m in enumerate(own)]),
    ):
        sums.append(pair_relations(positions(x), positions(plain)).item())
    assert sums == pytest.approx([0.055, 0.039, 0.040], abs=6e-3)
    # Another image in one place of the batch changes what the others are taught.
    x = maps(1)
    changed = torch.cat([teacher[:3], maps(5)[:1]])
    gradients = []
    for t in (teacher, changed):
        leaf = x.clone().requires_grad_(True)
        pair_relations(positions(leaf), positions(t)).backward()
        gradients.append(leaf.grad[0])
    assert (gradients[0] - gradients[1]).abs().max() > 1e-6


def test_one_position_a_map_has_no_relations():
    x = positions(drawn(5, 8)[:, :, None]).requires_grad_(True)
    value = pair_relations(x, positions(drawn(5, 8, seed=1)[:, :, None]))
    value.backward()
    assert value.item() == 0 and not x.grad.any()


def test_sharpened_features():
    student, teacher = drawn(5, 7).requires_grad_(True), drawn(5, 7, seed=1)
    feature_divergence(student, teacher, 0.9).backward()
    wanted = (student.softmax(1) - (teacher / 0.9).softmax(1)).detach() / 5
    torch.testing.assert_close(student.grad, wanted)
    for sharpness, still in ((1.0, True), (0.9, False)):
        same = teacher.clone().requires_grad_(True)
        feature_divergence(same, teacher, sharpness).backward()
        assert (same.grad.abs().max() < 1e-15) == still
    best = (teacher / 0.9 + 3).requires_grad_(True)
    assert feature_divergence(best, teacher, 0.9).abs() < 1e-14


def test_positions_keep_their_channels_together():
    rows = positions(torch.arange(24.0).view(2, 3, 2, 2))
    wanted = torch.tensor([0.0, 4.0, 8.0])
    torch.testing.assert_close(rows[0, 0], wanted / wanted.norm())
    torch.testing.assert_close(rows.norm(dim=2), torch.ones(2, 4))
    assert positions(torch.zeros(1, 3, 2)).eq(0).all()


def test_a_part_of_any_module_is_tapped_before_a_rectifier_works_in_place():
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Flatten()).train()
    found = Activation(module, "0")
    x = drawn(2, 1, 5, 5).requires_grad_(True)
    maps = found.train()(x)
    torch.testing.assert_close(maps, module[0](x))
    assert (maps < 0).any() and not module.training and not module[0]._forward_hooks
    maps.sum().backward()
    assert x.grad.any() and not any(p.requires_grad for p in module.parameters())
    with pytest.raises(ValueError, match="no tap 'O'; did you mean|no tap 'O'"):
        Activation(module, "O")
