"""Images that are held out are read before any training, and enough of them."""

import numpy as np
import pytest
import torch

from vardiu.cli.options import parse_request
from vardiu.errors import ConfigError
from vardiu.problems.images import ImageProblem
from vardiu.settings.fields import ImageSettings


def problem(**settings):
    settings = {"side": 8, "channels": 1, "reference": 200, **settings}
    return ImageProblem(ImageSettings(data="digits", **settings), untaught=True)


def test_what_cannot_be_read_is_refused_with_the_inputs():
    with pytest.raises(ConfigError, match="nowhere.npz"):
        problem(held_out="nowhere.npz").inputs()


def test_few_images_are_refused(tmp_path):
    path = tmp_path / "few.npz"
    np.savez(path, x=np.zeros((5, 1, 8, 8), np.float32))
    with pytest.raises(ConfigError, match=r"few.npz.* has 5 images; at least 100 .*--held-out"):
        problem(held_out=str(path)).data.split  # noqa: B018


def test_by_default_the_halves_of_the_reference_are_compared():
    first, second = problem().data.split
    assert len(first) == len(second) == 100
    together = torch.cat([first, second]).flatten(1).unique(dim=0)
    assert len(together) > 195  # no image is in both, but for equal ones


def test_held_out_photographs_are_on_board():
    found = ImageSettings(
        data="photos-8", held_out="photos-8-held-out", side=8, channels=3, reference=200
    )
    real, held_out = ImageProblem(found, untaught=True).data.split
    assert len(real) == len(held_out) == 200 and not torch.equal(real, held_out)


def test_what_a_preset_holds_out_is_of_its_own_data_alone():
    """Other images were compared with held-out photographs, or refused for their shape when the
    student was already trained."""

    def held_out(*words):
        return parse_request("distill", ["patches", *words]).task.problem.held_out

    assert held_out() == held_out("--seed", "1") == held_out("--data", "photos")
    assert held_out() == "photos-held-out"
    assert held_out("--data", "mine") is None
    assert held_out("--data=mine", "--held-out=photos-held-out") == "photos-held-out"
    assert held_out("--data", "mine", "--held-out", "others") == "others"
