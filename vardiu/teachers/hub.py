r"""What is fetched from the hub: the files that patterns name, or one line that says why not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, require, shown

__all__ = ["fetched"]


TOKEN = "set HF_TOKEN to a token that may read it, or log in with `hf auth login`"


def fetched(source: str, revision: str | None, patterns: Sequence[str]) -> Path:
    r"""Returns the folder of the hub's cache that has a repository's files.

    Arguments:
        source: The id of the repository.
        revision: A branch, a tag or a commit; the default branch without.
        patterns: Which files; no others are fetched.

    Raises:
        ConfigError: They cannot be had; the message says why, and what helps.
    """
    hub = require("huggingface_hub", "hub")
    # The client's own failures: its errors of HTTP derive from those of the library it calls.
    kinds = require("huggingface_hub.errors", "hub")
    transport = kinds.HfHubHTTPError.__bases__[0]
    try:
        return Path(hub.snapshot_download(source, revision=revision, allow_patterns=[*patterns]))
    except (OSError, ValueError, transport) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{shown(source)} is no folder here, and cannot be had from the hub: {shown(reason)} "
            f"({_cure(source, revision, error, kinds)})"
        ) from error


def _cure(source: str, revision: str | None, error: Exception, kinds: Any) -> str:  # noqa: ANN401
    r"""Returns what helps against an error; `kinds` is the module of the client's own."""
    name = shown(source)
    if isinstance(error, kinds.GatedRepoError):
        return (
            f"its owner lets in those who agree to terms: do so on the page of {name}, and {TOKEN}"
        )
    if isinstance(error, kinds.RevisionNotFoundError):
        return (
            f"{name} has no revision {shown(revision)}: after @ stands a branch, a tag or a commit"
        )
    if isinstance(error, kinds.RepositoryNotFoundError | kinds.HFValidationError):
        return f"correct the path or the id; of a private one, {TOKEN}"
    if isinstance(error, OSError) and error.errno is not None:
        return "the hub's cache cannot be written: set HF_HOME to a folder with room"
    at = "" if revision is None else f" --revision {shown(revision)}"
    return (
        "if it is the path of a folder, correct it; else, where the hub is reached, `hf download "
        f"{name}{at} --local-dir FOLDER` writes one, and --teacher FOLDER reads it here"
    )
