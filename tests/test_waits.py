"""What never changes is sent to an accelerator once, not in each step."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from vardiu.functional.perception import sobel
from vardiu.functional.tensors import PLACED, placed, sent
from vardiu.metrics.features import PrincipalComponents, RandomCosines, RandomFeatures
from vardiu.nn import EDM2UNet

# Each space of features that a student may be trained in, and the shape of a sample.
SPACES = {
    "cosines": (lambda x: RandomCosines(x.flatten(1)), (192,)),
    "filters": (lambda x: RandomFeatures((3, 8, 8), x), (3, 8, 8)),
    "components": (PrincipalComponents, (3, 8, 8)),
}


@pytest.mark.parametrize("kind", SPACES)
def test_constants_of_features_are_sent_to_an_accelerator_once(kind, accelerator):
    make, shape = SPACES[kind]
    space = make(torch.randn(200, 3, 8, 8))
    known = space.of(torch.zeros(2, *shape))
    x = torch.empty(2, *shape, device=accelerator)
    with mock.patch("vardiu.functional.tensors.sent", wraps=sent) as spied:
        found = [space.of(x).shape for _ in range(3)]
    assert found == 3 * [known.shape]
    assert len({id(call.args[0]) for call in spied.call_args_list}) == spied.call_count
    assert 0 < spied.call_count <= 5
    assert sobel(torch.empty(2, 3, 8, 8, device=accelerator)).shape == (2, 3, 8, 8)


def test_a_constant_is_kept_in_each_type_and_goes_with_its_tensor():
    constant, like = torch.randn(3), torch.empty(1, device="meta")
    before = len(PLACED)
    there = placed(constant, like)
    assert placed(constant, like) is there and there.device.type == "meta"
    assert placed(constant, like.float()).dtype == torch.float32
    assert placed(constant, torch.empty(1)) is constant  # on its own device nothing is kept
    assert len(PLACED) == before + 1
    del constant, there
    assert len(PLACED) == before


def test_a_network_of_edm2_makes_its_filter_where_it_is(accelerator):
    options = {"label_dim": 10, "model_channels": 64, "channel_mult": [1, 2], "num_blocks": 1}
    network = EDM2UNet(16, 3, **options, attn_resolutions=[8]).eval().to(accelerator)
    x, sigma = torch.empty(2, 3, 16, 16, device=accelerator), torch.empty(2, device=accelerator)
    label = torch.zeros(2, dtype=torch.long, device=accelerator)
    assert network(x, sigma, label=label).shape == x.shape
