r"""Files, checkpoints, run folders, provenance; knows nothing of models."""

from .artefacts import Artefacts
from .checkpoints import Checkpoints, load_state, save_state
from .code import load_object
from .files import write_text_atomic
from .run_folder import RunFolder

__all__ = [
    "Artefacts",
    "Checkpoints",
    "load_state",
    "save_state",
    "load_object",
    "write_text_atomic",
    "RunFolder",
]
