"""The pictures of runs: blank, but where they are asked for."""

import inspect

import numpy as np
from PIL import Image

from vardiu.problems import densities, digits, image_scores, linear, restoration, toy, vectors
from vardiu.reports import curves, samples
from vardiu.runs import listeners
from vardiu.storage.files import whole_file


def are(patch, made):
    """Has the pictures of problems and of runs be blank or drawn.

    Arguments:
        patch: pytest's `MonkeyPatch`.
        made: `blank` or `drawn`.
    """
    for module in (digits, image_scores, restoration):
        patch.setattr(module, "image_grid", made(samples.image_grid))
    for module in (densities, linear, toy, vectors):
        patch.setattr(module, "scatter_grid", made(samples.scatter_grid))
    for name in ("convergence", "curves"):
        patch.setattr(listeners, name, made(getattr(curves, name)))


def drawn(real):
    return real


def blank(real):
    """Returns a function that takes what a real one takes, and writes an empty picture as it does;
    samples of another shape are an error here too."""
    taken = inspect.signature(real)

    def draw(*words, **named):
        given = taken.bind(*words, **named).arguments
        for _, samples_of_two in given.get("panels", ()):
            _x, _y = samples_of_two.T
        if (density := given.get("log_density")) is not None:
            assert density(np.zeros((3, 2))).shape == (3,)
        for _, images in given["rows"] if real.__name__ == "image_grid" else ():
            _n, _c, _h, _w = images.shape
        with whole_file(given["path"]) as partial:
            Image.new("L", (8, 8)).save(partial, format="png")
        return given["path"]

    return draw
